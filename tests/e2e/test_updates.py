"""Restores on to what is there: updates, --delete, and what somebody did between two tries."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.bad_disk import unlookable
from tests.support.forge import forge
from tests.support.restores import killed_when, leftovers
from tests.support.run import Run
from tests.support.site import Site
from tests.support.tree import compare, describe, edit_tree, make_tree


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def stored(site):
    make_tree(site.source)
    site.backup()
    return site


def update(site, target, *more, **kwargs):
    return json.loads(site.restore(target, "--force", "--json", *more, **kwargs).stdout)


def inodes(root):
    """Which inode stands under each name, and when anything was last done to it."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            st = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (st.st_ino, st.st_ctime_ns)
    return found


def is_same(path, before):
    after = path.lstat()
    return (after.st_ino, stat.S_IFMT(after.st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))


def by_itself(root):
    """Every entry but for the other names that it has."""
    return {path: facts[:-1] for path, facts in describe(root).items()}


def test_what_is_equal_stays_untouched_and_is_not_fetched(stored, tmp_path):
    target = tmp_path / "out"
    stored.restore(target)
    at = stored.restored(target)
    before = inodes(at)
    shutil.rmtree(stored.store / "vault/host/blobs")
    report = update(stored, target)
    assert inodes(at) == before
    assert report["unchanged"] == report["files"]
    assert compare(stored.source, at) == []
    report = update(stored, target, "--checksum", "--delete")
    assert inodes(at) == before
    assert report["removed"] == 0


def test_the_next_snapshot_comes_as_an_update(stored, tmp_path):
    target = tmp_path / "out"
    at = stored.restored(target)
    stored.restore(target)
    before = inodes(at)
    open_before = (at / "many/0/file 0").open("rb")
    old = (at / "many/0/file 0").read_bytes()
    edit_tree(stored.source)
    stored.backup()
    stood = {
        Path(folder, name): Path(folder, name).lstat()
        for folder, folders, names in os.walk(at)
        for name in (*folders, *names)
        if len(folder) + len(name) < 4000
    }
    plan = json.loads(stored.restore(target, "--force", "--dry-run", "--json").stdout)
    assert 0 < plan["left"]["files"] < 40
    report = update(stored, target)
    assert report["unchanged"] > 150
    assert (at / "many/1/file 1").exists()
    assert (at / "many/2").exists()
    assert open_before.read() == old, "who has a file open keeps what it was"
    open_before.close()
    there = {path: st for path, st in stood.items() if os.path.lexists(path)}
    others = {path for path, st in there.items() if not is_same(path, st)}
    assert {Path(f"{target}{path['path']}") for path in plan["replace"]} == others
    shutil.rmtree(at / "many/2")
    for gone in (at / "many/1/file 1", at / "fifo"):
        gone.unlink()
    update(stored, target)
    assert compare(stored.source, at) == []
    same = {path: inode for path, inode in inodes(at).items() if before.get(path) == inode}
    assert len(same) > 150
    assert leftovers(target) == []


