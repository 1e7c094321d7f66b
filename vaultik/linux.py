"""What Linux offers and Python's os doesn't: renameat2, syncfs, statx, fallocate, umount2, inode flags, prctl."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
"""In a directory descriptor's place: paths count from the working directory."""

FORBIDDING_FLAGS = 0x30
"""Immutable and append: inode flags that forbid every change, or every other."""

NODUMP_FLAG = 0x40
"""The inode flag that says that no backup is wanted (`chattr +d`)."""

_RENAME_NOREPLACE = 1
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX = struct.Struct("=I76xqI")
"""Of what statx gives: the mask, and the birth time at offset 80."""
_Statx = ctypes.c_char * 256


def rename_noreplace(old_directory: int, old: bytes, new_directory: int, new: bytes) -> None:
    """Rename, unless the new name is taken (renameat2 with RENAME_NOREPLACE).

    Raises:
        OSError: EEXIST if it is; EINVAL where the file system can't do it.
    """
    _check(_libc.renameat2(old_directory, old, new_directory, new, _RENAME_NOREPLACE))


def syncfs(fd: int) -> None:
    """Make durable everything written to the file system that holds `fd`."""
    _check(_libc.syncfs(fd))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give back the room that a part of a file takes; it reads as zeros (fallocate with FALLOC_FL_PUNCH_HOLE)."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    _check(_libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def detach(path: bytes) -> None:
    """Unmount what is mounted at a path, at once although something of it may be open (umount2 with MNT_DETACH).

    Raises:
        OSError: nothing is, or no right.
    """
    _check(_libc.umount2(path, _MNT_DETACH | _UMOUNT_NOFOLLOW))


def birth_time_ns(directory: int, name: bytes) -> int | None:
    """Return when an entry was made (statx), None where the file system doesn't keep it.

    Args:
        directory: an open directory; with an empty name, the descriptor that is meant itself.
        name: the entry, never followed if it is a symlink.
    """
    buffer = _Statx()
    flags = _AT_SYMLINK_NOFOLLOW | (0 if name else _AT_EMPTY_PATH)
    _check(_libc.statx(directory, name, flags, _STATX_BTIME, buffer))
    mask, seconds, nanoseconds = _STATX.unpack_from(buffer)
    return seconds * 1_000_000_000 + nanoseconds if mask & _STATX_BTIME else None


def mount_of(fd: int) -> int:
    """Return the kernel's number of the mount that an open file lies in; bind mounts of one file system differ.

    Raises:
        OSError: the kernel doesn't say.
    """
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def get_inode_flags(fd: int) -> int | None:
    """Return the flags that chattr sets, None where the file system has none."""
    try:
        flags = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return None
    return int.from_bytes(flags[:4], sys.byteorder)


def has_nodump(fd: int) -> bool:
    """Tell whether an open file or directory has the flag that says that no backup is wanted."""
    return bool((get_inode_flags(fd) or 0) & NODUMP_FLAG)


def set_inode_flags(fd: int, flags: int) -> None:
    """Set the flags that chattr sets.

    Raises:
        OSError: no right, or the file system doesn't know them.
    """
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, array.array("l", [flags]))


def die_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends, also if that happened already.

    Args:
        parent: process id of the parent that is meant.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def keep_memory_private() -> None:
    """Let no core dump, debugger or other process of this user see this process's memory, nor that of its forks (prctl(2)).

    A limit of 0 alone wouldn't do: a core_pattern that pipes to a program goes without it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0))


def boottime() -> float:
    """Return seconds since boot, time asleep included; unlike the wall clock it never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
