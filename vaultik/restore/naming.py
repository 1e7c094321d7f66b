"""Put things under names in a directory, and take them away: by descriptor, nothing is followed.

A name is taken by one rename, so that whoever looks finds the old thing or the new one, whole, and who has
the old one open keeps it. What is immutable is no obstacle where this user may change that.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.restore import flags

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened whose attributes are looked at or set, whatever has come into its place."""


def clear_way(directory: int, name: bytes) -> None:
    """Remove what stands where a file, link or special file goes; a directory is not removed.

    Raises:
        OSError: it is a directory, or may not be removed.
    """
    with suppress(FileNotFoundError):
        _past_flags(directory, name, lambda: os.unlink(name, dir_fd=directory))


def remove_directory(directory: int, name: bytes) -> None:
    """Remove an empty directory.

    Raises:
        OSError: it is none, isn't empty, or may not be removed.
    """
    _past_flags(directory, name, lambda: os.rmdir(name, dir_fd=directory), stat.S_ISDIR)


def rename(directory: int, old: bytes, new: bytes) -> None:
    """Give a file its name, in place of what stands there.

    Raises:
        OSError: it is a directory, or may not be replaced.
    """
    _past_flags(directory, new, lambda: os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory))


def rename_new(directory: int, old: bytes, new: bytes, new_directory: int | None = None) -> bool:
    """Give a file its name, maybe in another directory, unless something stands there. Returns whether nothing did.

    Raises:
        OSError: it may not be done.
    """
    there = directory if new_directory is None else new_directory
    try:
        linux.rename_noreplace(directory, old, there, new)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system that can't do it in one step.
        if stands(there, new) is not None:
            return False
        _past_flags(there, new, lambda: os.rename(old, new, src_dir_fd=directory, dst_dir_fd=there))
    return True


def open_directory(stack: ExitStack, path: Path) -> int:
    """Return the descriptor of a directory, closed when the stack is.

    Raises:
        OSError: it can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def stands(directory: int, name: bytes) -> os.stat_result | None:
    """Return what stands under a name, None if nothing does.

    Raises:
        OSError: that can't be told.
    """
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _past_flags(
    directory: int, name: bytes, act: Callable[[], None], may_be: Callable[[int], bool] = stat.S_ISREG
) -> None:
    """Do something to a name, even if what stands there is immutable and this user may change that."""
    try:
        act()
    except PermissionError:
        fd = _open_if(directory, name, may_be)
        if fd is None:
            raise
        try:
            loosened = flags.loosen(fd)
            if not loosened:
                raise
            try:
                act()
            finally:
                # It may have other names, outside the target too.
                if os.fstat(fd).st_nlink:
                    flags.put_back(fd, loosened)
        finally:
            os.close(fd)


def _open_if(directory: int, name: bytes, may_be: Callable[[int], bool]) -> int | None:
    """Open what stands under a name if it is of a kind; anything else (a device!) is left alone."""
    st = stands(directory, name)
    if st is None or not may_be(st.st_mode):
        return None
    try:
        return os.open(name, READ, dir_fd=directory)
    except OSError:
        return None
