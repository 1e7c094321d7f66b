"""Entries in the index: the tree as the last scan saw it, and the content that was read of it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from vaultik.model import EntryType, Mark

ROOT = 1
"""Id of "/"."""


class Attributes(NamedTuple):
    """An entry's columns, as in FORMAT.md, without its place in the tree; then the index's own."""

    type: EntryType
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
_UPDATE_CONTENT = (
    "UPDATE entries SET mode = ?, uid = ?, gid = ?, user_name = ?, group_name = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
    " birth_ns = ?, inode_flags = ?, inode = ?, nlink = ?, marks = ?, again = ? WHERE id = ?"
)


_INSERT_CHANGED = (
    "INSERT OR REPLACE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode) VALUES (?, ?, ?, ?, ?, ?)"
)


def _seen(st: os.stat_result) -> tuple[int, int, int, int, int]:
    """Return a stat as the list of changed files keeps it."""
    return st.st_size, st.st_blocks, st.st_mtime_ns, st.st_ctime_ns, signed(st.st_ino)


def _of_content(a: Attributes) -> tuple[object, ...]:
    """Return the columns that belong to a file's content, in the order of _UPDATE_CONTENT."""
    return (*a[1:7], a.mtime_ns, a.ctime_ns, a.birth_ns, a.inode_flags, a.inode, a.nlink)


def signed(inode: int) -> int:
    """Return an inode number as SQLite can hold it: some file systems use all 64 bits."""
    return inode - (1 << 64) if inode >= 1 << 63 else inode


def children(index: sqlite3.Connection, parent: int) -> dict[bytes, Known]:
    """Return a directory's entries by name."""
    rows = index.execute(
        "SELECT name, id, type, size, mtime_ns, ctime_ns, inode, mount, again, marks FROM entries WHERE parent = ?",
        (parent,),
    )
    return {row[0]: Known._make(row) for row in rows}


def find_known(index: sqlite3.Connection, entry: int) -> Known | None:
    """Return one entry for the change test."""
    row = index.execute(
        "SELECT name, id, type, size, mtime_ns, ctime_ns, inode, mount, again, marks FROM entries WHERE id = ?",
        (entry,),
    ).fetchone()
    return Known._make(row) if row else None


def parent_and_name(index: sqlite3.Connection, entry: int) -> tuple[int, bytes]:
    """Return where an entry stands.

    Raises:
        FileNotFoundError: it was removed from the index meanwhile.
    """
    row = index.execute("SELECT parent, name FROM entries WHERE id = ?", (entry,)).fetchone()
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


class NewEntries:
    """Entries on their way into the index, written table by table when a directory is through."""

    def __init__(self, index: sqlite3.Connection) -> None:
        self._index = index
        (last,) = index.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        self._next = int(last) + 1
        self._rows: list[tuple[object, ...]] = []
        self._xattrs: list[tuple[int, bytes, bytes]] = []
        self._changed: list[tuple[int, ...]] = []

    def add(self, parent: int | None, name: bytes, marks: Mark, a: Attributes) -> int:
        """Add an entry with its xattrs. Returns its id, which is larger than any before."""
        entry = self._next
        self._next += 1
        self._rows.append((entry, parent, name, int(marks), *a[:-1]))
        self._xattrs.extend((entry, *pair) for pair in a.xattrs)
        return entry

    def add_file(self, parent: int, name: bytes, marks: Mark, a: Attributes, st: os.stat_result) -> int:
        """Add a regular file and put it on the list of those to read. Returns its id."""
        entry = self.add(parent, name, marks, a)
        self._changed.append((entry, *_seen(st)))
        return entry

    def flush(self) -> None:
        """Write what was added."""
        if not self._rows:
            return
        self._index.executemany(_INSERT, self._rows)
        self._index.executemany("INSERT INTO xattrs VALUES (?, ?, ?)", self._xattrs)
        self._index.executemany(_INSERT_CHANGED, self._changed)
        self._rows, self._xattrs, self._changed = [], [], []


def set_attributes(index: sqlite3.Connection, entry: int, marks: Mark, a: Attributes, *, again: bool = False) -> None:
    """Replace an entry's attributes, xattrs and marks.

    Args:
        index: within a transaction.
        entry: its id.
        marks: what the next snapshot says of it.
        a: the attributes.
        again: the next scan takes it as changed whatever its stat says.
    """
    index.execute(_UPDATE, (*a[:-1], int(marks), again, entry))
    index.execute("DELETE FROM xattrs WHERE entry = ?", (entry,))
    _add_xattrs(index, entry, a.xattrs)


