"""Where restored entries go: directories under the target, reached by descriptors, never through a symlink."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.errors import RestoreError, UnsafePathError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FATAL = frozenset(
    [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENODEV]
)


class Target:
    """The tree that is being written."""

    def __init__(
        self, copy: sqlite3.Connection, path: Path, root: int, token: str, alias: tuple[int, bytes] | None = None
    ) -> None:
        """Open a target directory.

        Args:
            copy: the copied snapshot, for names.
            path: the directory.
            root: the entry whose contents stand directly in it.
            token: this restore's part of temporary names.
            alias: an entry that stands in it under another name.

        Raises:
            RestoreError: it can't be opened.
        """
        self._copy = copy
        self._alias = alias
        self._token = token.encode()
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

    def temporary(self, entry: int) -> tuple[int, bytes]:
        """Return where a file is written until every byte of it is verified; nobody else has that name."""
        directory, _ = self.place(entry)
        return directory, b".vaultik-%s-%d" % (self._token, entry)

    def open_temporary(self, entry: int, *, fresh: bool) -> int:
        """Open a file under its temporary name.

        Args:
            entry: the file.
            fresh: it begins empty; else what other blobs have written to it is kept.

        Raises:
            OSError: it can't be made, or what stands there isn't what was written before.
        """
        directory, name = self.temporary(entry)
        if fresh:
            clear_way(directory, name)
        try:
            return os.open(name, _CREATE, 0o600, dir_fd=directory)
        except FileExistsError:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_nlink != 1 or st.st_uid != os.geteuid():
            os.close(fd)
            raise PermissionError(errno.EPERM, "somebody else's file is in the way")
        return fd

    def close(self) -> None:
        """Close every descriptor."""
        self._cache.close()
        os.close(self.root_fd)

    def _parent_and_name(self, entry: int) -> tuple[int, bytes]:
        parent, name = self._copy.execute("SELECT parent, name FROM entries WHERE id = ?", (entry,)).fetchone()
        # The copy's rules hold this; it is looked at once more where it would do harm.
        if name in (b"", b".", b"..") or b"/" in name:
            raise UnsafePathError(f"entry {entry}: its name would lead out of the target")
        return parent, name


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


def is_fatal(exc: OSError) -> bool:
    """Tell whether an error is the whole target's and not one entry's."""
    return exc.errno in _FATAL


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
