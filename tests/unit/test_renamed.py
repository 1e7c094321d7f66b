"""A renamed tree is not read again, and comes back as what it is."""

import contextlib
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest

from tests.support.world import World
from vaultik.backup import read, scan
from vaultik.index import mounts

MOUNTINFO = Path("/proc/self/mountinfo")
COUNTS = ("renamed", "files_read", "bytes_new", "removed")


@pytest.fixture
def world(monkeypatch):
    # On a file system whose inode numbers and times of change can be trusted.
    # No file is taken for one that was written just now: it would be read again for that.
    monkeypatch.setattr(read, "_TICK_NS", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, World(folder).clocks() as world:
        yield world


@pytest.fixture
def host(world):
    host = world.add_host()
    (host.source / "tree/deep").mkdir(parents=True)
    for name in ("tree/one", "tree/two", "tree/deep/three", "tree/deep/empty"):
        host.write(name, 0 if "empty" in name else 70_000)
    os.setxattr(host.source / "tree/one", "user.note", b"kept")
    (host.source / "tree/two").chmod(0o604)
    host.backup()
    return host


def counts(host):
    """What a backup counts, of which each snapshot is compared and restored."""
    run = host.backup()
    world = host.world
    world.restore(list(world.snapshots)[-1])
    return tuple(run.counts[name] for name in COUNTS)


def described(host):
    """Names, modes and xattrs of the newest snapshot, without what a rename changes."""
    newest = list(host.world.snapshots)[-1]
    query = (
        "SELECT e.name, e.mode, e.size, e.mtime_ns, e.birth_ns, x.value, (SELECT group_concat(hex(c.hash)) FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = e.id)"
        " FROM entries AS e LEFT JOIN xattrs AS x ON x.entry = e.id WHERE e.type = 'f' ORDER BY e.name"
    )
    return host.world.rows(newest, query)


def test_a_renamed_directory_is_not_read(host):
    before = described(host)
    (host.source / "tree").rename(host.source / "another")
    assert counts(host) == (4, 0, 0, 6)
    assert described(host) == before
    assert any(b"kept" in row for row in before)


def test_one_that_goes_below_another(host):
    (host.source / "x").mkdir()
    (host.source / "tree/deep").rename(host.source / "x/deep")
    assert counts(host)[:2] == (2, 0)
    (host.source / "tree").rename(host.source / "x/deep/tree")
    assert counts(host)[:2] == (2, 0)
    (host.source / "x/deep").rename(host.source / "deep")
    assert counts(host)[:2] == (4, 0)


def test_two_that_change_places(host):
    (host.source / "tree/deep").rename(host.source / "aside")
    (host.source / "tree").rename(host.source / "deep")
    (host.source / "aside").rename(host.source / "tree")
    assert counts(host)[:2] == (4, 0)


def test_what_changed_on_the_way_is_read(host):
    (host.source / "tree").rename(host.source / "another")
    host.write("another/one", 70_001)
    (host.source / "another/two").chmod(0o600)
    assert counts(host)[:2] == (2, 2)


def test_a_file_that_was_renamed_itself_is_read(host):
    """Its time of change is another, as if it had been written to."""
    (host.source / "tree/one").rename(host.source / "tree/uno")
    assert counts(host) == (0, 1, 0, 1)


def test_a_file_with_several_names_is_read(host):
    os.link(host.source / "tree/one", host.source / "tree/deep/link")
    host.backup()
    (host.source / "tree").rename(host.source / "another")
    assert counts(host)[:3] == (3, 1, 0)
    assert described(host)[0][0] == b"empty"


def test_a_name_gone_and_another_come_is_read(host):
    (host.source / "tree/one").unlink()
    host.write("tree/new", 70_000)
    assert counts(host)[:2] == (0, 1)


def test_what_was_read_too_soon_after_a_change_is_read(host, monkeypatch):
    monkeypatch.setattr(read, "_TICK_NS", 10**18)
    host.write("tree/one", 70_002)
    host.backup()
    (host.source / "tree").rename(host.source / "another")
    assert counts(host)[:2] == (3, 1)


def test_nothing_is_taken_for_renamed_where_inodes_prove_little(host, monkeypatch):
    """FAT or sshfs: numbers may be given out anew with each mount, and times be whole seconds."""
    parse = mounts.parse_mountinfo
    weak = {"vfat": "/dev/sdb1", "fuse.sshfs": "/mnt", "overlay": "/", "fsid": "1234"}
    for kind, what in weak.items():
        found = {
            device: found._replace(identity=f"{kind} {what}") for device, found in parse(MOUNTINFO.read_text()).items()
        }
        monkeypatch.setattr(mounts, "parse_mountinfo", lambda _text, found=found: found)
        host.backup()
        (host.source / "tree").rename(host.source / kind)
        assert counts(host)[:2] == (0, 4), kind
        (host.source / kind).rename(host.source / "tree")


def end_scan(host, monkeypatch, looks):
    """Begin a backup whose scan is killed after so many looks into directories, each of which is committed."""
    calls = []
    pause = scan.Scan._pause

    def fail(self):
        pause(self)
        calls.append(None)
        if len(calls) == looks:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan, "_WRITES_PER_TRANSACTION", 1)
        patch.setattr(scan.Scan, "_pause", fail)
        with contextlib.suppress(KeyboardInterrupt):
            host.backup()
            return False
    host.kill()
    return True


