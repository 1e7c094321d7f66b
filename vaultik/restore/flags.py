"""The inode flags that chattr sets: what only an empty file takes first, what forbids every change last of all."""

from __future__ import annotations

from contextlib import suppress

from vaultik import linux

SETTABLE_FLAGS = 0x6283C4FF
"""Those that chattr sets and that describe the data: secrm, undel, compr, sync, immutable, append, nodump, noatime,
nocomp, journal data, notail, dirsync, topdir, nocow, dax, project inherit, casefold."""
_WHILE_EMPTY = 0x40800000
"""Casefold and nocow: of an empty directory or file only."""
_NOT_INHERITED = 0x100F8
"""Sync, immutable, append, nodump, noatime, dirsync: what an entry has of its directory only, the snapshot's hasn't.
Others say how this file system stores what comes into a directory, which is its administrator's business."""


def surplus(fd: int, wanted: int) -> int:
    """Return the flags of an open file or directory that go, since those wanted are others."""
    return (linux.get_inode_flags(fd) or 0) & _NOT_INHERITED & ~wanted


def begin(fd: int, wanted: int) -> bool:
    """Set what only an empty file takes, and take off what came by inheritance; `finish` tells what didn't stay.

    Returns:
        Whether there was nothing to do, nor will be for another one in the same directory that wants no more.
    """
    present = linux.get_inode_flags(fd)
    if present is None:
        return not wanted
    new = present & ~(_NOT_INHERITED & ~wanted) | wanted & _WHILE_EMPTY
    if new != present:
        with suppress(OSError):
            linux.set_inode_flags(fd, new)
    return not wanted and not present & _NOT_INHERITED


def forbidding(fd: int) -> int:
    """Return the flags of an open file or directory that forbid every change."""
    return (linux.get_inode_flags(fd) or 0) & linux.FORBIDDING_FLAGS


def put_back(fd: int, loosened: int) -> None:
    """Set flags again that were taken off."""
    present = linux.get_inode_flags(fd)
    if present is not None and loosened & ~present:
        _set(fd, present, present | loosened)


def loosen(fd: int, also: int = 0) -> int:
    """Take flags off that would forbid every change, and others with them. Returns which; where this user may not, they stay."""
    present = linux.get_inode_flags(fd) or 0
    off = present & (linux.FORBIDDING_FLAGS | also)
    if off:
        with suppress(OSError):
            linux.set_inode_flags(fd, present & ~off)
            return off
    return 0


def finish(fd: int, wanted: int) -> bool:
    """Set the flags, the last thing that is done to an entry. Returns whether all of them stand."""
    present = linux.get_inode_flags(fd)
    if present is None:
        return not wanted
    new = present & ~(_NOT_INHERITED & ~wanted) | wanted
    if new != present:
        _set(fd, present, new)
        present = linux.get_inode_flags(fd) or 0
    return present & wanted == wanted


def _set(fd: int, present: int, new: int) -> None:
    """Set flags, all at once or, where the file system refuses one of them, as many as it takes."""
    with suppress(OSError):
        linux.set_inode_flags(fd, new)
        return
    with suppress(OSError):
        linux.set_inode_flags(fd, present & new)
    added = new & ~present
    bits = [1 << number for number in range(32) if added & ~linux.FORBIDDING_FLAGS & 1 << number]
    for bit in [*bits, added & linux.FORBIDDING_FLAGS]:
        with suppress(OSError):
            linux.set_inode_flags(fd, (linux.get_inode_flags(fd) or present) | bit)
