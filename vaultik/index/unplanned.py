"""Changed files in the index that no bundle has yet, by how long they are likely to live."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_PAGE = 10_000


class ChangedFile(NamedTuple):
    """A regular file whose content must be read."""

    entry: int
    size: int
    blocks: int


_UNPLANNED = (
    " FROM changed AS c JOIN entries AS e ON e.id = c.entry WHERE NOT EXISTS (SELECT 1 FROM entries AS o WHERE e.nlink > 1"
    " AND o.mount = e.mount AND o.inode = e.inode AND o.id < e.id AND o.type <> 'd' AND o.type = e.type AND o.nlink > 1)"
    " AND NOT EXISTS (SELECT 1 FROM pieces AS p WHERE p.entry = c.entry)"
    " AND c.entry NOT IN (SELECT entry FROM streams)"
)


def count_bytes(index: sqlite3.Connection) -> int:
    """Return the size of all changed files on disks that no bundle has yet."""
    return int(index.execute(f"SELECT total(c.size) {_UNPLANNED}").fetchone()[0])


class Kind(enum.Enum):
    """Changed files that are likely to live about as long: those of one kind go into blobs of their own."""

    HOT = "c.lost = 0 AND c.unread = 0 AND e.mtime_ns >= ?"
    """What stands in for them in the index is itself young; they will soon change again."""
    NEW = "c.lost = 0 AND (c.unread = 1 OR e.mtime_ns < ?)"
    """New ones, and those that had not changed for long."""
    LOST = "c.lost = 1 AND ? IS NOT NULL"
    """Those that didn't change, and whose stored chunks are lost or given up."""


def iter_files(index: sqlite3.Connection, kind: Kind, young_ns: int) -> Iterator[ChangedFile]:
    """Yield the changed files on disks that no bundle has yet, in entry order; of hard links the first name only.

    What was yielded may be planned while this goes on.

    Args:
        index: the index.
        kind: which ones.
        young_ns: content from then on is young, nanoseconds since 1970.
    """
    last = 0
    while rows := index.execute(
        f"SELECT c.entry, c.size, c.blocks {_UNPLANNED} AND {kind.value} AND c.entry > ? ORDER BY c.entry LIMIT ?",
        (young_ns, last, _PAGE),
    ).fetchall():
        yield from map(ChangedFile._make, rows)
        last = rows[-1][0]
