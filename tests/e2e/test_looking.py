"""ls, find, diff, stats: what people look for in snapshots, through the command line."""

import json
import os
import stat

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.xdist_group("looking")


OLD = 1_600_000_000
"""2020-09-13 12:26:40 UTC: when everything was modified that a test doesn't say otherwise of."""


def write(path, data, at=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    os.utime(path, (at, at))


def settle(root):
    for folder, _, names in os.walk(root):
        os.utime(folder, (OLD, OLD))
        for name in names:
            if os.lstat(os.path.join(folder, name)).st_mtime > OLD + 10**8:
                os.utime(os.path.join(folder, name), (OLD, OLD), follow_symlinks=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Four snapshots of a tree; `ids` has theirs."""
    site = Site(tmp_path_factory.mktemp("looking"))
    root = site.source
    write(root / "etc/fstab", "first")
    write(root / "etc/hosts", "hosts")
    write(root / "etc/deep/er/app.conf", "deep")
    write(root / "home/a/photo.JPG", os.urandom(300_000))
    write(root / "home/a/notes", "notes of a")
    write(root / "home/b/gone", "here once")
    write(root / "home/b/album/one", "picture one")
    write(root / "home/b/album/two", "picture two")
    write(root / "home/b/album/sub/three", "picture three")
    write(root / "home/mode", "mode")
    os.symlink("notes", root / "home/a/link")
    write(root / os.fsdecode(b"odd \xff\x1b[31m\\name"), "odd")
    write(root / "odd/[x]", "brackets")
    settle(root)
    site.ids = [site.backup()["snapshot"]]
    write(root / "etc/fstab", "second", OLD + 1000)
    (root / "home/b/gone").unlink()
    site.ids.append(site.backup()["snapshot"])
    write(root / "etc/fstab", "first")
    (root / "home/b/album").rename(root / "home/a/pictures")
    (root / "home/a/notes").rename(root / "home/b/notes kept")
    (root / "home/mode").chmod(0o600)
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to("fstab")
    os.utime(root / "etc/hosts", (OLD, OLD), follow_symlinks=False)
    write(root / "home/new", b"n" * 5000, OLD + 2000)
    site.ids.append(site.backup()["snapshot"])
    write(root / "home/a/pictures/two", "picture 2!!", OLD + 3000)
    site.ids.append(site.backup()["snapshot"])
    return site


def look(site, command, *arguments, **kwargs):
    return site.run(command, *site.where, *arguments, **kwargs)


def names(site, done):
    return [line.removeprefix(f"{site.source}/") for line in done.stdout.splitlines()]


class TestLs:
    def test_globs(self, site):
        listed = look(site, "ls", "latest", f"{site.source}/home/?/[np]*")
        assert names(site, listed) == ["home/a/photo.JPG", "home/a/pictures", "home/b/notes kept"]

    def test_several_paths_and_a_name_with_brackets_is_that_name_first(self, site):
        listed = look(site, "ls", "latest", f"{site.source}/odd/[x]", f"{site.source}/etc/deep")
        assert names(site, listed) == ["odd/[x]", "etc/deep/er"]

    def test_a_glob_with_all_that_is_below_once(self, site):
        found = ["etc/deep", "etc/deep/er", "etc/deep/er/app.conf"]
        assert names(site, look(site, "ls", "latest", f"{site.source}/etc/d**", "-R")) == found
        everything = look(site, "ls", "latest", "/**", "-R").stdout.splitlines()
        assert len(everything) == len(set(everything)) > 20

    def test_a_glob_that_nothing_fits(self, site):
        done = look(site, "ls", "latest", "/nowhere/*.x", code=2)
        assert "nothing in this snapshot fits" in done.stderr


class TestFind:
    def find(self, site, *arguments):
        lines = look(site, "find", *arguments, "--json").stdout.splitlines()
        return {f["path"].removeprefix(f"{site.source}/"): f for f in map(json.loads, lines)}

    def test_which_snapshots_have_a_file_in_which_versions(self, site):
        found = self.find(site, "fstab")
        assert list(found) == ["etc/fstab"]
        first, second = found["etc/fstab"]["versions"]
        assert first["snapshots"] == [site.ids[0], *site.ids[2:]]
        assert second["snapshots"] == [site.ids[1]]
        assert (first["size"], second["size"]) == (5, 6)
        assert first["content"] != second["content"]
        text = look(site, "find", "fstab").stdout
        assert f"    in {site.ids[2]} to {site.ids[3]} (2 snapshots)\n" in text
        assert f"    in {site.ids[0]}\n" in text

    def test_content_that_is_equal_where_attributes_differ(self, site):
        old, new = self.find(site, "mode")["home/mode"]["versions"]
        assert old["content"] == new["content"]
        assert old["mode"] != new["mode"] == "0600"

    def test_what_is_gone_says_so(self, site):
        assert self.find(site, "gone")["home/b/gone"]["in_newest"] is False
        text = look(site, "find", "gone").stdout
        assert f"  not in {site.ids[3]}, the newest that was looked at" in text

    def test_what_fits_in_one_snapshot(self, site):
        found = self.find(
            site, f"{site.source}/*", "--type", "f", "--size", "+4KB", "--size", "-100KB", "--newer", "2020-09-13T12:59"
        )
        assert list(found) == ["home/new"]
        assert list(self.find(site, "--regex", "-i", "PHOTO.*g$", "--older", "1d", "--snapshot", "latest")) == [
            "home/a/photo.JPG"
        ]

    def test_several_snapshots(self, site):
        arguments = ["gone", "--snapshot", site.ids[1], "--snapshot", site.ids[0]]
        (version,) = self.find(site, *arguments)["home/b/gone"]["versions"]
        assert version["snapshots"] == [site.ids[0]]

    @pytest.mark.parametrize("first", [0, 3])
    def test_named_in_any_order_the_newest_is_the_newest(self, site, first):
        arguments = ["--snapshot", site.ids[first], "--snapshot", site.ids[3 - first]]
        assert self.find(site, "gone", *arguments)["home/b/gone"]["in_newest"] is False
        assert self.find(site, "new", *arguments)["home/new"]["in_newest"] is True

    def test_names_do_no_harm_on_a_terminal(self, site):
        assert "\x1b" not in look(site, "find", "odd*").stdout

    def test_a_host_that_is_not_there(self, site):
        assert "no snapshot of host 'nobody'" in look(site, "find", "x", "--host", "nobody", code=2).stderr

    def test_what_cannot_be_looked_for(self, site):
        assert "vaultik: pattern '(': " in look(site, "find", "--regex", "(", code=2).stderr


class TestDiff:
    def diff(self, site, *arguments, **kwargs):
        done = look(site, "diff", *arguments, **kwargs)
        return done.stdout.replace(f"{site.source}/", "").splitlines()

    def test_what_a_day_changed(self, site):
        *lines, totals = self.diff(site, site.ids[1], site.ids[2], site.source)
        assert lines == [
            "C etc/fstab  6 B -> 5 B, time 2020-09-13 12:43:20Z -> 2020-09-13 12:26:40Z",
            "T etc/hosts  file -> symlink, mode 0644 -> 0777",
            "> home/b/album -> home/a/pictures",
            "> home/a/notes -> home/b/notes kept",
            "m home/mode  mode 0644 -> 0600",
            "+ home/new  5.0 KB",
        ]
        assert (
            "1 entry added (5.0 KB), 1 entry changed (6 B -> 5 B), 1 entry of another type, 2 entries moved" in totals
        )

    def test_what_changed_below_what_moved(self, site):
        (line, _) = self.diff(site, site.ids[0], "latest", f"{site.source}/home/a/pictures/two", "--json")
        assert json.loads(line)["change"] == "added"
        changes = [json.loads(line) for line in self.diff(site, site.ids[0], "latest", "--json")][:-1]
        (two,) = [c for c in changes if c.get("new", {}).get("path", "").endswith("two")]
        assert two["change"] == "changed"
        assert two["old"]["path"].endswith("album/two")

    def test_a_directory_that_stands_for_something_else(self, site, tmp_path):
        done = look(site, "diff", "latest", "--with", tmp_path, f"{site.source}/odd", code=2)
        assert "it stands for /" in done.stderr

    def test_what_one_snapshot_changed(self, site):
        pair = self.diff(site, site.ids[1], site.ids[2], f"{site.source}/home")
        assert self.diff(site, site.ids[2], f"{site.source}/home") == pair
        assert "there is none before it" in look(site, "diff", site.ids[0], code=2).stderr

    @pytest.mark.parametrize("arguments", [["1", "2", "/x", "/y"], ["latest", "/x", "/y", "--with", "/"]])
    def test_what_it_does_not_take(self, site, arguments):
        assert "at most one path" in look(site, "diff", *arguments, code=2).stderr


@pytest.fixture(scope="module")
def restored(site, tmp_path_factory):
    target = tmp_path_factory.mktemp("target") / "out"
    site.restore(target)
    return target


class TestDiffWithADirectory:
    def diff(self, site, target, *arguments, **kwargs):
        done = look(site, "diff", "latest", *arguments, "--with", target, **kwargs)
        return done.stdout.replace(f"{site.source}/", "").splitlines()

    def test_a_restored_tree_differs_in_nothing(self, site, restored):
        for options in ([], ["--checksum"]):
            (totals,) = self.diff(site, restored, *options)
            assert totals.endswith("unchanged (305.1 KB)")

    def test_the_machine_itself(self, site):
        (totals,) = self.diff(site, "/")
        assert totals.endswith("unchanged (305.1 KB)")

    def test_what_was_changed(self, site, restored):
        root = site.restored(restored)
        same_size = root / "etc/fstab"
        same_size.write_bytes(b"FIRST")
        os.utime(same_size, (OLD, OLD))
        (root / "home/new").touch()
        (root / "home/mode").chmod(0o640)
        os.setxattr(root / "home/mode", "user.x", b"y")
        (root / "home/a/photo.JPG").rename(root / "home/photo again")
        (root / "home/b/notes kept").write_bytes(b"other")
        (root / "odd/[x]").unlink()
        os.mkfifo(root / "odd/fifo")
        expected = [
            "C home/b/notes kept  10 B -> 5 B, time ",
            "m home/mode  mode 0600 -> 0640, extended attributes",
            "m home/new  time 2020-09-13 13:00:00Z -> ",
            "> home/a/photo.JPG -> home/photo again",
            "- odd/[x]  8 B",
            "+ odd/fifo  fifo",
        ]
        *lines, _ = self.diff(site, restored)
        assert len(lines) == len(expected)
        for line, beginning in zip(sorted(lines), sorted(expected), strict=True):
            assert line.startswith(beginning)
        *lines, _ = self.diff(site, restored, "--checksum", f"{site.source}/etc")
        assert lines == ["C etc/fstab  5 B"]

    def test_what_cannot_be_looked_at_is_told_and_not_taken_for_removed(self, site, tmp_path):
        site.restore(tmp_path / "out")
        (site.restored(tmp_path / "out") / "etc/deep").chmod(0)
        done = look(site, "diff", "latest", "--with", tmp_path / "out", f"{site.source}/etc", code=1, no_rights=True)
        (site.restored(tmp_path / "out") / "etc/deep").chmod(0o700)
        assert "etc/deep: Permission denied" in done.stderr
        assert "1 entry below" in done.stderr
        assert [line[0] for line in done.stdout.splitlines()[:-1]] == ["m"]


def test_modes_are_shown_as_ls_shows_them(site):
    line = look(site, "find", "mode", "--snapshot", "latest").stdout.splitlines()[1]
    assert stat.filemode(0o100600) in line
    assert "2020-09-13 12:26:40Z" in line


class TestStats:
    def test_how_it_grew(self, site):
        report = json.loads(look(site, "stats", "--json").stdout)
        steps = report["snapshots"]
        assert [step["snapshot"] for step in steps] == site.ids
        manifests = {row["snapshot"]: row for row in json.loads(look(site, "snapshots", "--json").stdout)}
        for step in steps:
            assert step["stored"] == manifests[step["snapshot"]]["stored_bytes"]
            assert step["metadata"] > manifests[step["snapshot"]]["db_bytes"]
        assert steps[0]["new"] == steps[0]["stored"]
        assert sum(step["new"] for step in steps) == report["stored"] == sum(b.stat().st_size for b in site.blobs())
        # The first blob is in all of them; what the second run stored, in it alone.
        assert [step["only_here"] for step in steps] == [0, steps[1]["new"], 0, steps[3]["new"]]
        text = look(site, "stats").stdout.splitlines()
        assert text[0].split() == ["snapshot", "entries", "content", "stored", "new", "only", "here", "metadata"]
        assert [line.split()[0] for line in text[1:5]] == site.ids
        assert text[5].startswith("4 snapshots: ")

    def test_what_takes_the_space(self, site):
        lines = look(site, "stats", "latest", "--top", "2").stdout.replace(f"{site.source}", "").splitlines()
        assert lines[0].startswith(site.ids[3])
        assert "  size of the files       305.1 KB" in lines
        assert [line.split()[-1] for line in lines[-3:]] == ["path", "/home/a/photo.JPG", "/home/new"]
        directories = lines[lines.index("largest directories") + 2 :][:2]
        assert [line.split()[-1] for line in directories] == ["/home/a", "/home/a/pictures"]
        both = look(site, "stats", site.ids[0], site.ids[1], "--json").stdout.splitlines()
        assert [json.loads(line)["snapshot"] for line in both] == site.ids[:2]


def test_a_pattern_with_a_slash_is_of_a_path_from_the_root(site):
    pattern = f"{str(site.source).lstrip('/')}/etc/*"
    assert look(site, "find", pattern).stdout == look(site, "find", f"/{pattern}").stdout
    assert "fstab" in look(site, "find", pattern).stdout


def test_wildcards_in_a_name_that_is_given_as_it_is_shown(site):
    listed = look(site, "ls", "latest", f"{site.source}/odd \\xff*")
    (shown,) = names(site, listed)
    assert shown.startswith("odd \\xff")


def test_and_what_was_typed_goes_before_what_it_may_also_mean(tmp_path):
    local = Site(tmp_path)
    write(local.source / "is\\x41 so", "typed")
    write(local.source / "isA so", "meant, perhaps")
    local.backup()
    listed = look(local, "ls", "latest", f"{local.source}/is\\x41*")
    assert names(local, listed) == ["is\\\\x41 so"]
