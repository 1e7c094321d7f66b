"""A directory on this machine as rows like a copied snapshot's, and its files beside the snapshot's.

It is walked by descriptors, and no symlink in it is followed. Nothing is written to it, and what can't be looked at is told.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup import attributes
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.errors import SelectionError
from vaultik.look.paths import Paths
from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from vaultik.index.entries import Attributes

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BLOCK = 1 << 20
_CANDIDATES = 4
"""Files of one size that a new one is compared with, to tell whether it moved."""
_CHUNKS = (
    "SELECT ec.offset, c.size, c.hash FROM a.entry_chunks AS ec JOIN a.chunks AS c ON c.id = ec.chunk"
    " WHERE ec.entry = ? ORDER BY ec.offset"
)
_INSERT = (
    "INSERT INTO b.entries (id, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns,"
    " link_target, rdev, inode_flags, marks) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
)


class Problem(NamedTuple):
    """What could not be looked at."""

    path: bytes
    reason: str


class Directory:
    """The directory's rows, and its files."""

    def __init__(self, db: sqlite3.Connection, root: Path, problem: Callable[[Problem], None]) -> None:
        self._db = db
        self._problem = problem
        self._paths = Paths(db, "b")
        self._next = ROOT
        try:
            self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise SelectionError(f"directory {root}: {exc.strerror}") from exc
        self._directories = DirectoryCache(ROOT, self._root_fd, self._parent_and_name)
        self._insert(None, b"", attributes.of_descriptor(self._root_fd, os.fstat(self._root_fd), 0))

    def close(self) -> None:
        """Close what is open."""
        self._directories.close()
        os.close(self._root_fd)

    def add(self, path: bytes) -> int | None:
        """Add what stands at a path, with the directories on the way to it. Returns its row, None if it isn't there."""
        at = ROOT
        for name in filter(None, path.split(b"/")):
            known = self._db.execute("SELECT id FROM b.entries WHERE parent = ? AND name = ?", (at, name)).fetchone()
            found = known[0] if known else self._add(at, name)
            if found is None:
                return None
            at = found
        return at

    def walk(self) -> None:
        """Add everything that lies below the directories that were added, but for those that only lead to others."""
        leading = {row[0] for row in self._db.execute("SELECT DISTINCT parent FROM b.entries")} - {None}
        at = 0
        query = "SELECT id FROM b.entries WHERE id > ? AND type = 'd' ORDER BY id LIMIT 1"
        while (row := self._db.execute(query, (at,)).fetchone()) is not None:
            at = row[0]
            if at not in leading:
                self._add_children(at)

    def _add_children(self, directory: int) -> None:
        try:
            fd = self._directories.open(directory)
            # A descriptor that may only be passed through can't be listed.
            again = os.open(".", OPEN_DIRECTORY, dir_fd=fd)
            try:
                names = sorted(map(os.fsencode, os.listdir(again)))  # noqa: PTH208 - a descriptor
            finally:
                os.close(again)
        except OSError as exc:
            self._db.execute("INSERT INTO hidden VALUES (?)", (directory,))
            self._tell(directory, exc)
            return
        self._db.execute("BEGIN")
        for name in names:
            self._add(directory, name)
        self._db.execute("COMMIT")

    def _add(self, parent: int, name: bytes) -> int | None:
        """Add what stands under a name. Returns its row, None if nothing does."""
        try:
            directory = self._directories.open(parent)
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
            found = attributes.of_name(directory, name, st, 0)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            # Something stands there, so nothing in this directory can be said to be gone.
            self._db.execute("INSERT OR IGNORE INTO hidden VALUES (?)", (parent,))
            self._problem(Problem(self._path(parent).rstrip(b"/") + b"/" + name, exc.strerror or str(exc)))
            return None
        return self._insert(parent, name, found)

    def _insert(self, parent: int | None, name: bytes, found: Attributes) -> int:
        entry = self._next
        self._next += 1
        # Inode flags take an open file, each; what isn't known is no difference.
        self._db.execute(
            _INSERT,
            (
                entry, parent, name, found.type, found.mode, found.uid, found.gid, found.user_name, found.group_name, found.size,
                found.mtime_ns, found.ctime_ns, found.link_target, found.rdev, None,
            ),
        )  # fmt: skip
        self._db.executemany("INSERT INTO b.xattrs VALUES (?, ?, ?)", ((entry, *pair) for pair in found.xattrs))
        return entry

    def same_bytes(self, leader: int, entry: int) -> bool:
        """Tell whether a file here has the bytes of one of the snapshot."""
        try:
            parent, name = self._parent_and_name(entry)
            fd = os.open(name, _READ, dir_fd=self._directories.open(parent))
        except OSError as exc:
            self._tell(entry, exc)
            return False
        with os.fdopen(fd, "rb", buffering=0) as file:
            try:
                return stat.S_ISREG(os.fstat(fd).st_mode) and self._has_chunks(fd, leader)
            except OSError as exc:
                self._tell(entry, exc)
                return False
            finally:
                file.close()

    def content_of(self, entry: int, size: int, mtime_ns: int) -> bytes | None:
        """Return the digest of a new file's content if it is that of a file that is gone, None otherwise."""
        candidates = self._db.execute(
            "SELECT leader, content FROM main.gone WHERE size = ? AND content IS NOT NULL ORDER BY mtime_ns <> ?, id LIMIT ?",
            (size, mtime_ns, _CANDIDATES),
        ).fetchall()
        return next((content for leader, content in candidates if self.same_bytes(leader, entry)), None)

    def _has_chunks(self, fd: int, leader: int) -> bool:
        at = 0
        for offset, size, chunk in self._db.execute(_CHUNKS, (leader,)):
            if not _is_zero(fd, at, offset) or _hash(fd, offset, size) != chunk:
                return False
            at = offset + size
        return _is_zero(fd, at, os.fstat(fd).st_size)

    def _parent_and_name(self, entry: int) -> tuple[int, bytes]:
        row: tuple[int, bytes] = self._db.execute(
            "SELECT parent, name FROM b.entries WHERE id = ?", (entry,)
        ).fetchone()
        return row

    def _path(self, entry: int) -> bytes:
        return self._paths.of(*self._db.execute("SELECT parent, name FROM b.entries WHERE id = ?", (entry,)).fetchone())

    def _tell(self, entry: int, exc: OSError) -> None:
        self._problem(Problem(self._path(entry), exc.strerror or str(exc)))


def _hash(fd: int, offset: int, size: int) -> bytes:
    digest = hashlib.sha256()
    while size and (block := os.pread(fd, min(size, _BLOCK), offset)):
        digest.update(block)
        offset += len(block)
        size -= len(block)
    return digest.digest()


def _is_zero(fd: int, start: int, stop: int) -> bool:
    """Tell whether a part of a file is zeros; holes in it are not read."""
    while start < stop:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return True
            # A file system that knows of no holes: all is read.
        block = os.pread(fd, max(min(stop - start, _BLOCK), 0), start)
        if block.strip(b"\0"):
            return False
        if not block:
            return True
        start += len(block)
    return True
