"""Where restored entries go: directories under the target, reached by descriptors, never through a symlink."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.errors import RestoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


class Target:
    """The tree that is being written."""

    def __init__(self, copy: sqlite3.Connection, path: Path, root: int, alias: tuple[int, bytes] | None = None) -> None:
        """Open a target directory.

        Args:
            copy: the copied snapshot, for names.
            path: the directory.
            root: the entry whose contents stand directly in it.
            alias: an entry that stands in it under another name.

        Raises:
            RestoreError: it can't be opened.
        """
        self._copy = copy
        self._alias = alias
        self.root = root
        with target_errors(path):
            self.root_fd = os.open(path, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
        self._cache = DirectoryCache(root, self.root_fd, self._parent_and_name)

    def directory(self, entry: int) -> int:
        """Return a descriptor of a directory, good until the next call."""
        return self._cache.open(entry)

    def place(self, entry: int) -> tuple[int, bytes]:
        """Return where an entry stands: its directory's descriptor, good until the next call, and its name there."""
        if self._alias is not None and entry == self._alias[0]:
            return self.root_fd, self._alias[1]
        parent, name = self._parent_and_name(entry)
        return self._cache.open(parent), name

    def close(self) -> None:
        """Close every descriptor."""
        self._cache.close()
        os.close(self.root_fd)

    def _parent_and_name(self, entry: int) -> tuple[int, bytes]:
        row = self._copy.execute("SELECT parent, name FROM entries WHERE id = ?", (entry,)).fetchone()
        return row[0], row[1]


def temporary_name(entry: int) -> bytes:
    """Return the name under which a file is written until every byte of it is verified."""
    return b".vaultik-%d" % entry


def clear_way(directory: int, name: bytes) -> None:
    """Remove what stands where a file, link or special file goes; a directory is not removed.

    Raises:
        OSError: it is a directory, or may not be removed.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def make_directory(directory: int, name: bytes) -> None:
    """Make a directory, private until its attributes are set; one that is there is kept."""
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return
        os.unlink(name, dir_fd=directory)
        os.mkdir(name, 0o700, dir_fd=directory)


@contextmanager
def target_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into RestoreError that names the target."""
    try:
        yield
    except OSError as exc:
        named = os.fsdecode(exc.filename) if isinstance(exc.filename, bytes | str) else ""
        where = "" if named in ("", os.fspath(path)) else f"{named}: "
        raise RestoreError(f"target {path}: {where}{exc.strerror or exc}", hint=_HINTS.get(exc.errno or 0)) from exc


_FULL = "free some space; the same command continues"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: "make the directory that shall hold it first",
    errno.EACCES: "name a place where this user may write",
    errno.EROFS: "name a place that can be written",
    errno.EIO: "the same command continues once that is mended",
}