def test_types_change_and_extra_names_go(stored, tmp_path):
    """File to directory and back, links, everything: after --delete it is the snapshot, whatever stood there."""
    target = tmp_path / "out"
    at = stored.restored(target)
    stored.restore(target)
    for name, kind in (("small", "dir"), ("many/0", "file"), ("link", "dir"), ("fifo", "file"), ("big", "link")):
        shutil.rmtree(at / name) if (at / name).is_dir() and not (at / name).is_symlink() else (at / name).unlink()
        if kind == "dir":
            (at / name / "below/further").mkdir(parents=True)
            (at / name / "below/file").write_text("x")
        elif kind == "file":
            (at / name).write_text("x")
        else:
            (at / name).symlink_to("/etc/passwd")
    (at / "extra/below").mkdir(parents=True)
    (at / "extra/below/file").write_text("x")
    (at / "many/3/extra").write_text("x")
    (at / "extra link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("precious")
    done = stored.restore(target, "--force", code=1)
    assert "small: a directory that isn't empty stands there; --delete" in done.stderr
    lines = stored.restore(target, "--force", "--delete", "--dry-run").stdout.splitlines()
    assert [line.replace(f" {at}/", " ") for line in lines[:-1]] == [
        *(f"would replace {name}" for name in ("small", "link", "hard link to small")),
        *(f"would remove {name}" for name in ("extra/", "extra link", "link/", "small/", "many/3/extra")),
    ]
    report = update(stored, target, "--delete")
    assert compare(stored.source, at) == []
    assert report["removed"] == 11
    assert (tmp_path / "outside/precious").read_text() == "precious"
    assert leftovers(target) == []


def test_nothing_outside_is_written_or_removed_through_a_symlink(stored, tmp_path):
    """A directory of the tree was moved away and linked to; files and directories alike are put in the link's place."""
    target = tmp_path / "out"
    at = stored.restored(target)
    stored.restore(target)
    shutil.move(at / "many", tmp_path / "moved")
    (tmp_path / "moved/mine").write_text("mine")
    (at / "many").symlink_to(tmp_path / "moved")
    shutil.move(at / "small", tmp_path / "moved/small")
    (at / "small").symlink_to(tmp_path / "moved/small")
    (tmp_path / "moved/0/file 0").write_text("edited outside")
    before = by_itself(tmp_path / "moved")
    update(stored, target, "--delete")
    assert compare(stored.source, at) == []
    assert by_itself(tmp_path / "moved") == before


def test_nothing_is_written_through_a_hard_link(site, tmp_path):
    """The target is a copy of hard links to a tree that must stay as it is: content, mode, owner, times."""
    site.source.mkdir()
    for name in ("same", "content", "mode", "time", "a", "b", "sparse"):
        (site.source / name).write_text(f"content of {name}")
        os.utime(site.source / name, ns=(1, 1_600_000_000_000_000_000))
    os.link(site.source / "a", site.source / "a too")
    os.truncate(site.source / "sparse", 20 << 20)
    os.utime(site.source / "sparse", ns=(1, 1_600_000_000_000_000_000))
    site.backup()
    target = tmp_path / "out"
    site.restore(target)
    at = site.restored(target)
    (at / "content").write_text("another")
    (at / "mode").chmod(0o600)
    (at / "sparse").chmod(0o600)
    os.utime(at / "time", ns=(1, 2))
    (at / "b").unlink()
    os.link(at / "same", at / "b")
    twin = tmp_path / "twin"
    subprocess.run(["cp", "-al", target, twin], check=True)
    before = by_itself(twin)
    blocks = (at / "sparse").stat().st_blocks
    untouched = (at / "same").stat().st_ino
    report = update(site, target, "--checksum")
    assert by_itself(twin) == before
    assert (at / "same").stat().st_ino == untouched
    assert (at / "sparse").stat().st_ino != Path(f"{twin}{site.source}/sparse").stat().st_ino
    shutil.rmtree(twin)
    assert compare(site.source, at) == []
    assert (at / "sparse").stat().st_blocks <= blocks
    assert report["unchanged"] == 6, "all but content and b"


def test_attributes_alone_are_mended_without_a_download(stored, tmp_path):
    target = tmp_path / "out"
    at = stored.restored(target)
    stored.restore(target)
    before = {path: ino for path, (ino, _) in inodes(at).items()}
    (at / "big").chmod(0o777)
    (at / "sticky").chmod(0o700)
    os.setxattr(at / "small", "user.comment", b"another")
    os.setxattr(at / "setuid", "user.more", b"1")
    os.utime(at / "many", ns=(1, 2))
    if os.geteuid() == 0:
        os.chown(at / "same as small", 5, 6)
        os.chown(at / "link", 5, 6, follow_symlinks=False)
    shutil.rmtree(stored.store / "vault/host/blobs")
    update(stored, target)
    assert compare(stored.source, at) == []
    assert {path: ino for path, (ino, _) in inodes(at).items() if path != f"{at}/link"} == {
        path: ino for path, ino in before.items() if path != f"{at}/link"
    }
    os.utime(at / "big", ns=(1, 2))
    update(stored, target, "--checksum")
    assert compare(stored.source, at) == []


def test_only_checksum_sees_what_size_and_time_do_not_tell(stored, tmp_path):
    target = tmp_path / "out"
    at = stored.restored(target)
    stored.restore(target)
    for name, where in (("big", 4_000_000), ("sparse", 1 << 20)):
        before = (at / name).stat()
        with (at / name).open("r+b") as file:
            file.seek(where)
            file.write(b"flip")
        os.utime(at / name, ns=(1, before.st_mtime_ns))
    update(stored, target)
    assert len(compare(stored.source, at)) == 3
    report = update(stored, target, "--checksum")
    assert compare(stored.source, at) == []
    assert report["unchanged"] == report["files"] - 3


class TestDelete:
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root sets these flags")
    def test_also_what_is_immutable(self, site, tmp_path):
        site.source.mkdir()
        (site.source / "file").write_text("x")
        site.backup()
        target = tmp_path / "out"
        extra = site.restored(target) / "extra"
        (extra / "in").mkdir(parents=True)
        (extra / "in/file").write_text("x")
        (site.restored(target) / "file").mkdir()
        try:
            done = subprocess.run(["chattr", "-R", "+i", site.restored(target)], check=False, capture_output=True)
            if done.returncode:
                pytest.skip("NO FLAGS: this file system has none")
            assert update(site, target, "--delete")["removed"] == 3
            assert compare(site.source, site.restored(target)) == []
        finally:
            subprocess.run(["chattr", "-R", "-i", target], check=False, capture_output=True)

    def test_only_what_is_selected(self, site, tmp_path):
        for folder in ("a", "b/c"):
            (site.source / folder).mkdir(parents=True)
            (site.source / folder / "file").write_text("x")
        site.backup()
        target = tmp_path / "out"
        at = site.restored(target)
        site.restore(target)
        (at / "a/extra.d").mkdir()
        (at / "b/extra.d").mkdir()
        for name in ("extra", "extra.log", "extra.d/1", "extra.d/2.log"):
            (at / "a" / name).write_text("x")
            (at / "b" / name).write_text("x")
        (at / "b/c/file").unlink()
        here = str(site.source)
        update(site, target, "--delete", "--include", f"{here}/a", "--exclude", "*.log")
        left = {str(path.relative_to(at)) for path in at.rglob("*")}
        assert left == {
            "a", "a/file", "a/extra.log", "a/extra.d", "a/extra.d/2.log",
            "b", "b/c", "b/extra", "b/extra.log", "b/extra.d", "b/extra.d/1", "b/extra.d/2.log",
        }  # fmt: skip

    def test_never_beside_a_source_nor_where_the_backup_could_not_look(self, site, tmp_path):
        """Parents of a source are in the snapshot for their names; what a host has beside it, no backup knows."""
        (site.source / "dir").mkdir(parents=True)
        (site.source / "closed").mkdir(parents=True)
        site.backup()
        forge(site, "UPDATE entries SET marks = marks | 16 WHERE name = CAST('closed' AS BLOB)")
        target = tmp_path / "out"
        at = site.restored(target)
        for folder in (target, at.parent, at / "closed", at / "dir"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "mine").write_text("mine")
        update(site, target, "--delete")
        assert [(folder / "mine").exists() for folder in (target, at.parent, at / "closed", at / "dir")] == [
            True, True, True, False,
        ]  # fmt: skip

    def test_never_where_a_name_could_not_be_looked_at(self, site, tmp_path, monkeypatch):
        """A bad sector under an inode: no row tells that the file is there."""
        folder = site.source / "dir"
        folder.mkdir(parents=True)
        (folder / "mine").write_text("the last copy")
        site.backup()
        target = tmp_path / "out"
        site.restore(target)
        there = site.restored(target) / "dir"
        with unlookable(monkeypatch, b"mine"):
            assert Run(site).all().exit_code == 3
        (there / "new").write_text("no backup has it")
        where = (target, "--force", "--delete")
        assert "would remove" not in site.restore(*where, "--dry-run").stdout
        site.restore(*where)
        assert sorted(os.listdir(there)) == ["mine", "new"]
        site.backup()
        site.restore(*where)
        assert os.listdir(there) == ["mine"]

    @pytest.mark.parametrize("given", ["--identity", "VAULTIK_PRIVATE_KEY"])
    def test_never_the_identity_that_is_in_use(self, site, tmp_path, given):
        site.source.mkdir()
        site.backup()
        target = tmp_path / "out"
        site.restore(target)
        at = site.restored(target)
        for folder in (at, at / "keys"):
            folder.mkdir(exist_ok=True)
            key = shutil.copy(site.key, folder / "key.txt")
            (folder / "other").write_text("x")
            more = ("--identity", key) if given == "--identity" else ()
            site.env["VAULTIK_PRIVATE_KEY"] = str(site.key if more else key)
            assert f"would remove {key}" not in site.restore(target, "--force", "--delete", "--dry-run", *more).stdout
            done = site.restore(target, "--force", "--delete", *more)
            assert f"{key}: the identity that is in use; it stays" in done.stderr
            assert os.listdir(folder) == ["key.txt"]
            os.unlink(key)

    def test_a_partial_snapshot_tells_nothing_also_when_a_restore_goes_on(self, site, tmp_path):
        site.source.mkdir()
        (site.source / "large").write_bytes(os.urandom(30_000_000))
        site.backup()
        forge(site, "UPDATE meta SET value = 0 WHERE key = 'complete'")
        (row,) = json.loads(site.run("snapshots", *site.where, "--json").stdout)
        target = tmp_path / "out"
        mine = site.restored(target) / "mine"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        plan = target / ".vaultik-restore"
        for _ in range(20):
            begun = lambda: any(mine.parent.glob(".vaultik-*"))  # noqa: E731 - as it reads best
            if killed_when(site, target, begun, "--force", snapshot=row["snapshot"]):
                break
        assert plan.exists()
        done = site.restore(target, "--force", "--delete", snapshot=row["snapshot"], code=2)
        assert "had not ended" in done.stderr
        assert mine.read_text() == "mine"
        done = site.restore(target, "--force", snapshot=row["snapshot"])
        assert f"snapshot {row['snapshot']} is of a backup that had not ended" in done.stderr
        assert not plan.exists()
        assert {path.name for path in mine.parent.iterdir()} == {"large", "mine"}

    def test_it_needs_force_and_a_complete_snapshot(self, stored, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").write_text("mine")
        done = stored.restore(tmp_path / "out", "--delete", code=2)
        assert "--delete" in done.stderr
        forge(stored, "UPDATE meta SET value = 0 WHERE key = 'complete'")
        (snapshot,) = json.loads(stored.run("snapshots", *stored.where, "--json").stdout)
        for more in ((), ("--dry-run",)):
            done = stored.restore(tmp_path / "out", "--force", "--delete", *more, snapshot=snapshot["snapshot"], code=2)
            assert "had not ended" in done.stderr
        assert os.listdir(tmp_path / "out") == ["mine"]

    def test_what_can_not_be_removed_is_named_and_tried_again(self, site, tmp_path):
        (site.source / "dir").mkdir(parents=True)
        site.backup()
        target = tmp_path / "out"
        site.restore(target, no_rights=True)
        locked = site.restored(target) / "dir/locked"
        (locked / "in it").mkdir(parents=True)
        locked.chmod(0o500)
        done = site.restore(target, "--force", "--delete", no_rights=True, code=1)
        assert f"{site.source}/dir/locked/in it: could not be removed: Permission denied" in done.stderr
        locked.chmod(0o700)
        site.restore(target, "--force", "--delete", no_rights=True)
        assert compare(site.source, site.restored(target)) == []
        assert leftovers(target) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
    def test_a_mount_in_a_files_place_is_not_said_to_be_full(self, site, tmp_path):
        site.source.mkdir()
        (site.source / "file").write_text("content")
        site.backup()
        target = tmp_path / "out"
        place = site.restored(target) / "file"
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        try:
            done = site.restore(target, "--force", code=1)
        finally:
            subprocess.run(["umount", "-l", place], check=True)
        assert f"{place}: " in done.stderr
        assert "isn't empty" not in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
    def test_never_in_another_mount(self, site, tmp_path):
        (site.source / "dir").mkdir(parents=True)
        (site.source / "empty").mkdir()
        site.backup()
        target = tmp_path / "out"
        site.restore(target)
        at = site.restored(target)
        disk = tmp_path / "disk"
        (disk / "sub").mkdir(parents=True)
        (disk / "precious").write_text("precious")
        shutil.copytree(disk, tmp_path / "other")
        places = (at / "empty", at / "dir/extra/below", at / "extra")
        with contextlib.ExitStack() as stack:
            for what, place in zip((disk, disk, tmp_path / "other"), places, strict=True):
                place.mkdir(parents=True, exist_ok=True)
                subprocess.run(["mount", "--bind", what, place], check=True)
                stack.callback(subprocess.run, ["umount", "-l", place], check=True)
            (at / "dir/extra/beside").write_text("x")
            done = site.restore(target, "--force", "--delete")
            assert done.stderr.count("something is mounted there") == 3
            assert all((place / "precious").exists() for place in places)
            assert not (at / "dir/extra/beside").exists()
        assert sorted(os.listdir(disk)) == ["precious", "sub"]

    @pytest.mark.parametrize("where", ["store", "extra/deeper/store"])
    def test_never_the_store_itself(self, site, tmp_path, where):
        """A directory store in the source, which the backup left out: an update of the very tree must not remove it."""
        site.source.mkdir()
        (site.source / "file").write_text("x")
        site.backup()
        target = tmp_path / "out"
        site.restore(target)
        place = site.restored(target) / where
        place.parent.mkdir(parents=True, exist_ok=True)
        site.store.rename(place)
        (site.restored(target) / "extra/mine").parent.mkdir(exist_ok=True)
        (site.restored(target) / "extra/mine").write_text("x")
        site.endpoint = f"file://{place}"
        done = site.restore(target, "--force", "--delete")
        assert f"{site.source}/{where}: the store lies there" in done.stderr
        assert not (site.restored(target) / "extra/mine").exists()
        site.restore(tmp_path / "again")
        assert compare(site.source, site.restored(tmp_path / "again")) == []

    def test_trees_of_any_depth(self, site, tmp_path):
        (site.source / "dir").mkdir(parents=True)
        site.backup()
        target = tmp_path / "out"
        site.restore(target)
        fd = os.open(site.restored(target) / "dir", os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d" * 100, dir_fd=fd)
            below = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert update(site, target, "--delete")["removed"] == 1500
        assert compare(site.source, site.restored(target)) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.ext2"), reason="only root mounts; needs e2fsprogs")
def test_where_times_are_kept_to_the_second(stored, tmp_path):
    """What a restore left there is known again, by the next try and by an update."""
    image, target = tmp_path / "image", tmp_path / "out"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext2", "-q", "-I", "128", image], check=True, capture_output=True)
    target.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, target], check=False, capture_output=True).returncode:
        pytest.skip("no loop devices here")
    try:
        (target / "lost+found").rmdir()
        at = stored.restored(target)
        assert killed_when(stored, target, (at / "fifo").exists)
        assert (at / "big").stat().st_mtime_ns % 1_000_000_000 == 0
        done = stored.restore(target)
        assert "changed" not in done.stderr
        before = inodes(at)
        shutil.rmtree(stored.store / "vault/host/blobs")
        report = update(stored, target)
        assert report["unchanged"] == report["files"]
        assert {path: inode for path, (inode, _) in inodes(at).items()} == {
            p: inode for p, (inode, _) in before.items()
        }
    finally:
        subprocess.run(["umount", "-l", target], check=True)


class TestBetweenTwoTries:
    """A restore was killed, somebody worked in the target, the same command goes on."""

    @pytest.fixture
    def killed(self, stored, tmp_path):
        """Every file has its own name, and what these tests touch of the others; the tree isn't finished."""
        target = tmp_path / "out"
        at = stored.restored(target)
        assert killed_when(stored, target, lambda: all(os.path.lexists(at / name) for name in ("fifo", "link")))
        return stored, target, at

    def test_edited_files_are_not_trusted_and_not_destroyed(self, killed):
        site, target, at = killed
        (at / "same as small").write_text("my own words")
        (at / "big").unlink()
        (at / "big").write_text("mine")
        done = site.restore(target, code=1)
        assert f"{site.source}/same as small: was changed after it had been restored, and was left so" in done.stderr
        assert f"{site.source}/big: " in done.stderr
        assert (at / "same as small").read_text() == "my own words"
        assert (at / "big").read_text() == "mine"
        done = site.restore(target, "--force")
        assert compare(site.source, at) == []
        assert leftovers(target) == []

    def test_forced_it_says_what_it_restored_again(self, killed):
        site, target, at = killed
        (at / "same as small").write_text("my own words")
        done = site.restore(target, "--force")
        assert (
            f"{site.source}/same as small: was changed after it had been restored, and was restored again"
            in done.stderr
        )
        assert compare(site.source, at) == []

    def test_what_was_removed_comes_again(self, killed):
        site, target, at = killed
        shutil.rmtree(at / "many")
        (at / "small").unlink()
        (at / "link").unlink()
        (at / "setuid").chmod(0o600)
        site.restore(target)
        assert compare(site.source, at) == []
        assert leftovers(target) == []

    def test_what_was_put_there_stays(self, site, tmp_path):
        """Under a name that the restore had still to give."""
        site.source.mkdir()
        (site.source / "file").write_text("x")
        (site.source / "link").symlink_to("file")
        (site.source / "dir").mkdir()
        os.link(site.source / "file", site.source / "linked")
        site.backup()
        target = tmp_path / "out"
        assert killed_when(site, target, (target / ".vaultik-restore/begun.json").exists)
        at = site.restored(target)
        for name in ("file", "link", "dir", "linked"):
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            assert not (at / name).exists()
            (at / name).write_text("mine")
        done = site.restore(target, code=1)
        assert done.stderr.count("something else stands there; --force replaces it") >= 3
        assert all((at / name).read_text() == "mine" for name in ("file", "link", "dir", "linked"))
        site.restore(target, "--force")
        assert compare(site.source, at) == []

    def test_forced_another_restore_takes_its_place(self, site, tmp_path):
        """What is done is part of the tree then; of what was half done, nothing is left."""
        site.configure(chunk_size="64KiB", blob_size_limit="2MiB")
        (site.source / "a").mkdir(parents=True)
        (site.source / "a/large").write_bytes(os.urandom(40_000_000))
        (site.source / "b").write_text("b")
        site.backup()
        target = tmp_path / "out"
        at = site.restored(target)
        assert killed_when(site, target, lambda: any((at / "a").glob(".vaultik-*")))
        other = ["--include", f"{site.source}/b"]
        done = site.restore(target, *other, code=1)
        assert "--force to give it up" in done.stderr
        assert leftovers(target) != []
        site.restore(target, "--force", *other)
        assert leftovers(target) == []
        assert os.listdir(at / "a") == []
        assert (at / "b").read_text() == "b"

    def test_a_half_written_file_is_read_back(self, site, tmp_path):
        """Of a file in several blobs: what somebody changed in the part that was there is fetched again."""
        site.configure(chunk_size="64KiB", blob_size_limit="2MiB")
        site.source.mkdir()
        (site.source / "large").write_bytes(os.urandom(40_000_000))
        site.backup()
        target = tmp_path / "out"
        at = site.restored(target)
        assert killed_when(site, target, lambda: any(p.stat().st_size > 25_000_000 for p in at.glob(".vaultik-*")))
        (part,) = at.glob(".vaultik-*")
        with part.open("r+b") as file:
            file.seek(5_000_000)
            file.write(b"flip")
        site.restore(target)
        assert compare(site.source, at) == []
        assert leftovers(target) == []


def test_luigi_updates_as_the_command_does(stored, tmp_path):
    target = tmp_path / "out"
    stored.restore(target)
    at = stored.restored(target)
    (at / "extra").write_text("x")
    (at / "big").write_text("x")
    where = ["--bucket", stored.bucket, "--prefix", stored.prefix, "--endpoint", stored.endpoint, "--target", target]
    common = ["Restore", "--local-scheduler", "--no-lock", *where]
    stored.luigi(*common, code=1)
    stored.luigi(*common, "--delete", code=2)
    done = stored.luigi(*common, "--force", "--delete", "--checksum", code=0)
    assert "removed 1 name" in done.stdout
    assert compare(stored.source, at) == []


def test_a_target_of_which_only_the_inside_may_be_written(stored, tmp_path):
    """The state lies in the target: its parent need not be writable, the target must."""
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(outer / "inner", os.geteuid())
    outer.chmod(0o555)
    try:
        stored.restore(outer / "inner", no_rights=True)
        assert (stored.restored(outer / "inner") / "big").read_bytes() == (stored.source / "big").read_bytes()
        assert stat.S_IMODE(outer.stat().st_mode) == 0o555
        done = stored.restore(outer / "new", no_rights=True, code=1)
        assert "Permission denied" in done.stderr
    finally:
        outer.chmod(0o755)
