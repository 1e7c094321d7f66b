"""A restored entry's extended attributes, POSIX ACLs and file capabilities among them.

An ACL names users and groups by number, so it is given back in the same names as entries are.
"""

from __future__ import annotations

import functools
import os
import stat
from typing import TYPE_CHECKING

from vaultik.restore import acl, kept, owners

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.restore.kept import Kept
    from vaultik.snapshot.tree import Entry

XATTR = "extended attribute"
CAPABILITY = "file capability"
ACL = "ACL"

_OWN = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
"""What an entry shall have just as the snapshot says; other security labels are the restoring system's."""
_ACLS = b"system.posix_acl_"
_ACCESS_ACL = b"system.posix_acl_access"
_CAPABILITY = b"security.capability"
_ALL = 0o7777


class Xattrs:
    """Sets and compares them."""

    def __init__(self, copy: sqlite3.Connection, keeps: Kept) -> None:
        self._copy = copy
        self._keeps = keeps
        (self._are_any,) = copy.execute("SELECT EXISTS (SELECT 1 FROM xattrs)").fetchone()

    def agree(self, entry: Entry, where: int | bytes) -> bool:
        """Tell whether what a descriptor, or a path that isn't followed, leads to has what it shall have."""
        how = _how(where)
        query = "SELECT name, value FROM xattrs WHERE entry = ?"
        surplus = set(_present(where))
        for name, value in self._copy.execute(query, (entry.hardlink or entry.id,)):
            surplus.discard(name)
            try:
                if self._has(name) and os.getxattr(where, name, **how) != self._value(name, value):
                    return False
            except OSError:
                return False
        return not any(name.startswith(_OWN) and self._has(name) for name in surplus)

    def put(self, entry: Entry, where: int | bytes, attempt: Callable[[str, Callable[[], None]], bool]) -> int:
        """Remove what is too much and set the rest, ACLs last.

        With an ACL the mode's group bits are the most that anybody it names has, not what the group has: where it
        is refused the group gets nothing.

        Args:
            entry: what the snapshot says.
            where: a descriptor, or a path that isn't followed.
            attempt: does something, counts it by its class if it fails, and tells whether it didn't.

        Returns:
            The bits of the mode that may be set.
        """
        of, how = entry.hardlink or entry.id, _how(where)
        # Linux lists 64 KiB of names; their values may be a thousand times that and are read one by one.
        query = "SELECT name FROM xattrs WHERE entry = ?"
        names = [name for (name,) in self._copy.execute(query, (of,))] if self._are_any else []
        for name in filter(self._has, _present(where)):
            if name not in names and name.startswith(_OWN):
                attempt(_class_of(name), functools.partial(os.removexattr, where, name, **how))
        bits = _ALL
        for name in sorted(filter(self._has, names), key=lambda name: name.startswith(_ACLS)):
            query = "SELECT value FROM xattrs WHERE entry = ? AND name = ?"
            value = self._value(name, *self._copy.execute(query, (of, name)).fetchone())
            done = attempt(_class_of(name), functools.partial(os.setxattr, where, name, value, **how))
            if not done and name == _ACCESS_ACL:
                bits &= ~stat.S_IRWXG
        return bits

    def mode(self, entry: Entry) -> int:
        """Return an entry's mode; of one that gets no ACL the group bits are the group's own, not the most that anybody has."""
        if self._keeps.has(kept.ACLS) or not self._are_any:
            return entry.mode
        query = "SELECT value FROM xattrs WHERE entry = ? AND name = ?"
        row = self._copy.execute(query, (entry.hardlink or entry.id, _ACCESS_ACL)).fetchone()
        return entry.mode & (~stat.S_IRWXG | acl.group_permissions(row[0]) << 3) if row else entry.mode

    def _has(self, name: bytes) -> bool:
        return self._keeps.has(kept.ACLS if name.startswith(_ACLS) else kept.XATTRS)

    def _value(self, name: bytes, value: bytes) -> bytes:
        if not name.startswith(_ACLS):
            return value
        to = self._keeps.owners
        return acl.with_ids(
            value,
            lambda number: to.users.here(number, owners.name_of(self._copy, "user", number)),
            lambda number: to.groups.here(number, owners.name_of(self._copy, "group", number)),
        )


def _class_of(name: bytes) -> str:
    """Return what an xattr is counted as."""
    if name == _CAPABILITY:
        return CAPABILITY
    return ACL if name.startswith(_ACLS) else XATTR


def _how(where: int | bytes) -> dict[str, bool]:
    # A descriptor can't be told not to follow, and need not be.
    return {} if isinstance(where, int) else {"follow_symlinks": False}


def _present(where: int | bytes) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listxattr(where, **_how(where))]
    except OSError:
        return []