@pytest.mark.parametrize("change", ["write", "chmod", "xattr", "replace"])
def test_what_changes_after_a_scan_that_was_killed_is_read(host, monkeypatch, change):
    """The new name's own row is of that scan, and fits what was set aside; what is seen now is what counts."""
    (host.source / "tree").rename(host.source / "another")
    assert end_scan(host, monkeypatch, len(host.source.parts) + 1)
    one = host.source / "another/one"
    if change == "write":
        one.write_bytes(b"new" * 70_000)
    elif change == "replace":
        one.unlink()
        one.write_bytes(b"n" * 70_000)
    elif change == "chmod":
        one.chmod(0o640)
    else:
        os.setxattr(one, "user.note", b"newer")
    assert counts(host)[:2] == (3, 1)
    (row,) = [row for row in described(host) if row[0] == b"one"]
    assert row[1] == stat.S_IMODE(one.stat().st_mode)
    assert row[5] == (b"newer" if change == "xattr" else None if change == "replace" else b"kept")


def test_a_new_name_that_was_planned_in_vain_has_no_old_content(host):
    """It was new, and like another in all its times; then that one was moved into its place, and written to."""
    ours, theirs = host.source / "tree/ours", host.home / "aside/theirs"
    theirs.parent.mkdir()
    ours.write_bytes(b"A" * 100)
    theirs.write_bytes(b"B" * 100)
    while ours.stat().st_ctime_ns != theirs.stat().st_ctime_ns:
        for path in (ours, theirs):
            os.utime(path, ns=(10**18, 10**18))
    host.backup()
    theirs.parent.rename(host.source / "aside")
    run = host.begin()
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
        while index.execute("SELECT 1 FROM pieces").fetchone() is None:
            assert run.step()
    host.kill()
    ours.rename(host.source / "aside/theirs")
    (host.source / "aside/theirs").write_bytes(b"new" * 100)
    assert counts(host)[:2] == (0, 1)


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_a_scan_that_ends_half_way_leaves_nothing_behind(host, monkeypatch, fails_at):
    (host.source / "tree/deep").rename(host.source / "deep")
    (host.source / "more").mkdir()
    assert end_scan(host, monkeypatch, len(host.source.parts) + fails_at)
    assert counts(host)[2] == 0
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
        assert index.execute("SELECT id FROM entries WHERE parent IS NULL").fetchall() == [(1,)]
        orphans = "SELECT entry FROM {} WHERE entry NOT IN (SELECT id FROM entries)"
        for table in ("entry_chunks", "xattrs", "changed"):
            assert index.execute(orphans.format(table)).fetchall() == []