def copy_to_followers(index: sqlite3.Connection, leader: int) -> None:
    """Give the other names of a hard-linked inode what was recorded under its leader's."""
    index.execute(
        "UPDATE entries AS f SET (mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, inode_flags,"
        " nlink, marks, again) = (l.mode, l.uid, l.gid, l.user_name, l.group_name, l.size, l.mtime_ns, l.ctime_ns, l.birth_ns,"
        " l.inode_flags, l.nlink, l.marks & ~1 | (f.marks & 1), l.again) FROM entries AS l WHERE l.id = ? AND f.type = 'f'"
        " AND f.nlink > 1 AND f.mount = l.mount AND f.inode = l.inode AND f.hardlink = l.id AND f.id <> l.id",
        (leader,),
    )


def set_marks(index: sqlite3.Connection, entry: int, marks: Mark, *, again: bool = False) -> None:
    """Replace an entry's marks only."""
    index.execute("UPDATE entries SET marks = ?, again = ? WHERE id = ?", (int(marks), again, entry))


def set_inode(index: sqlite3.Connection, entry: int, inode: int, mount: int, nlink: int) -> None:
    """Note which inode a scan saw under a name whose content is still to be read."""
    index.execute("UPDATE entries SET inode = ?, mount = ?, nlink = ? WHERE id = ?", (inode, mount, nlink, entry))


def set_changed(index: sqlite3.Connection, entry: int, st: os.stat_result) -> None:
    """Put a known file on the list of those to read; what was planned of an older state of it is dropped."""
    seen = _seen(st)
    row = index.execute(
        "SELECT size, blocks, mtime_ns, ctime_ns, inode FROM changed WHERE entry = ?", (entry,)
    ).fetchone()
    if row == seen:
        return
    if row is not None:
        drop_plan(index, entry)
    index.execute(_INSERT_CHANGED, (entry, *seen))


def drop_plan(index: sqlite3.Connection, entry: int) -> None:
    """Forget which slices of a file were planned or read; the file stays on the list."""
    for table in ("pieces", "boundaries", "extent_chunks"):
        index.execute(f"DELETE FROM {table} WHERE entry = ?", (entry,))


def remove_tree(index: sqlite3.Connection, entry: int) -> int:
    """Remove an entry and everything below it. Returns how many entries that were."""
    removed = 0
    todo = [entry]
    while todo:
        at = todo.pop()
        todo.extend(row[0] for row in index.execute("SELECT id FROM entries WHERE parent = ?", (at,)))
        for table in ("changed", "entry_chunks", "xattrs", "pieces", "boundaries", "extent_chunks"):
            index.execute(f"DELETE FROM {table} WHERE entry = ?", (at,))
        index.execute("DELETE FROM entries WHERE id = ?", (at,))
        removed += 1
    return removed


class Content(NamedTuple):
    """What was read of one whole file: its attributes before, and its chunks (file offset, chunk row)."""

    entry: int
    attributes: Attributes
    marks: Mark
    again: bool
    chunks: Sequence[tuple[int, int]]


def set_contents(index: sqlite3.Connection, contents: Sequence[Content]) -> None:
    """Record whole files: content, attributes, xattrs, all of one moment; takes them off the list.

    A bundle may hold thousands, so it is done table by table.
    """
    ids = [(content.entry,) for content in contents]
    index.executemany("DELETE FROM changed WHERE entry = ?", ids)
    index.executemany("DELETE FROM xattrs WHERE entry = ?", ids)
    index.executemany("DELETE FROM entry_chunks WHERE entry = ?", ids)
    index.executemany(
        "INSERT INTO entry_chunks VALUES (?, ?, ?)", ((c.entry, at, chunk) for c in contents for at, chunk in c.chunks)
    )
    index.executemany(
        "INSERT INTO xattrs VALUES (?, ?, ?)", ((c.entry, *pair) for c in contents for pair in c.attributes.xattrs)
    )
    index.executemany(_UPDATE_CONTENT, ((*_of_content(c.attributes), int(c.marks), c.again, c.entry) for c in contents))
    for content in contents:
        if content.attributes.nlink > 1:
            copy_to_followers(index, content.entry)


def set_content(index: sqlite3.Connection, entry: int, chunks: Iterable[tuple[int, int]]) -> None:
    """Replace a file's content by chunks (offset in the file, chunk row) and take it off the list."""
    index.execute("DELETE FROM entry_chunks WHERE entry = ?", (entry,))
    index.executemany("INSERT INTO entry_chunks VALUES (?, ?, ?)", ((entry, at, chunk) for at, chunk in chunks))
    index.execute("DELETE FROM changed WHERE entry = ?", (entry,))


def add_extent(index: sqlite3.Connection, entry: int, chunks: Iterable[tuple[int, int]], *, changed: bool) -> None:
    """Record the chunks of one extent of a file whose other extents may still be unread."""
    index.executemany(
        "INSERT OR REPLACE INTO extent_chunks VALUES (?, ?, ?)", ((entry, at, chunk) for at, chunk in chunks)
    )
    if changed:
        index.execute("UPDATE changed SET dirty = 1 WHERE entry = ?", (entry,))


