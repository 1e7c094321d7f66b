"""Give a restored entry back what Linux kept of it. What this user may not do is counted, not an error.

Order matters. A new owner clears setuid and capabilities, and without rights only a writable entry takes
user attributes; what an ACL allows depends on the mode; any write changes times. So: owner, xattrs, ACLs, mode,
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
from vaultik.restore import flags, kept
from vaultik.restore.kept import Kept
from vaultik.restore.naming import READ
from vaultik.restore.xattrs import Xattrs

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.snapshot.tree import Entry

OWNER = "owner"
MODE = "mode"
SETID = "setuid or setgid"
TIMES = "times"
FLAGS = "inode flags"
SPECIAL = "special file"

_KEEP = 1000
_NOBODY = (1 << 32) - 1
"""The one number that no owner has."""
_EVERYTHING = Kept()


class AttributeWriter:
    """Sets attributes and counts, for each entry, what it could not."""

    def __init__(self, copy: sqlite3.Connection, keeps: Kept = _EVERYTHING) -> None:
        """Prepare to give back what `keeps` says of the entries of a copied snapshot that has a plan."""
        self._copy = copy
        self.keeps = keeps
        self._refused: Counter[tuple[int, str]] = Counter()
        self._last = 0
        self._plain: int | None = None
        """The directory of which it is known that its new files have no flags."""
        self._xattrs = Xattrs(copy, keeps)

    def on_descriptor(self, entry: Entry, fd: int) -> None:
        """Set owner, xattrs, mode and times of an open file or directory."""
        owned = self._own(entry, lambda uid, gid: os.fchown(fd, uid, gid))
        if entry.type == "d" and self.keeps.has(kept.MODE) and not os.fstat(fd).st_mode & stat.S_IWUSR:
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o700)
        bits = self._xattrs.put(entry, fd, functools.partial(self._try, entry))
        if self.keeps.has(kept.MODE):
            self._try(entry, MODE, lambda: os.fchmod(fd, self._new_mode(entry, owned=owned) & bits))
        self._set_times(entry, lambda times: os.utime(fd, ns=times))

    def on_name(self, entry: Entry, directory: int, name: bytes) -> None:
        """Set owner, xattrs, mode (not of a symlink) and times of what was just made and must not be opened."""
        owned = self._own(entry, lambda uid, gid: os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False))
        path = b"/proc/self/fd/%d/%s" % (directory, name)
        bits = self._xattrs.put(entry, path, functools.partial(self._try, entry))
        if entry.type != EntryType.SYMLINK:
            mode = self._new_mode(entry, owned=owned) if self.keeps.has(kept.MODE) else default_mode(entry.type)
            self._try(entry, MODE, lambda: _chmod_name(name, mode & bits, directory))
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
        return self._xattrs.agree(entry, where)

    def same_time(self, entry: Entry, st: os.stat_result) -> bool:
        """Tell whether there is nothing to set of an entry's time."""
        return st.st_mtime_ns == entry.mtime_ns or not self.keeps.has(kept.TIMES)

    def on_creation(self, entry: Entry, fd: int) -> None:
        """Give what was just made, and is empty, the flags that only such a one takes, and the mode of a new one if it gets no other."""
        wanted = self._flags(entry)
        # What comes by inheritance is the same for each file of a directory: the first one tells.
        if wanted is not None and (wanted or entry.parent != self._plain):
            is_plain = flags.begin(fd, wanted)
            if entry.type == EntryType.FILE and not wanted:
                self._plain = entry.parent if is_plain else None
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

    def loosen(self, entry: Entry, fd: int, *, keep: bool = False) -> None:
        """Take flags off that would forbid every change, or (but for `keep`) that the entry shall not have; its own are set last."""
        wanted = None if keep else self._flags(entry)
        if forbidding := flags.forbidding(fd):
            # Before they are off: whoever goes on after a kill, or gives this up, puts them back as well.
            self._copy.execute("INSERT OR IGNORE INTO loosened VALUES (?, ?)", (entry.id, forbidding))
        flags.loosen(fd, 0 if wanted is None else flags.surplus(fd, wanted))

    def set_flags(self, entry: Entry, fd: int) -> None:
        """Set the inode flags, the last thing that is done to an entry. What doesn't stay set counts as refused."""
        wanted = self._flags(entry)
        self.put_back(entry.id, fd)
        if wanted is not None and not flags.finish(fd, wanted):
            self.refuse(entry.id, FLAGS)

    def put_back(self, entry: int, fd: int) -> None:
        """Set the flags again that `loosen` took off an entry, and forget them: what somebody changes later is his."""
        row = self._copy.execute("SELECT flags FROM loosened WHERE entry = ?", (entry,)).fetchone()
        if row is not None:
            flags.put_back(fd, row[0])
            self._copy.execute("DELETE FROM loosened WHERE entry = ?", (entry,))

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
        if _NOBODY in (uid, gid):
            # To chown(2) that means "as it is": whoever restores would own it, its setuid bit and all.
            self.refuse(entry.id, OWNER)
            return False
        if self._try(entry, OWNER, lambda: chown(uid, gid)):
            return True
        with contextlib.suppress(OSError):
            chown(-1, gid)
        return False

    def _mode(self, entry: Entry, *, owned: bool) -> int:
        """Return the mode to set. A program must not become one that runs as whoever restored it, nor, by a rule, as root."""
        mode = self._xattrs.mode(entry)
        if entry.type == EntryType.DIRECTORY or not mode & (stat.S_ISUID | stat.S_ISGID):
            return mode
        uid, gid = self._owner(entry)
        if not owned or (uid == 0 and entry.uid):
            mode &= ~stat.S_ISUID
        if not owned or (gid == 0 and entry.gid):
            mode &= ~stat.S_ISGID
        return mode

    def _new_mode(self, entry: Entry, *, owned: bool) -> int:
        """Return the mode to set, and count what it lacks; unless whose it is was left out by whoever asked."""
        mode = self._mode(entry, owned=owned)
        if self.keeps.has(kept.OWNER) and mode != self._xattrs.mode(entry):
            self.refuse(entry.id, SETID)
        return mode

    def _flags(self, entry: Entry) -> int | None:
        """Return the flags to set, None where nothing is known or wanted of them."""
        if entry.inode_flags is None or not self.keeps.has(kept.FLAGS):
            return None
        return entry.inode_flags & flags.SETTABLE_FLAGS

    def _set_times(self, entry: Entry, utime: Callable[[tuple[int, int]], None]) -> None:
        if self.keeps.has(kept.TIMES):
            self._try(entry, TIMES, lambda: utime((entry.mtime_ns, entry.mtime_ns)))

    def _try(self, entry: Entry, what: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except OSError:
            self.refuse(entry.id, what)
            return False
        return True


def default_mode(kind: str) -> int:
    """Return the mode that anything new of a kind gets from this process; a device stays its owner's: it opens what it stands for."""
    if kind in (EntryType.BLOCK_DEVICE, EntryType.CHAR_DEVICE):
        return 0o600
    return (0o777 if kind == EntryType.DIRECTORY else 0o666) & ~_umask()


@functools.cache
def _umask() -> int:
    # To ask umask(2) is to change it, for every thread.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


def _chmod_name(name: bytes, mode: int, directory: int) -> None:
    """Set the mode of what stands under a name; a symlink that was put there meanwhile isn't followed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)
