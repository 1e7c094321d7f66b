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

from vaultik.model import EntryType
from vaultik.restore import acl, flags, kept, owners
from vaultik.restore.kept import Kept
from vaultik.restore.naming import READ

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.snapshot.tree import Entry

OWNER = "owner"
MODE = "mode"
TIMES = "times"
XATTR = "extended attribute"
CAPABILITY = "file capability"
ACL = "ACL"
FLAGS = "inode flags"
SPECIAL = "special file"

_OWN_XATTRS = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
"""What an entry shall have just as the snapshot says; other security labels are the restoring system's."""
_ACLS = b"system.posix_acl_"
_ACCESS_ACL = b"system.posix_acl_access"
_CAPABILITY = b"security.capability"
_ALL = 0o7777
_EVERYTHING = Kept()
_KEEP = 1000


class AttributeWriter:
    """Sets attributes and counts, for each entry, what it could not."""

    def __init__(self, copy: sqlite3.Connection, keeps: Kept = _EVERYTHING) -> None:
        """Prepare to give back what `keeps` says of the entries of a copied snapshot that has a plan."""
        self._copy = copy
        self.keeps = keeps
        self._refused: Counter[tuple[int, str]] = Counter()
        self._last = 0
        (self._has_xattrs,) = copy.execute("SELECT EXISTS (SELECT 1 FROM xattrs)").fetchone()

    def on_descriptor(self, entry: Entry, fd: int) -> None:
        """Set owner, xattrs, mode and times of an open file or directory."""
        owned = self._own(entry, lambda uid, gid: os.fchown(fd, uid, gid))
        if entry.type == "d" and self.keeps.has(kept.MODE) and not os.fstat(fd).st_mode & stat.S_IWUSR:
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o700)
        self._with_xattrs(entry, fd, lambda bits: os.fchmod(fd, self._mode(entry, owned=owned) & bits))
        self._set_times(entry, lambda times: os.utime(fd, ns=times))

    def on_name(self, entry: Entry, directory: int, name: bytes) -> None:
        """Set owner, xattrs, mode (not of a symlink) and times of what was just made and must not be opened."""
        owned = self._own(entry, lambda uid, gid: os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False))

        def set_mode(bits: int) -> None:
            mode = self._mode(entry, owned=owned) if self.keeps.has(kept.MODE) else default_mode(entry.type)
            _chmod_name(name, mode & bits, directory)

        path = b"/proc/self/fd/%d/%s" % (directory, name)
        self._with_xattrs(entry, path, None if entry.type == EntryType.SYMLINK else set_mode, always=True)
        self._set_times(entry, lambda times: os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False))

    def agree(self, entry: Entry, st: os.stat_result, where: int | bytes) -> bool:
        """Tell whether an entry has the owner, mode and xattrs that it shall have; times and flags are others' business.

        Args:
            entry: what the snapshot says.
            st: what its stat says.
            where: its descriptor, or a path that leads to it and not through it.
        """
        owned = self.keeps.has(kept.OWNER)
        if owned and (st.st_uid, st.st_gid) != self._owner(entry):
            return False
        if (
            entry.type != EntryType.SYMLINK
            and self.keeps.has(kept.MODE)
            and stat.S_IMODE(st.st_mode) != self._mode(entry, owned=owned)
        ):
            return False
        extra: dict[str, bool] = {} if isinstance(where, int) else {"follow_symlinks": False}
        query = "SELECT name, value FROM xattrs WHERE entry = ?"
        missing = set(_present(where, extra))
        for name, value in self._copy.execute(query, (entry.hardlink or entry.id,)).fetchall():
            missing.discard(name)
            try:
                if self._keeps_xattr(name) and os.getxattr(where, name, **extra) != self._value(name, value):
                    return False
            except OSError:
                return False
        return not any(name.startswith(_OWN_XATTRS) and self._keeps_xattr(name) for name in missing)

    def same_time(self, entry: Entry, st: os.stat_result) -> bool:
        """Tell whether there is nothing to set of an entry's time."""
        return st.st_mtime_ns == entry.mtime_ns or not self.keeps.has(kept.TIMES)

    def on_creation(self, entry: Entry, fd: int) -> None:
        """Give what was just made, and is empty, the flags that only such a one takes, and the mode of a new one if it gets no other."""
        if (wanted := self._flags(entry)) is not None:
            flags.begin(fd, wanted)
        if not self.keeps.has(kept.MODE):
            self._try(entry, MODE, lambda: os.fchmod(fd, default_mode(entry.type)))

    def has_surplus_flags(self, entry: Entry, directory: int, name: bytes) -> bool:
        """Tell whether a file that stands under a name has flags that the snapshot's hasn't."""
        wanted = self._flags(entry)
        if wanted is None:
            return False
        try:
            fd = os.open(name, READ, dir_fd=directory)
        except OSError:
            return False
        try:
            return bool(flags.surplus(fd, wanted))
        finally:
            os.close(fd)

    def loosen(self, entry: Entry, fd: int) -> None:
        """Take flags off that would forbid every change, or that the entry shall not have; its own are set last."""
        wanted = self._flags(entry)
        flags.loosen(fd, 0 if wanted is None else flags.surplus(fd, wanted))

    def set_flags(self, entry: Entry, fd: int) -> None:
        """Set the inode flags, the last thing that is done to an entry. What doesn't stay set counts as refused."""
        wanted = self._flags(entry)
        if wanted is not None and not flags.finish(fd, wanted):
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

    def _owner(self, entry: Entry) -> tuple[int, int]:
        to = self.keeps.owners
        return to.users.here(entry.uid, entry.user_name), to.groups.here(entry.gid, entry.group_name)

    def _own(self, entry: Entry, chown: Callable[[int, int], None]) -> bool:
        """Set owner and group, or the group alone if that is what this user may. Returns whether both are right."""
        if not self.keeps.has(kept.OWNER):
            return False
        uid, gid = self._owner(entry)
        if self._try(entry, OWNER, lambda: chown(uid, gid)):
            return True
        with contextlib.suppress(OSError):
            chown(-1, gid)
        return False

    def _mode(self, entry: Entry, *, owned: bool) -> int:
        """Return the mode to set. A program must not become one that runs as whoever restored it, nor, by a rule, as root."""
        mode = entry.mode if self.keeps.has(kept.ACLS) else self._mode_alone(entry)
        if entry.type == EntryType.DIRECTORY:
            return mode
        uid, gid = self._owner(entry)
        if not owned or (uid == 0 and entry.uid):
            mode &= ~stat.S_ISUID
        if not owned or (gid == 0 and entry.gid):
            mode &= ~stat.S_ISGID
        return mode

    def _mode_alone(self, entry: Entry) -> int:
        """Return the mode of one that gets no ACL: its group bits are the group's own, not the most that anybody has."""
        query = "SELECT value FROM xattrs WHERE entry = ? AND name = ?"
        row = self._copy.execute(query, (entry.hardlink or entry.id, _ACCESS_ACL)).fetchone()
        return entry.mode & (~stat.S_IRWXG | acl.group_permissions(row[0]) << 3) if row else entry.mode

    def _flags(self, entry: Entry) -> int | None:
        """Return the flags to set, None where nothing is known or wanted of them."""
        if entry.inode_flags is None or not self.keeps.has(kept.FLAGS):
            return None
        return entry.inode_flags & flags.SETTABLE_FLAGS

    def _set_times(self, entry: Entry, utime: Callable[[tuple[int, int]], None]) -> None:
        if self.keeps.has(kept.TIMES):
            self._try(entry, TIMES, lambda: utime((entry.mtime_ns, entry.mtime_ns)))

    def _keeps_xattr(self, name: bytes) -> bool:
        return self.keeps.has(kept.ACLS if name.startswith(_ACLS) else kept.XATTRS)

    def _value(self, name: bytes, value: bytes) -> bytes:
        """Return what an xattr shall be here: an ACL names users and groups by their numbers."""
        if not name.startswith(_ACLS):
            return value
        to = self.keeps.owners
        return acl.with_ids(
            value,
            lambda number: to.users.here(number, owners.name_of(self._copy, "user", number)),
            lambda number: to.groups.here(number, owners.name_of(self._copy, "group", number)),
        )

    def _with_xattrs(
        self, entry: Entry, where: int | bytes, set_mode: Callable[[int], None] | None, *, always: bool = False
    ) -> None:
        """Set xattrs, which may need a writable entry, then ACLs, then the mode, of which it takes bits.

        With an ACL the mode's group bits are the most that anybody it names has, not what the group has: so it
        comes before, and where it is refused the group gets nothing. The mode is set if modes are kept, or `always`.
        """
        of = entry.hardlink or entry.id
        # Linux lists 64 KiB of names; their values may be a thousand times that and are read one by one.
        query = "SELECT name FROM xattrs WHERE entry = ?"
        names = [name for (name,) in self._copy.execute(query, (of,))] if self._has_xattrs else []
        # A descriptor can't be told not to follow, and need not be.
        extra: dict[str, bool] = {} if isinstance(where, int) else {"follow_symlinks": False}
        for name in filter(self._keeps_xattr, _present(where, extra)):
            if name not in names and name.startswith(_OWN_XATTRS):
                self._try(entry, _class_of(name), functools.partial(os.removexattr, where, name, **extra))
        bits = _ALL
        for name in sorted(filter(self._keeps_xattr, names), key=lambda name: name.startswith(_ACLS)):
            query = "SELECT value FROM xattrs WHERE entry = ? AND name = ?"
            (value,) = self._copy.execute(query, (of, name)).fetchone()
            value = self._value(name, value)
            done = self._try(entry, _class_of(name), functools.partial(os.setxattr, where, name, value, **extra))
            if not done and name == _ACCESS_ACL:
                bits &= ~stat.S_IRWXG
        if set_mode is not None and (always or self.keeps.has(kept.MODE)):
            self._try(entry, MODE, lambda: set_mode(bits))

    def _try(self, entry: Entry, what: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except OSError:
            self.refuse(entry.id, what)
            return False
        return True


def default_mode(kind: str) -> int:
    """Return the mode that anything new of a kind gets from this process."""
    return (0o777 if kind == EntryType.DIRECTORY else 0o666) & ~_umask()


@functools.cache
def _umask() -> int:
    # To ask umask(2) is to change it, for every thread.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


def _class_of(name: bytes) -> str:
    """Return what an xattr is counted as."""
    if name == _CAPABILITY:
        return CAPABILITY
    return ACL if name.startswith(_ACLS) else XATTR


def _present(where: int | bytes, extra: dict[str, bool]) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listxattr(where, **extra)]
    except OSError:
        return []


def _chmod_name(name: bytes, mode: int, directory: int) -> None:
    """Set the mode of what stands under a name; a symlink that was put there meanwhile isn't followed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)
