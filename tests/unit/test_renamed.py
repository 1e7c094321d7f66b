"""A renamed tree is not read again, and comes back as what it is."""

import contextlib
import os
import sqlite3

import pytest

from tests.support.world import World
from vaultik.backup import read, scan

COUNTS = ("renamed", "files_read", "bytes_new", "removed")


@pytest.fixture
def world(tmp_path, monkeypatch):
    # No file is taken for one that was written just now: it would be read again for that.
    monkeypatch.setattr(read, "_TICK_NS", 0)
    with World(tmp_path).clocks() as world:
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


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_a_scan_that_ends_half_way_leaves_nothing_behind(host, monkeypatch, fails_at):
    monkeypatch.setattr(scan, "_WRITES_PER_TRANSACTION", 1)
    (host.source / "tree/deep").rename(host.source / "deep")
    (host.source / "more").mkdir()
    calls = []
    pause = scan.Scan._pause

    def fail(self):
        pause(self)
        calls.append(None)
        if len(calls) == len(host.source.parts) + fails_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan.Scan, "_pause", fail)
        with contextlib.suppress(KeyboardInterrupt):
            host.backup()
            pytest.fail("it went through")
    host.kill()
    assert counts(host)[2] == 0
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
        assert index.execute("SELECT id FROM entries WHERE parent IS NULL").fetchall() == [(1,)]
        orphans = "SELECT entry FROM {} WHERE entry NOT IN (SELECT id FROM entries)"
        for table in ("entry_chunks", "xattrs", "changed"):
            assert index.execute(orphans.format(table)).fetchall() == []
