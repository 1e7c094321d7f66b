"""Entries in the index: the tree as the last scan saw it, and the content that was read of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

_TIMES = 1 << 63

_ROWS_AT_ONCE = 2_000

ROOT = 1
"""Id of "/"."""


class Attributes(NamedTuple):
    """An entry's columns, as in FORMAT.md, without its place in the tree; then the index's own."""

    type: str
    mode: int
    uid: int
    gid: int
    user_name: str | None
    group_name: str | None
    size: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int | None
    link_target: bytes | None
    rdev: int | None
    inode_flags: int | None
    inode: int
    mount: int
    nlink: int
    xattrs: tuple[tuple[bytes, bytes], ...]


class Known(NamedTuple):
    """What the change test needs of an entry, straight from its row."""

    name: bytes
    id: int
    type: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mount: int
    again: int
    marks: int
    nlink: int


_KNOWN = "SELECT name, id, type, size, mtime_ns, ctime_ns, inode, mount, again, marks, nlink FROM entries"
_COLUMNS = (
    "type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target, rdev, inode_flags,"
    " inode, mount, nlink"
)
_INSERT = (
    f"INSERT INTO entries (id, parent, name, marks, again, {_COLUMNS}) VALUES (?, ?, ?, ?, 0, {', '.join('?' * 16)})"
)
_UPDATE = (
    "UPDATE entries SET type = ?, mode = ?, uid = ?, gid = ?, user_name = ?, group_name = ?, size = ?, mtime_ns = ?,"
    " ctime_ns = ?, birth_ns = ?, link_target = ?, rdev = ?, inode_flags = ?, inode = ?, mount = ?, nlink = ?,"
    " marks = ?, again = ? WHERE id = ?"
)


INSERT_CHANGED = (
    "INSERT INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, unread) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def seen(st: os.stat_result) -> tuple[int, int, int, int, int]:
    """Return a stat as the list of changed files keeps it."""
    return st.st_size, st.st_blocks, time_ns(st.st_mtime_ns), time_ns(st.st_ctime_ns), signed(st.st_ino)


def time_ns(ns: int) -> int:
    """Return a time as SQLite can hold it: the years 1677 to 2262; file systems have later ones."""
    return max(-_TIMES, min(ns, _TIMES - 1))


def signed(inode: int) -> int:
    """Return an inode number as SQLite can hold it: some file systems use all 64 bits."""
    return inode - (1 << 64) if inode >= 1 << 63 else inode


def children(index: sqlite3.Connection, parent: int) -> dict[bytes, Known]:
    """Return a directory's entries by name."""
    rows = index.execute(f"{_KNOWN} WHERE parent = ?", (parent,))
    return {row[0]: Known._make(row) for row in rows}


def find_known(index: sqlite3.Connection, entry: int) -> Known | None:
    """Return one entry for the change test, if it has a place in the tree."""
    row = index.execute(f"{_KNOWN} WHERE id = ? AND (parent IS NOT NULL OR id = {ROOT})", (entry,)).fetchone()
    return Known._make(row) if row else None


def parent_and_name(index: sqlite3.Connection, entry: int) -> tuple[int, bytes]:
    """Return where an entry stands.

    Raises:
        FileNotFoundError: it was removed from the index meanwhile.
    """
    row = index.execute("SELECT parent, name FROM entries WHERE id = ? AND parent IS NOT NULL", (entry,)).fetchone()
    if row is None:
        raise FileNotFoundError(2, os.strerror(2))
    return row[0], row[1]


def path_of(index: sqlite3.Connection, entry: int) -> bytes:
    """Return an entry's absolute path."""
    names: list[bytes] = []
    at: int | None = entry
    while at is not None and at != ROOT:
        row = index.execute("SELECT parent, name FROM entries WHERE id = ?", (at,)).fetchone()
        if row is None:
            break
        at = row[0]
        names.append(row[1])
    return b"/" + b"/".join(reversed(names))


def find_way(index: sqlite3.Connection, path: bytes) -> list[int]:
    """Return the ids of the directories on the way from / to an absolute path, and its own, as far as they are known."""
    way = [ROOT]
    for name in path.split(b"/"):
        if name:
            row = index.execute("SELECT id FROM entries WHERE parent = ? AND name = ?", (way[-1], name)).fetchone()
            if row is None:
                break
            way.append(row[0])
    return way


def iter_again(index: sqlite3.Connection) -> Iterator[int]:
    """Yield the ids of what every scan looks at again, whatever its stat says."""
    return (row[0] for row in index.execute("SELECT id FROM entries WHERE again <> 0"))


class NewEntries:
    """Entries on their way into the index, written table by table when a directory is through."""

    def __init__(self, index: sqlite3.Connection) -> None:
        self._index = index
        (last,) = index.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        self._next = int(last) + 1
        self._rows: list[tuple[object, ...]] = []
        self._xattrs: list[tuple[int, bytes, bytes]] = []
        self._changed: list[tuple[int, ...]] = []

    def add(self, parent: int | None, name: bytes, marks: int, a: Attributes) -> int:
        """Add an entry with its xattrs. Returns its id, which is larger than any before."""
        entry = self._next
        self._next += 1
        if len(self._rows) >= _ROWS_AT_ONCE:
            self.flush()
        self._rows.append((entry, parent, name, marks, *a[:-1]))
        self._xattrs.extend((entry, *pair) for pair in a.xattrs)
        return entry

    def add_file(self, parent: int, name: bytes, marks: int, a: Attributes, st: os.stat_result) -> int:
        """Add a regular file and put it on the list of those to read. Returns its id."""
        entry = self.add(parent, name, marks, a)
        self._changed.append((entry, *seen(st), 1))
        return entry

    def flush(self) -> None:
        """Write what was added."""
        if not self._rows:
            return
        self._index.executemany(_INSERT, self._rows)
        self._index.executemany("INSERT INTO xattrs VALUES (?, ?, ?)", self._xattrs)
        self._index.executemany(INSERT_CHANGED, self._changed)
        self._rows, self._xattrs, self._changed = [], [], []


