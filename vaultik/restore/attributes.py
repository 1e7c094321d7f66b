"""Give a restored entry back what Linux kept of it. What this user may not do is counted, not an error.

Order matters: a new owner clears setuid and capabilities, a new mode changes an ACL's mask, and any
write changes times; so owner, mode, xattrs, times, and inode flags (immutable!) after everything.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
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

    def on_name(self, entry: Entry, directory: int, name: bytes) -> None:
        """Set owner, mode (not of a symlink), xattrs and times of what must not be opened."""
        owned = self._try(OWNER, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False))
        if entry.type != "l":
            self._try(MODE, lambda: os.chmod(name, _mode(entry, owned=owned), dir_fd=directory))
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
        for name, value in self._copy.execute(
            "SELECT name, value FROM xattrs WHERE entry = ?", (entry.hardlink or entry.id,)
        ):
            if follow:
                self._try(XATTR, lambda name=name, value=value: os.setxattr(where, name, value))  # type: ignore[misc]
            else:
                self._try(XATTR, lambda name=name, value=value: os.setxattr(where, name, value, follow_symlinks=False))  # type: ignore[misc]

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
