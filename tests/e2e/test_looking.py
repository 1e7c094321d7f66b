"""ls, find, diff, stats: what people look for in snapshots, through the command line."""

import json
import os
import stat

import pytest

from tests.support.site import Site

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

    def test_a_name_with_brackets_is_that_name_first(self, site):
        assert names(site, look(site, "ls", "latest", f"{site.source}/odd/[x]")) == ["odd/[x]"]

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

    def test_names_do_no_harm_on_a_terminal(self, site):
        assert "\x1b" not in look(site, "find", "odd*").stdout

    def test_a_host_that_is_not_there(self, site):
        assert "no snapshot of host 'nobody'" in look(site, "find", "x", "--host", "nobody", code=2).stderr

    def test_what_cannot_be_looked_for(self, site):
        assert "vaultik: pattern '(': " in look(site, "find", "--regex", "(", code=2).stderr


def test_modes_are_shown_as_ls_shows_them(site):
    line = look(site, "find", "mode", "--snapshot", "latest").stdout.splitlines()[1]
    assert stat.filemode(0o100600) in line
    assert "2020-09-13 12:26:40Z" in line