def is_other_state(index: sqlite3.Connection, entry: int, a: Attributes) -> bool:
    """Tell whether a file is not in the state any more that its extents were planned of."""
    row = index.execute("SELECT size, mtime_ns, ctime_ns, inode FROM changed WHERE entry = ?", (entry,)).fetchone()
    return bool(row != (a.size, a.mtime_ns, a.ctime_ns, a.inode))


def may_reread(index: sqlite3.Connection, entry: int) -> bool:
    """Tell whether a file that changed between its extents has another try left in this run."""
    return bool(index.execute("SELECT rereads FROM changed WHERE entry = ?", (entry,)).fetchone() == (0,))


def plan_reread(index: sqlite3.Connection, entry: int, a: Attributes) -> None:
    """Begin a changed file's extents anew, from its state now; a second time it is taken as it comes."""
    drop_plan(index, entry)
    index.execute(
        "UPDATE changed SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, rereads = 1, dirty = 0 WHERE entry = ?",
        (a.size, a.mtime_ns, a.ctime_ns, a.inode, entry),
    )


def is_last_extent(index: sqlite3.Connection, entry: int) -> bool:
    """Tell whether no slice of a file is left to be read."""
    return index.execute("SELECT 1 FROM pieces WHERE entry = ? LIMIT 1", (entry,)).fetchone() is None


def finish_extents(index: sqlite3.Connection, entry: int) -> tuple[bool, list[tuple[int, int]]]:
    """Take the recorded extents of a file. Returns whether it changed between them, and its chunks."""
    (dirty,) = index.execute("SELECT dirty FROM changed WHERE entry = ?", (entry,)).fetchone()
    chunks = index.execute(
        "SELECT offset, chunk FROM extent_chunks WHERE entry = ? ORDER BY offset", (entry,)
    ).fetchall()
    drop_plan(index, entry)
    return bool(dirty), chunks


def end_of(index: sqlite3.Connection, chunks: Sequence[tuple[int, int]]) -> int:
    """Return where the last of a file's chunks ends."""
    if not chunks:
        return 0
    offset, chunk = chunks[-1]
    return int(offset + index.execute("SELECT size FROM chunks WHERE id = ?", (chunk,)).fetchone()[0])


def link_groups(index: sqlite3.Connection) -> None:
    """Let the first name of every inode carry its content; the others point to it.

    A file that is to be read is read under its leader's name.
    """
    index.execute("UPDATE entries SET hardlink = NULL WHERE hardlink IS NOT NULL AND NOT (type = 'f' AND nlink > 1)")
    index.execute(
        "UPDATE entries AS e SET hardlink = g.leader FROM"
        " (SELECT mount, inode, min(id) AS leader FROM entries WHERE type = 'f' AND nlink > 1 GROUP BY mount, inode) AS g"
        " WHERE e.type = 'f' AND e.nlink > 1 AND e.mount = g.mount AND e.inode = g.inode AND e.hardlink IS NOT g.leader"
    )
    followers = "SELECT id FROM entries WHERE hardlink IS NOT NULL AND hardlink <> id"
    # A leader whose content went with a name that is gone is read; so is one whose follower changed.
    index.execute(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode)"
        " SELECT l.id, c.size, c.blocks, c.mtime_ns, c.ctime_ns, c.inode FROM changed AS c"
        " JOIN entries AS f ON f.id = c.entry JOIN entries AS l ON l.id = f.hardlink WHERE f.hardlink <> f.id"
    )
    index.execute(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode)"
        " SELECT id, size, (size + 511) / 512, mtime_ns, ctime_ns, inode FROM entries AS e WHERE hardlink = id AND size > 0"
        " AND again = 0 AND NOT EXISTS (SELECT 1 FROM entry_chunks AS ec WHERE ec.entry = e.id)"
    )
    for table in ("changed", "entry_chunks", "pieces", "boundaries", "extent_chunks"):
        index.execute(f"DELETE FROM {table} WHERE entry IN ({followers})")


def mount_id(index: sqlite3.Connection, identity: str) -> int:
    """Return the id of a mounted file system, known by what is mounted."""
    index.execute("INSERT OR IGNORE INTO mounts (identity) VALUES (?)", (identity,))
    return int(index.execute("SELECT id FROM mounts WHERE identity = ?", (identity,)).fetchone()[0])


def mount_identities(mountinfo: str) -> dict[int, str]:
    """Return the identity of every mounted file system by st_dev, from the text of /proc/self/mountinfo."""
    identities = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        device = left.split()[2]
        major, minor = (int(part) for part in re.fullmatch(r"(\d+):(\d+)", device).groups())  # type: ignore[union-attr]
        kind, what = right.split()[:2]
        identities[os.makedev(major, minor)] = f"{kind} {what}" if what.startswith("/") else f"{kind} {left.split()[4]}"
    return identities


def _add_xattrs(index: sqlite3.Connection, entry: int, xattrs: Sequence[tuple[bytes, bytes]]) -> None:
    if xattrs:
        index.executemany("INSERT INTO xattrs VALUES (?, ?, ?)", ((entry, name, value) for name, value in xattrs))
