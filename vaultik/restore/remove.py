"""Remove what stands under a name, with all that is below it: by descriptors, through no symlink, into no other mount.

Whatever stays, and why, is told; a directory in which something stays is kept.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.directories import DirectoryCache
from vaultik.restore import flags
from vaultik.restore.naming import clear_way, remove_directory, stands
from vaultik.restore.target import is_fatal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOUNTED = "something is mounted there; nothing was removed in it"
STORE = "the store lies there; nothing was removed in it"
IDENTITY = "the identity that is in use; it stays"


class _Folder:
    """A directory on the way to being empty."""

    def __init__(self, number: int, path: bytes, below: list[bytes], *, kept: bool) -> None:
        self.number = number
        self.path = path
        self.below = below
        """Directories in it that are still to be emptied."""
        self.kept = kept
        """Whether something in it stays."""


class Remover:
    """Removes trees within one mount."""

    def __init__(
        self,
        mount: int,
        spared: Mapping[tuple[int, int], str],
        wanted: Callable[[bytes, bool], bool],
        note: Callable[[bytes, str, bool], None],
    ) -> None:
        """Prepare.

        Args:
            mount: the one in which things may be removed.
            spared: what stays, a directory with all that is in it, by device and inode; and why.
            wanted: tells of a path, and whether it is a directory, if it may go.
            note: is told the path of what stays although it was wanted away, why, and whether that is a failure.
        """
        self._mount = mount
        self._spared = spared
        self._wanted = wanted
        self._note = note
        self.removed = 0

    def remove(self, directory: int, name: bytes, path: bytes) -> bool:
        """Remove what stands under a name in an open directory; `path` is what it is called. Returns whether it is gone."""
        st = stands(directory, name)
        if st is None:
            return True
        if not self._wanted(path, stat.S_ISDIR(st.st_mode)) or self._is_spared(st, path):
            return False
        if not stat.S_ISDIR(st.st_mode):
            return self._unlink(directory, name, path)
        return self.empty(directory, name, path) and self._rmdir(directory, name, path)

    def empty(self, directory: int, name: bytes, path: bytes) -> bool:
        """Remove what is in a directory, as far as it may go. Returns whether nothing is left in it."""
        ways: dict[int, tuple[int, bytes]] = {1: (0, name)}
        with closing(DirectoryCache(0, directory, ways.__getitem__)) as folders:
            todo = [self._look(folders, 1, path)]
            while True:
                at = todo[-1]
                if at.below:
                    number = at.number + 1
                    below = at.below.pop()
                    folders.forget(number)
                    ways[number] = (at.number, below)
                    todo.append(self._look(folders, number, at.path + b"/" + below))
                    continue
                todo.pop()
                if not todo:
                    return not at.kept
                folders.forget(at.number)
                if at.kept or not self._rmdir(folders.open(at.number - 1), ways[at.number][1], at.path):
                    todo[-1].kept = True

    def _look(self, folders: DirectoryCache, number: int, path: bytes) -> _Folder:
        """Remove what isn't a directory from one, and tell what is left to do in it."""
        folder = _Folder(number, path, [], kept=False)
        try:
            fd = folders.open(number)
            if linux.mount_of(fd) != self._mount:
                self._note(path, MOUNTED, False)  # noqa: FBT003 - a callback's
                folder.kept = True
                return folder
            if self._is_spared(os.fstat(fd), path):
                folder.kept = True
                return folder
            for name in names_in(fd):
                self._one(folder, fd, name)
        except OSError as exc:
            self._failed(path, exc)
            folder.kept = True
        return folder

    def _one(self, folder: _Folder, fd: int, name: bytes) -> None:
        path = folder.path + b"/" + name
        st = stands(fd, name)
        if st is None:
            return
        is_directory = stat.S_ISDIR(st.st_mode)
        if not self._wanted(path, is_directory) or (not is_directory and self._is_spared(st, path)):
            folder.kept = True
        elif is_directory:
            folder.below.append(name)
        elif not self._unlink(fd, name, path):
            folder.kept = True

    def _is_spared(self, st: os.stat_result, path: bytes) -> bool:
        why = self._spared.get(inode_of(st))
        if why is not None:
            self._note(path, why, False)  # noqa: FBT003 - a callback's
        return why is not None

    def _unlink(self, directory: int, name: bytes, path: bytes) -> bool:
        try:
            _past_flags_of(directory, lambda: clear_way(directory, name))
        except OSError as exc:
            self._failed(path, exc)
            return False
        self.removed += 1
        return True

    def _rmdir(self, directory: int, name: bytes, path: bytes) -> bool:
        try:
            _past_flags_of(directory, lambda: remove_directory(directory, name))
        except OSError as exc:
            self._failed(path, exc)
            return False
        self.removed += 1
        return True

    def _failed(self, path: bytes, exc: OSError) -> None:
        if is_fatal(exc):
            raise exc
        if exc.errno == errno.EBUSY:
            self._note(path, MOUNTED, False)  # noqa: FBT003 - a callback's
        else:
            self._note(path, f"could not be removed: {exc.strerror or exc}", True)  # noqa: FBT003 - as above


def _past_flags_of(directory: int, act: Callable[[], None]) -> None:
    """Do something in a directory, even if it is immutable and this user may change that."""
    try:
        act()
    except PermissionError:
        loosened = flags.loosen(directory)
        try:
            act()
        finally:
            flags.put_back(directory, loosened)


def inode_of(st: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from all others."""
    return st.st_dev, st.st_ino


def names_in(fd: int) -> list[bytes]:
    """Return the names in an open directory, whether it was opened for that or only to pass through.

    Raises:
        OSError: it can't be listed.
    """
    listing = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        return [os.fsencode(name) for name in os.listdir(listing)]  # noqa: PTH208 - by descriptor
    finally:
        os.close(listing)
