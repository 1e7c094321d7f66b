"""What a path of the mounted file system leads to, and what stat(2) says of what no snapshot has."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from vaultik.mount.catalog import Link

if TYPE_CHECKING:
    from vaultik.mount.catalog import Directory, Place
    from vaultik.snapshot.find import FoundSnapshot

_OWN_INODES = 1 << 62


class Attributes(NamedTuple):
    """What stat(2) says. Times in nanoseconds since 1970."""

    mode: int
    inode: int
    links: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    """Of 512 bytes: what isn't hole."""
    mtime_ns: int
    ctime_ns: int


class Inside(NamedTuple):
    """A place in a snapshot, where nobody has looked yet."""

    found: FoundSnapshot
    names: tuple[bytes, ...]


class Shown(NamedTuple):
    """The directory that stands for a snapshot among others. Its attributes are made up: a listing opens none of them."""

    found: FoundSnapshot
    names: tuple[bytes, ...] = ()


def get_place(top: Place, path: bytes) -> Inside | Shown | Link | Directory:
    """Return what a path leads to, without a look into any snapshot.

    Raises:
        OSError: the catalog has no such name.
    """
    names = [name for name in path.split(b"/") if name]
    place = top
    for depth, name in enumerate(names):
        if isinstance(place, Link):
            raise posix_error(errno.ENOTDIR)
        if not isinstance(place, dict):
            return Inside(place, tuple(names[depth:]))
        if name not in place:
            raise posix_error(errno.ENOENT)
        place = place[name]
    if isinstance(place, (dict, Link)):
        return place
    return Shown(place) if names else Inside(place, ())


def made_up(mode: int, inode: int, time_ns: int, size: int = 0) -> Attributes:
    """Return the attributes of what no snapshot has: this user's."""
    return Attributes(mode, inode, 1, os.geteuid(), os.getegid(), 0, size, 0, time_ns, time_ns)


def made_up_inode(path: bytes) -> int:
    """Return the inode of what no snapshot has."""
    return _OWN_INODES | int.from_bytes(hashlib.blake2b(path, digest_size=6).digest(), "big")


def posix_error(number: int) -> OSError:
    """Return the error of an errno."""
    return OSError(number, os.strerror(number))
