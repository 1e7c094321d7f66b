"""What counts as the snapshot's: times as far as a file system keeps them, bytes, holes."""

import hashlib
import os
import sqlite3

import pytest

from vaultik.restore.likeness import KeptTimes, Likeness
from vaultik.snapshot.tree import get_entry
from vaultik.snapshot.write import schema

MTIME = 1_600_000_001_123_456_789


@pytest.fixture
def copy():
    """A file of 3 MB in which only the middle has data."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    copy.executescript(schema())
    row = (
        "INSERT INTO entries (id, parent, name, type, mode, uid, gid, size, mtime_ns, ctime_ns, marks, link_target)"
        " VALUES (?, 1, ?, ?, 420, 0, 0, ?, ?, 0, 0, ?)"
    )
    copy.execute(row, (2, b"file", "f", 3_000_000, MTIME, None))
    copy.execute(row, (3, b"link", "l", 3, MTIME, b"abc"))
    copy.execute("INSERT INTO chunks VALUES (1, ?, 6, 7, 0, 10, 0)", (hashlib.sha256(b"middle").digest(),))
    copy.execute("INSERT INTO entry_chunks VALUES (2, 1500000, 1)")
    return copy


def write(path, *, at=1_500_000, data=b"middle", size=3_000_000, zeros=False):
    with path.open("wb") as file:
        if zeros:
            file.write(bytes(size))
        file.seek(at)
        file.write(data)
        file.truncate(size)
    os.utime(path, ns=(1, MTIME))


def same(copy, path, *, deep, times=int):
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return Likeness(copy, times, deep=deep).same_content(
            get_entry(copy, 2), os.lstat(path), fd, os.fsencode(path.name)
        )
    finally:
        os.close(fd)


@pytest.mark.parametrize("zeros", [False, True])
def test_zeros_are_as_good_as_a_hole(copy, tmp_path, zeros):
    write(tmp_path / "file", zeros=zeros)
    assert same(copy, tmp_path / "file", deep=False)
    os.utime(tmp_path / "file", ns=(1, 1))
    assert not same(copy, tmp_path / "file", deep=False)
    assert same(copy, tmp_path / "file", deep=True)


@pytest.mark.parametrize(
    "what", [{"data": b"Middle"}, {"at": 1_500_001}, {"size": 2_999_999}, {"data": b"middle!"}, {"data": b"middl"}]
)
def test_any_other_byte_is_seen(copy, tmp_path, what):
    write(tmp_path / "file", **what)
    assert not same(copy, tmp_path / "file", deep=True)


def test_what_is_no_file_is_not_opened(copy, tmp_path):
    os.mkfifo(tmp_path / "file")
    assert not same(copy, tmp_path / "file", deep=True)
    os.symlink("/etc/passwd", tmp_path / "link")
    assert not same(copy, tmp_path / "link", deep=True)


def test_a_time_counts_as_far_as_the_file_system_keeps_it(copy, tmp_path):
    write(tmp_path / "file")
    two_seconds = MTIME // 2_000_000_000 * 2_000_000_000
    os.utime(tmp_path / "file", ns=(1, two_seconds))
    assert not same(copy, tmp_path / "file", deep=False)
    assert same(copy, tmp_path / "file", deep=False, times=lambda t: t // 2_000_000_000 * 2_000_000_000)


def test_what_is_kept_is_found_out_and_leaves_nothing(tmp_path):
    times = KeptTimes(tmp_path)
    found = [times.kept(t) for t in (MTIME, -5, 0)]
    times.close()
    os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY))
    os.utime(tmp_path / "probe", ns=(MTIME, MTIME))
    assert found[0] == os.stat(tmp_path / "probe").st_mtime_ns
    assert os.listdir(tmp_path) == ["probe"]


def test_links_and_devices_are_compared_by_what_they_are(copy, tmp_path):
    os.symlink("abc", tmp_path / "link")
    os.symlink("abd", tmp_path / "other")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        likeness, entry = Likeness(copy, int, deep=False), get_entry(copy, 3)
        assert likeness.is_ours(entry, fd, b"link")
        assert not likeness.is_ours(entry, fd, b"other")
        assert likeness.is_ours(entry, fd, b"missing")
    finally:
        os.close(fd)
