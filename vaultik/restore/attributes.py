"""Give a restored entry back what Linux kept of it. What this user may not do is counted, not an error.

Order matters: a new owner clears setuid and capabilities, a new mode changes an ACL's mask, and any
write changes times; so owner, mode, xattrs, times, and inode flags (immutable!) after everything.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik import linux

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.restore.tree import Entry

OWNER = "owner"
MODE = "mode"
TIMES = "times"
XATTR = "extended attribute"
FLAGS = "inode flags"
SPECIAL = "special file"

SETTABLE_FLAGS = 0x008000FD
"""Those that chattr sets and that describe the data: immutable, append, nodump, noatime, sync, secrm, compr, nocow."""


_FORBIDDING = 0x30
"""Immutable and append."""
_OWN_XATTRS = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
"""What an entry shall have just as the snapshot says; other security labels are the restoring system's."""


class AttributeWriter:
    """Sets attributes and counts what it could not."""

    def __init__(self, copy: sqlite3.Connection) -> None:
        self._copy = copy
        self.refused: Counter[str] = Counter()

    def on_descriptor(self, entry: Entry, fd: int) -> None:
        """Set owner, mode, xattrs and times of an open file or directory."""
        owned = self._try(OWNER, lambda: os.fchown(fd, entry.uid, entry.gid))
        self._try(MODE, lambda: os.fchmod(fd, _mode(entry, owned=owned)))
        self._set_xattrs(entry, fd, follow=True)
        self._try(TIMES, lambda: os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns)))

    def loosen(self, entry: Entry, fd: int) -> None:
        """Take flags off that would forbid every change: those of an earlier try to finish the same entry."""
        present = linux.get_inode_flags(fd) if (entry.inode_flags or 0) & _FORBIDDING else None
        if present is not None and present & _FORBIDDING:
            self._try(FLAGS, lambda: linux.set_inode_flags(fd, present & ~_FORBIDDING))

    def on_name(self, entry: Entry, directory: int, name: bytes) -> None:
        """Set owner, mode (not of a symlink), xattrs and times of what must not be opened."""
        owned = self._try(OWNER, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False))
        if entry.type != "l":
            self._try(MODE, lambda: _chmod_name(name, _mode(entry, owned=owned), directory))
        self._set_xattrs(entry, b"/proc/self/fd/%d/%s" % (directory, name), follow=False)
        times = (entry.mtime_ns, entry.mtime_ns)
        self._try(TIMES, lambda: os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False))

    def set_flags(self, entry: Entry, fd: int) -> None:
        """Set the inode flags, the last thing that is done to an entry."""
        wanted = (entry.inode_flags or 0) & SETTABLE_FLAGS
        if not wanted:
            return
        present = linux.get_inode_flags(fd)
        if present is None:
            self.refused[FLAGS] += 1
        elif present & SETTABLE_FLAGS != wanted:
            self._try(FLAGS, lambda: linux.set_inode_flags(fd, present & ~SETTABLE_FLAGS | wanted))

    def _set_xattrs(self, entry: Entry, where: int | bytes, *, follow: bool) -> None:
        rows = self._copy.execute("SELECT name, value FROM xattrs WHERE entry = ?", (entry.hardlink or entry.id,))
        wanted: dict[bytes, bytes] = dict(rows.fetchall())
        # A descriptor can't be told not to follow, and need not be.
        extra: dict[str, bool] = {} if follow else {"follow_symlinks": False}
        for name in self._present(where, extra):
            if name not in wanted and name.startswith(_OWN_XATTRS):
                self._try(XATTR, lambda name=name: os.removexattr(where, name, **extra))  # type: ignore[misc]
        for name, value in wanted.items():
            self._try(XATTR, lambda name=name, value=value: os.setxattr(where, name, value, **extra))  # type: ignore[misc]

    def _present(self, where: int | bytes, extra: dict[str, bool]) -> list[bytes]:
        try:
            return [os.fsencode(name) for name in os.listxattr(where, **extra)]
        except OSError:
            return []

    def _try(self, what: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except OSError:
            self.refused[what] += 1
            return False
        return True


def _mode(entry: Entry, *, owned: bool) -> int:
    """Return the mode to set. A program must not become one that runs as whoever restored it."""
    return entry.mode if owned or entry.type == "d" else entry.mode & ~(stat.S_ISUID | stat.S_ISGID)


def _chmod_name(name: bytes, mode: int, directory: int) -> None:
    """Set the mode of what stands under a name; a symlink that was put there meanwhile isn't followed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)
