"""Tell whether what stands in a target is what a snapshot says: its kind, its time, its bytes.

A file system may keep less of a time than the snapshot has (FAT: two seconds), so a time that differs is
compared with what this one makes of the snapshot's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik.model import EntryType, entry_type
from vaultik.restore.naming import READ, stands

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from vaultik.snapshot.tree import Entry

_BLOCK = 1 << 20
_CHUNKS = "SELECT ec.offset, c.size, c.hash, c.blob FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ?"


class KeptTimes:
    """What a file system keeps of a time, found out by setting it."""

    def __init__(self, directory: Path, instead: Path | None = None) -> None:
        """Name a directory on that file system, and another in which a file may be made if it takes none without a name."""
        self._directory = directory
        self._instead = instead or directory
        self._fd: int | None = None
        self._pid = 0

    def kept(self, mtime_ns: int) -> int:
        """Return what is left of a time that is set there.

        Raises:
            OSError: no file can be made.
        """
        if self._fd is None or self._pid != os.getpid():
            self._fd = self._new_file()
            self._pid = os.getpid()
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        return os.fstat(self._fd).st_mtime_ns

    def _new_file(self) -> int:
        with suppress(OSError):
            return os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        path = self._instead / f"times-{os.getpid()}"
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        path.unlink()
        return fd

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None and self._pid == os.getpid():
            os.close(self._fd)
        self._fd = None


class Likeness:
    """Compares entries of a copied snapshot with what stands in the target."""

    def __init__(
        self, copy: sqlite3.Connection, times: Callable[[int], int], *, deep: bool, any_time: bool = False
    ) -> None:
        """Prepare.

        Args:
            copy: the copied snapshot.
            times: gives what the target's file system keeps of a time.
            deep: believe a file's bytes only, not its size and time.
            any_time: a time says nothing, since none is given back: bytes alone are believed then, too.
        """
        self._copy = copy
        self._times = times
        self._deep = deep or any_time
        self._any_time = any_time

    def same_time(self, entry: Entry, st: os.stat_result) -> bool:
        """Tell whether the time is the entry's, as far as the file system keeps it."""
        if st.st_mtime_ns == entry.mtime_ns or self._any_time:
            return True
        with suppress(OSError, OverflowError):
            return st.st_mtime_ns == self._times(entry.mtime_ns)
        return False

    def same_content(
        self, entry: Entry, st: os.stat_result, directory: int, name: bytes, *, deep: bool = False
    ) -> bool:
        """Tell whether a file's content is the entry's: by size and time, or by its bytes."""
        if not stat.S_ISREG(st.st_mode) or st.st_size != entry.size:
            return False
        if not (self._deep or deep):
            return self.same_time(entry, st)
        try:
            fd = os.open(name, READ, dir_fd=directory)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(fd), st) and self._same_bytes(entry, fd)
        finally:
            os.close(fd)

    def same_kind(self, entry: Entry, st: os.stat_result, directory: int, name: bytes) -> bool:
        """Tell whether what isn't a file or directory is the entry's: its type, its target, its device."""
        try:
            if entry_type(st.st_mode) != entry.type:
                return False
            if entry.type == EntryType.SYMLINK:
                return os.readlink(name, dir_fd=directory) == entry.link_target
        except (KeyError, OSError):
            return False
        return entry.rdev is None or entry.rdev == st.st_rdev

    def is_ours(self, entry: Entry, directory: int, name: bytes) -> bool:
        """Tell whether a restore of this snapshot may have left what stands there: nobody else's work is in it.

        A file that somebody wrote to has another time, or other bytes where times are not kept.
        """
        st = stands(directory, name)
        if st is None:
            return True
        if entry.type == EntryType.FILE:
            if self._any_time:
                return self.same_content(entry, st, directory, name)
            return stat.S_ISREG(st.st_mode) and self.same_time(entry, st)
        return self.same_kind(entry, st, directory, name)

    def damaged_blobs(self, content: int, blobs: set[int], fd: int) -> set[int]:
        """Return which of some blobs are not in an unfinished file as they should be."""
        bad: set[int] = set()
        for offset, size, digest, blob in self._copy.execute(_CHUNKS, (content,)):
            if blob in blobs and blob not in bad and not _is_chunk(fd, offset, size, digest):
                bad.add(blob)
        return bad

    def _same_bytes(self, entry: Entry, fd: int) -> bool:
        at = 0
        for offset, size, digest, _ in self._copy.execute(
            f"{_CHUNKS} ORDER BY ec.offset", (entry.hardlink or entry.id,)
        ):
            if not _is_empty(fd, at, offset) or not _is_chunk(fd, offset, size, digest):
                return False
            at = offset + size
        return _is_empty(fd, at, entry.size)


def _is_chunk(fd: int, offset: int, size: int, digest: bytes) -> bool:
    hashing = hashlib.sha256()
    end = offset + size
    while offset < end and (block := _pread(fd, min(_BLOCK, end - offset), offset)):
        hashing.update(block)
        offset += len(block)
    return offset == end and hashing.digest() == digest


def _is_empty(fd: int, start: int, end: int) -> bool:
    """Tell whether a part of a file is a hole, or zeros that might be one."""
    while start < end:
        try:
            start = max(start, os.lseek(fd, start, os.SEEK_DATA))
        except OSError as exc:
            return exc.errno == errno.ENXIO
        if start >= end:
            return True
        block = _pread(fd, min(_BLOCK, end - start), start)
        if not block or block.strip(b"\0"):
            return False
        start += len(block)
    return True


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read a part of a file; what can't be read isn't there."""
    try:
        return os.pread(fd, size, offset)
    except OSError:
        return b""
