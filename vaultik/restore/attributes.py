"""Give a restored entry back what Linux kept of it. What this user may not do is counted, not an error.

Order matters. A new owner clears setuid and capabilities, and without rights only a writable entry takes
user attributes; a new mode changes an ACL's mask; any write changes times. So: owner, xattrs, mode, ACLs,
times, and inode flags (immutable!) after everything.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.model import EntryType

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.snapshot.tree import Entry

OWNER = "owner"
MODE = "mode"
TIMES = "times"
XATTR = "extended attribute"
FLAGS = "inode flags"
SPECIAL = "special file"

SETTABLE_FLAGS = 0x6283C4FF
"""Those that chattr sets and that describe the data: secrm, undel, compr, sync, immutable, append, nodump, noatime,
nocomp, journal data, notail, dirsync, topdir, nocow, dax, project inherit, casefold."""
_WHILE_EMPTY = 0x40800000
"""Casefold and nocow: of an empty directory or file only."""
_OWN_XATTRS = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
"""What an entry shall have just as the snapshot says; other security labels are the restoring system's."""
_ACLS = b"system.posix_acl_"
_ACCESS_ACL = b"system.posix_acl_access"
_ALL = 0o7777
_KEEP = 1000


class AttributeWriter:
    """Sets attributes and counts, for each entry, what it could not."""

    def __init__(self, copy: sqlite3.Connection) -> None:
        self._copy = copy
        self._refused: Counter[tuple[int, str]] = Counter()
        self._last = 0
        (self._has_xattrs,) = copy.execute("SELECT EXISTS (SELECT 1 FROM xattrs)").fetchone()

    def on_descriptor(self, entry: Entry, fd: int) -> None:
        """Set owner, xattrs, mode and times of an open file or directory."""
        owned = self._try(entry, OWNER, lambda: os.fchown(fd, entry.uid, entry.gid))
        if entry.type == "d" and not os.fstat(fd).st_mode & stat.S_IWUSR:
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o700)
        self._with_xattrs(entry, fd, lambda bits: os.fchmod(fd, _mode(entry, owned=owned) & bits))
        self._try(entry, TIMES, lambda: os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns)))

    def on_name(self, entry: Entry, directory: int, name: bytes) -> None:
        """Set owner, xattrs, mode (not of a symlink) and times of what must not be opened."""
        owned = self._try(
            entry, OWNER, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        )

        def set_mode(bits: int) -> None:
            _chmod_name(name, _mode(entry, owned=owned) & bits, directory)

        path = b"/proc/self/fd/%d/%s" % (directory, name)
        self._with_xattrs(entry, path, None if entry.type == "l" else set_mode)
        times = (entry.mtime_ns, entry.mtime_ns)
        self._try(entry, TIMES, lambda: os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False))

    def agree(self, entry: Entry, st: os.stat_result, where: int | bytes) -> bool:
        """Tell whether an entry has the owner, mode and xattrs of the snapshot already; times and flags are others' business.

        Args:
            entry: what the snapshot says.
            st: what its stat says.
            where: its descriptor, or a path that leads to it and not through it.
        """
        if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
            return False
        if entry.type != EntryType.SYMLINK and stat.S_IMODE(st.st_mode) != entry.mode:
            return False
        extra: dict[str, bool] = {} if isinstance(where, int) else {"follow_symlinks": False}
        query = "SELECT name, value FROM xattrs WHERE entry = ?"
        missing = set(_present(where, extra))
        for name, value in self._copy.execute(query, (entry.hardlink or entry.id,)):
            missing.discard(name)
            try:
                if os.getxattr(where, name, **extra) != value:
                    return False
            except OSError:
                return False
        return not any(name.startswith(_OWN_XATTRS) for name in missing)

    def on_creation(self, entry: Entry, fd: int) -> None:
        """Set the flags that only what is still empty takes; `set_flags` counts those that didn't stay."""
        wanted = (entry.inode_flags or 0) & _WHILE_EMPTY
        present = linux.get_inode_flags(fd) if wanted else None
        if present is not None:
            with contextlib.suppress(OSError):
                linux.set_inode_flags(fd, present | wanted)

    def loosen(self, fd: int) -> None:
        """Take flags off that would forbid every change; those of the snapshot are set last."""
        present = linux.get_inode_flags(fd)
        if present is not None and present & linux.FORBIDDING_FLAGS:
            with contextlib.suppress(OSError):
                linux.set_inode_flags(fd, present & ~linux.FORBIDDING_FLAGS)

    def set_flags(self, entry: Entry, fd: int) -> None:
        """Set the inode flags, the last thing that is done to an entry. What doesn't stay set counts as refused."""
        wanted = (entry.inode_flags or 0) & SETTABLE_FLAGS
        if not wanted:
            return
        present = linux.get_inode_flags(fd)
        if present is not None and present & SETTABLE_FLAGS != wanted:
            _set_flags(fd, present, wanted)
            present = linux.get_inode_flags(fd)
        if present is None or present & wanted != wanted:
            self.refuse(entry.id, FLAGS)

    def refuse(self, entry: int, what: str, count: int = 1) -> None:
        """Count what could not be set of an entry."""
        if len(self._refused) >= _KEEP and entry != self._last:
            self.flush()
        self._refused[entry, what] += count
        self._last = entry

    def flush(self) -> None:
        """Note the counts in the plan; an entry that is done again is not counted twice."""
        self._copy.executemany(
            "INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", [(*key, count) for key, count in self._refused.items()]
        )
        self._refused.clear()

    def _with_xattrs(self, entry: Entry, where: int | bytes, set_mode: Callable[[int], None] | None) -> None:
        """Set xattrs, which may need a writable entry, then ACLs, then the mode, of which it takes bits.

        With an ACL the mode's group bits are the most that anybody it names has, not what the group has: so it
        comes before, and where it is refused the group gets nothing.
        """
        of = entry.hardlink or entry.id
        # Linux lists 64 KiB of names; their values may be a thousand times that and are read one by one.
        query = "SELECT name FROM xattrs WHERE entry = ?"
        names = [name for (name,) in self._copy.execute(query, (of,))] if self._has_xattrs else []
        # A descriptor can't be told not to follow, and need not be.
        extra: dict[str, bool] = {} if isinstance(where, int) else {"follow_symlinks": False}
        for name in _present(where, extra):
            if name not in names and name.startswith(_OWN_XATTRS):
                self._try(entry, XATTR, functools.partial(os.removexattr, where, name, **extra))
        bits = _ALL
        for name in sorted(names, key=lambda name: name.startswith(_ACLS)):
            query = "SELECT value FROM xattrs WHERE entry = ? AND name = ?"
            (value,) = self._copy.execute(query, (of, name)).fetchone()
            done = self._try(entry, XATTR, functools.partial(os.setxattr, where, name, value, **extra))
            if not done and name == _ACCESS_ACL:
                bits &= ~stat.S_IRWXG
        if set_mode is not None:
            self._try(entry, MODE, lambda: set_mode(bits))

    def _try(self, entry: Entry, what: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except OSError:
            self.refuse(entry.id, what)
            return False
        return True


def _present(where: int | bytes, extra: dict[str, bool]) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listxattr(where, **extra)]
    except OSError:
        return []


def _set_flags(fd: int, present: int, wanted: int) -> None:
    """Set flags, all at once or, where the file system refuses one of them, as many as it takes."""
    with contextlib.suppress(OSError):
        linux.set_inode_flags(fd, present & ~SETTABLE_FLAGS | wanted)
        return
    bits = [1 << number for number in range(32) if wanted & ~linux.FORBIDDING_FLAGS & 1 << number]
    for bit in [*bits, wanted & linux.FORBIDDING_FLAGS]:
        with contextlib.suppress(OSError):
            linux.set_inode_flags(fd, (linux.get_inode_flags(fd) or present) | bit)


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