def set_attributes(index: sqlite3.Connection, entry: int, marks: int, a: Attributes, *, again: bool = False) -> None:
    """Replace an entry's attributes, xattrs and marks.

    Args:
        index: within a transaction.
        entry: its id.
        marks: what the next snapshot says of it.
        a: the attributes.
        again: the next scan takes it as changed whatever its stat says.
    """
    index.execute(_UPDATE, (*a[:-1], marks, again, entry))
    index.execute("DELETE FROM xattrs WHERE entry = ?", (entry,))
    _add_xattrs(index, entry, a.xattrs)


def set_marks(index: sqlite3.Connection, entry: int, marks: int, *, again: bool = False) -> None:
    """Replace an entry's marks only."""
    index.execute("UPDATE entries SET marks = ?, again = ? WHERE id = ?", (marks, again, entry))


def with_flags(index: sqlite3.Connection, flags: int) -> set[int]:
    """Return the entries that had one of some inode flags when they were read."""
    return {row[0] for row in index.execute("SELECT id FROM entries WHERE inode_flags & ?", (flags,))}


def gaps(index: sqlite3.Connection) -> set[int]:
    """Return the directories of which not every name could be looked at."""
    return {row[0] for row in index.execute(f"SELECT id FROM entries WHERE marks & {Mark.GAP}")}


def set_gap(index: sqlite3.Connection, directory: int) -> None:
    """Note that a name in a directory could not be looked at."""
    index.execute("UPDATE entries SET marks = marks | ? WHERE id = ?", (Mark.GAP, directory))


def clear_gap(index: sqlite3.Connection, directory: int) -> None:
    """Note that a directory is listed anew."""
    index.execute("UPDATE entries SET marks = marks & ~? WHERE id = ?", (Mark.GAP, directory))


def remove_trees(
    index: sqlite3.Connection, tops: Sequence[int], set_aside: Callable[[sqlite3.Connection, str], None] | None = None
) -> int:
    """Remove entries and everything below them. Returns how many entries that were.

    Content that other names have too stays with them.

    Args:
        index: within a transaction.
        tops: their ids.
        set_aside: takes a query of the ids, and may take some out by taking away their parents.
    """
    index.execute("CREATE TEMP TABLE leaving (id INTEGER PRIMARY KEY)")
    try:
        index.execute(
            "INSERT INTO leaving WITH RECURSIVE below (id) AS"
            " (SELECT value FROM json_each(?) UNION ALL SELECT e.id FROM below AS b JOIN entries AS e ON e.parent = b.id)"
            " SELECT id FROM below",
            (json.dumps(tops),),
        )
        (count,) = index.execute("SELECT count(*) FROM leaving").fetchone()
        # Whoever carries a group's content is in the group itself; a tree may have millions of others.
        linked = "SELECT id FROM entries WHERE hardlink IS NOT NULL AND id IN (SELECT id FROM leaving)"
        hand_over(index, [row[0] for row in index.execute(linked)])
        if set_aside is not None:
            set_aside(index, "SELECT id FROM leaving")
            index.execute(
                "DELETE FROM leaving WHERE id IN (SELECT id FROM entries WHERE parent IS NULL AND id <> ?)", (ROOT,)
            )
        for table in ("changed", "entry_chunks", "xattrs", "pieces", "boundaries", "extent_chunks", "streams"):
            index.execute(f"DELETE FROM {table} WHERE entry IN (SELECT id FROM leaving)")
        index.execute("DELETE FROM entries WHERE id IN (SELECT id FROM leaving)")
    finally:
        index.execute("DROP TABLE leaving")
    return int(count)


def hand_over(index: sqlite3.Connection, leaving: Sequence[int]) -> None:
    """Give what names carry for other names of their group to one of those.

    Args:
        index: within a transaction.
        leaving: the names that are about to be removed, or to get other content.
    """
    ids = json.dumps(leaving)
    heirs = index.execute(
        # The one that a removal in order of their ids comes to last.
        "SELECT hardlink, max(id) FROM entries WHERE hardlink IN (SELECT value FROM json_each(?1)) AND type = 'f'"
        " AND id NOT IN (SELECT value FROM json_each(?1)) GROUP BY hardlink",
        (ids,),
    ).fetchall()
    for owner, heir in heirs:
        index.execute("DELETE FROM xattrs WHERE entry = ?", (heir,))
        for table in ("entry_chunks", "xattrs"):
            index.execute(f"UPDATE {table} SET entry = ? WHERE entry = ?", (heir, owner))
        index.execute(
            "UPDATE entries SET hardlink = ?2 WHERE hardlink = ?3 AND type = 'f'"
            " AND id NOT IN (SELECT value FROM json_each(?1))",
            (ids, heir, owner),
        )


def _add_xattrs(index: sqlite3.Connection, entry: int, xattrs: Sequence[tuple[bytes, bytes]]) -> None:
    if xattrs:
        index.executemany("INSERT INTO xattrs VALUES (?, ?, ?)", ((entry, name, value) for name, value in xattrs))
