"""Whose a restored entry becomes: by the name that the snapshot has, if this system knows it, else by the number.

A rule (`--map-owner`, `--map-group`) goes before both. 0 is never found by a name, nor left by one: root stays
root, and nobody becomes it by being called so.
"""

from __future__ import annotations

import functools
import grp
import pwd
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

_EVERYBODY = "*"
_LARGEST = (1 << 32) - 2
"""One more means "leave it as it is" to chown(2)."""
_KEEP = 4096


class Ids:
    """The users of a snapshot, or its groups, on this system."""

    def __init__(
        self, find: Callable[[str], int | None], rules: Sequence[tuple[str, int]] = (), *, numeric: bool = False
    ) -> None:
        """Prepare.

        Args:
            find: tells the number that this system has for a name.
            rules: the snapshot's name or number, or `*`, and the number here that stands for it; the first that fits holds.
            numeric: take the snapshot's numbers as they are, where no rule fits.
        """
        self._find = functools.lru_cache(_KEEP)(find)
        self._rules = rules
        self._numeric = numeric

    def here(self, number: int, name: str | None) -> int:
        """Return the number here of the one who has a number and perhaps a name in the snapshot."""
        for old, new in self._rules:
            if old in (_EVERYBODY, name, str(number)):
                return new
        if self._numeric or name is None or number == 0:
            return number
        return self._find(name) or number


def find_user(name: str) -> int | None:
    """Return a user's number on this system, None if there is none of that name."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a name that can be none
        return None


def find_group(name: str) -> int | None:
    """Return a group's number on this system, None if there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


class Owners(NamedTuple):
    """Both."""

    users: Ids = Ids(find_user)
    groups: Ids = Ids(find_group)


def note_names(copy: sqlite3.Connection) -> None:
    """Note in a copied snapshot which names it has for numbers, if it has ACLs: these have numbers only."""
    copy.execute(
        "CREATE TABLE names (kind TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, number))"
        " STRICT, WITHOUT ROWID"
    )
    for kind, number in (("user", "uid"), ("group", "gid")):
        copy.execute(
            f"INSERT OR IGNORE INTO names SELECT ?, {number}, {kind}_name FROM entries WHERE {kind}_name IS NOT NULL"
            " AND EXISTS (SELECT 1 FROM xattrs WHERE name IN (?, ?))",
            (kind, b"system.posix_acl_access", b"system.posix_acl_default"),
        )


def name_of(copy: sqlite3.Connection, kind: str, number: int) -> str | None:
    """Return what `note_names` noted of a `user` or `group`."""
    row = copy.execute("SELECT name FROM names WHERE kind = ? AND number = ?", (kind, number)).fetchone()
    return row[0] if row else None


def parse_owners(users: Sequence[str], groups: Sequence[str], *, numeric: bool) -> Owners:
    """Return what the options say.

    Args:
        users: `OLD:NEW` each: names or numbers, OLD of the snapshot or `*` for all, NEW of this system.
        groups: likewise.
        numeric: take the snapshot's numbers, not its names.

    Raises:
        ConfigError: one can't be read, or this system has no such NEW.
    """
    return Owners(
        Ids(find_user, [_rule("--map-owner", text, find_user) for text in users], numeric=numeric),
        Ids(find_group, [_rule("--map-group", text, find_group) for text in groups], numeric=numeric),
    )


def _rule(option: str, text: str, find: Callable[[str], int | None]) -> tuple[str, int]:
    old, colon, new = text.partition(":")
    if not (old and colon and new) or ":" in new:
        raise ConfigError(f"{option} {text}: not OLD:NEW", hint=f"such as {option} alice:bob, 1000:1001 or *:bob")
    if new.isdecimal() and new.isascii():
        if len(new) > len(str(_LARGEST)) or int(new) > _LARGEST:
            raise ConfigError(f"{option} {text}: no number that an owner can have", hint=f"at most {_LARGEST}")
        return old, int(new)
    number = find(new)
    if number is None:
        raise ConfigError(f"{option} {text}: this system has no {new}", hint="make it first, or give a number")
    return old, number
