"""Reach any directory of a tree by descriptors, never by a long path and never through a symlink.

A tree may be deeper than PATH_MAX and than the number of descriptors a process may hold. The cache
keeps a bounded number of directories open and opens the others again, walking down from the nearest
one that is. It knows nothing of what a caller does there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from vaultik.errors import LocalIndexError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private(directory: Path) -> None:
    """Make a directory, 0700, and those above it; leave one that is there as it is, if nobody plants names in it.

    Who may write in a directory can put a link, or a file of theirs, in the place of any that is made there later. A
    sticky bit doesn't keep them from it.

    Raises:
        LocalIndexError: everybody may write in it.
        OSError: it can't be made; ELOOP if it is a symlink of another user's.
    """
    for place in reversed([directory, *directory.parents]):
        if not os.path.lexists(place):
            place.mkdir(mode=0o700, exist_ok=True)
    link = directory.lstat()
    if stat.S_ISLNK(link.st_mode) and not _is_trusted(link):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if found.st_mode & stat.S_IWOTH:
        raise LocalIndexError(
            f"{directory}: everybody may write in it",
            hint="name a directory below it, which is made for this user alone"
            + ("" if found.st_mode & stat.S_ISVTX else f", or: chmod o-w {directory}"),
        )


def others_may_write(directory: Path) -> bool:
    """Tell whether anybody but this user and root may write in a directory, or give it such rights.

    Raises:
        OSError: it can't be looked at.
    """
    found = directory.stat()
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) or not _is_trusted(found)


def _is_trusted(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


def sync_directory(directory: Path) -> None:
    """Make durable which names a directory holds."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class DirectoryCache:
    """Descriptors of a tree's directories by id, at most `capacity` at a time.

    A descriptor that `open` gave stays valid until the next call of `open` or `close`.
    """

    def __init__(
        self, root_id: int, root_fd: int, lookup: Callable[[int], tuple[int, bytes]], capacity: int = 128
    ) -> None:
        """Begin at an open root, which stays the caller's.

        Args:
            root_id: id of the directory behind `root_fd`.
            root_fd: an open directory.
            lookup: gives (parent id, name) of any other directory's id.
            capacity: how many descriptors to hold at most, at least 2.
        """
        self._root_id = root_id
        self._root_fd = root_fd
        self._lookup = lookup
        self._capacity = capacity
        self._fds: OrderedDict[int, int] = OrderedDict()

    def open(self, directory: int) -> int:
        """Return a descriptor of the directory: one to open names by (`dir_fd`), to list it open "." again.

        Raises:
            OSError: it is gone, isn't a directory (any more) or may not be reached.
        """
        missing: list[tuple[int, bytes]] = []
        at = directory
        while at != self._root_id and at not in self._fds:
            parent, name = self._lookup(at)
            missing.append((at, name))
            at = parent
        fd = self._root_fd if at == self._root_id else self._fds[at]
        if at != self._root_id:
            self._fds.move_to_end(at)
        for at, name in reversed(missing):
            fd = self._keep(at, _open(name, fd))
        return fd

    def forget(self, directory: int) -> None:
        """Close a directory that won't be asked for again soon."""
        fd = self._fds.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close every descriptor but the root's."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _keep(self, directory: int, fd: int) -> int:
        if len(self._fds) >= self._capacity:
            # The newest one is the parent that the next step needs.
            os.close(self._fds.popitem(last=False)[1])
        self._fds[directory] = fd
        return fd


def _open(name: bytes, parent: int) -> int:
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    except PermissionError:
        # One that may not be listed may still be passed through.
        return os.open(name, OPEN_DIRECTORY | os.O_PATH, dir_fd=parent)
