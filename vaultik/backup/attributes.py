"""Read everything that Linux keeps of an entry besides its content.

What isn't captured at a change is not read again until the next one, so all of it is taken. An
attribute that can't be read (no right, not supported) is left out; the entry itself never is.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.backup import limits
from vaultik.index.entries import Attributes, signed, time_ns
from vaultik.model import EntryType, entry_type
from vaultik.snapshot.rules import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable


def of_descriptor(fd: int, st: os.stat_result, mount: int) -> Attributes:
    """Return the attributes of an open regular file or directory; `st` is its fstat."""
    return _attributes(
        st,
        mount,
        birth_ns=_or_none(lambda: linux.birth_time_ns(fd, b"")),
        inode_flags=_or_none(lambda: linux.get_inode_flags(fd)),
        xattrs=_xattrs(fd),
    )


def of_name(directory: int, name: bytes, st: os.stat_result, mount: int) -> Attributes:
    """Return the attributes of what stands under a name in an open directory; `st` is its lstat.

    Inode flags need a descriptor and are left out.

    Raises:
        OSError: a symlink is gone, or its target is longer than the format has it.
    """
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(st.st_mode) else None
    if target is not None:
        limits.check_link(target)
    return _attributes(
        st,
        mount,
        birth_ns=_or_none(lambda: linux.birth_time_ns(directory, name)),
        link_target=target,
        xattrs=_xattrs(path),
    )


def of_stat(st: os.stat_result, mount: int) -> Attributes:
    """Return what a stat alone tells: for a file that is still to be read, or can't be."""
    return _attributes(st, mount)


def made_up(now_ns: int, *, is_directory: bool) -> Attributes:
    """Return the attributes of what is on no disk: this user's, and nobody else's to read."""
    uid, gid = os.geteuid(), os.getegid()
    return Attributes(
        type=EntryType.DIRECTORY if is_directory else EntryType.FILE,
        mode=0o700 if is_directory else 0o600,
        uid=uid,
        gid=gid,
        user_name=_user_name(uid),
        group_name=_group_name(gid),
        size=0,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        birth_ns=None,
        link_target=None,
        rdev=None,
        inode_flags=None,
        inode=0,
        mount=0,
        nlink=1,
        xattrs=(),
    )


def _attributes(
    st: os.stat_result,
    mount: int,
    *,
    birth_ns: int | None = None,
    link_target: bytes | None = None,
    inode_flags: int | None = None,
    xattrs: tuple[tuple[bytes, bytes], ...] = (),
) -> Attributes:
    kind = entry_type(st.st_mode)
    return Attributes(
        type=kind,
        mode=stat.S_IMODE(st.st_mode),
        uid=st.st_uid,
        gid=st.st_gid,
        user_name=_user_name(st.st_uid),
        group_name=_group_name(st.st_gid),
        size=st.st_size if kind == EntryType.FILE else len(link_target or b""),
        mtime_ns=time_ns(st.st_mtime_ns),
        ctime_ns=time_ns(st.st_ctime_ns),
        birth_ns=None if birth_ns is None else time_ns(birth_ns),
        link_target=link_target,
        rdev=st.st_rdev if kind in (EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE) else None,
        inode_flags=inode_flags,
        inode=signed(st.st_ino),
        mount=mount,
        nlink=st.st_nlink,
        xattrs=xattrs,
    )


def _xattrs(where: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    # A descriptor can't be told not to follow, and need not be.
    extra: dict[str, bool] = {} if isinstance(where, int) else {"follow_symlinks": False}
    try:
        names = os.listxattr(where, **extra)
    except OSError:
        return ()
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            found.append((os.fsencode(name), os.getxattr(where, name, **extra)))
    return tuple(found)


def _or_none(read: Callable[[], int | None]) -> int | None:
    try:
        return read()
    except OSError:
        return None


@functools.cache
def _user_name(uid: int) -> str | None:
    try:
        return _text(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return None


@functools.cache
def _group_name(gid: int) -> str | None:
    try:
        return _text(grp.getgrgid(gid).gr_name)
    except KeyError:
        return None


def _text(name: str) -> str | None:
    if len(name) > LONGEST_NAME:
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return name
