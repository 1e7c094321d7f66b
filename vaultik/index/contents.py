"""Contents in the index: which files have to be read, and what was read of them.

A changed file keeps its old row, whole, until its new content is recorded with the attributes of the
very fstat that preceded the reading. A large file's extents are recorded one by one and become its
content with the last. Of hard links the leader alone carries the content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.index.entries import INSERT_CHANGED, seen

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Sequence

    from vaultik.index.entries import Attributes
    from vaultik.model import Mark
_UPDATE_CONTENT = (
    "UPDATE entries SET mode = ?, uid = ?, gid = ?, user_name = ?, group_name = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
    " birth_ns = ?, inode_flags = ?, inode = ?, nlink = ?, marks = ?, again = ? WHERE id = ?"
)


def _of_content(a: Attributes) -> tuple[object, ...]:
    """Return the columns that belong to a file's content, in the order of _UPDATE_CONTENT."""
    return (*a[1:7], a.mtime_ns, a.ctime_ns, a.birth_ns, a.inode_flags, a.inode, a.nlink)


def set_inode(index: sqlite3.Connection, entry: int, inode: int, mount: int, nlink: int) -> None:
    """Note which inode a scan saw under a name whose content is still to be read."""
    index.execute("UPDATE entries SET inode = ?, mount = ?, nlink = ? WHERE id = ?", (inode, mount, nlink, entry))


def set_changed(index: sqlite3.Connection, entry: int, st: os.stat_result, *, unread: bool) -> None:
    """Put a known file on the list of those to read; what was planned of an older state of it is dropped.

    Args:
        index: within a transaction.
        entry: its id.
        st: what the scan saw.
        unread: nothing stands in for it meanwhile: it could not be read the last time.
    """
    now = seen(st)
    row = index.execute(
        "SELECT size, blocks, mtime_ns, ctime_ns, inode FROM changed WHERE entry = ?", (entry,)
    ).fetchone()
    if row == now:
        return
    if row is None:
        index.execute(INSERT_CHANGED, (entry, *now, unread))
        return
    drop_plan(index, entry)
    index.execute(
        "UPDATE changed SET size = ?, blocks = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, rereads = 0, dirty = 0, again = 0,"
        " lost = 0 WHERE entry = ?",
        (*now, entry),
    )


def drop_plan(index: sqlite3.Connection, entry: int) -> None:
    """Forget which slices of a file were planned or read; the file stays on the list."""
    for table in ("pieces", "boundaries", "extent_chunks"):
        index.execute(f"DELETE FROM {table} WHERE entry = ?", (entry,))


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


def copy_to_followers(index: sqlite3.Connection, leader: int) -> None:
    """Give the other names of a hard-linked inode what was recorded under its leader's."""
    index.execute(
        "UPDATE entries AS f SET (mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, inode_flags,"
        " nlink, marks, again) = (l.mode, l.uid, l.gid, l.user_name, l.group_name, l.size, l.mtime_ns, l.ctime_ns, l.birth_ns,"
        " l.inode_flags, l.nlink, l.marks & ~1 | (f.marks & 1), l.again) FROM entries AS l WHERE l.id = ? AND f.type = 'f'"
        " AND f.nlink > 1 AND f.mount = l.mount AND f.inode = l.inode AND f.hardlink = l.id AND f.id <> l.id",
        (leader,),
    )


def add_extent(
    index: sqlite3.Connection, entry: int, chunks: Sequence[tuple[int, int]], *, changed: bool, again: bool
) -> bool:
    """Record the chunks of one extent of a file whose other extents may still be unread.

    Returns:
        False if another extent has a chunk where this one has: what was read is of no worth then. Extents never
        overlap, as neighbours meet at a boundary that is settled once; only an index that is wrong has it otherwise.
    """
    rows = [(entry, at, chunk) for at, chunk in chunks]
    added = index.executemany("INSERT OR IGNORE INTO extent_chunks VALUES (?, ?, ?)", rows).rowcount if rows else 0
    if changed or again:
        index.execute(
            "UPDATE changed SET dirty = max(dirty, ?), again = max(again, ?) WHERE entry = ?", (changed, again, entry)
        )
    return added == len(rows)


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
        "UPDATE changed SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, rereads = 1, dirty = 0, again = 0 WHERE entry = ?",
        (a.size, a.mtime_ns, a.ctime_ns, a.inode, entry),
    )


def is_last_extent(index: sqlite3.Connection, entry: int) -> bool:
    """Tell whether no slice of a file is left to be read."""
    return index.execute("SELECT 1 FROM pieces WHERE entry = ? LIMIT 1", (entry,)).fetchone() is None


def are_fitting(index: sqlite3.Connection, entry: int) -> bool:
    """Tell whether the extents of a file, all read, meet and don't overlap."""
    row = index.execute(
        "SELECT 1 FROM (SELECT x.offset + c.size AS stop, lead(x.offset) OVER (ORDER BY x.offset) AS next"
        " FROM extent_chunks AS x JOIN chunks AS c ON c.id = x.chunk WHERE x.entry = ?) WHERE stop > next LIMIT 1",
        (entry,),
    ).fetchone()
    return row is None


def drop_misfits(index: sqlite3.Connection) -> int:
    """Give up the content of files whose chunks overlap or run past the end, and put them on the list of those to read.

    No such content is ever recorded; an index that holds some was damaged, or written by an older vaultik.

    Returns:
        How many files those are.
    """
    misfits = index.execute(
        "SELECT DISTINCT entry FROM (SELECT ec.entry AS entry, ec.offset + c.size AS stop,"
        " lead(ec.offset, 1, e.size) OVER (PARTITION BY ec.entry ORDER BY ec.offset) AS next FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk JOIN entries AS e ON e.id = ec.entry) WHERE stop > next"
    ).fetchall()
    index.executemany(
        "INSERT INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, unread)"
        " SELECT id, size, 0, mtime_ns, ctime_ns, inode, 1 FROM entries WHERE id = ?"
        " ON CONFLICT (entry) DO UPDATE SET unread = 1",
        misfits,
    )
    index.executemany("DELETE FROM entry_chunks WHERE entry = ?", misfits)
    return len(misfits)


class ExtentsState(NamedTuple):
    """What the extents of a file came to."""

    is_dirty: bool
    """It changed between them."""
    again: bool
    """One of them was written so recently that the next scan must look again."""
    planned_size: int
    end: int
    """Where the last of their chunks ends."""


def extents_state(index: sqlite3.Connection, entry: int) -> ExtentsState:
    """Return what the extents of a file came to that are all read."""
    dirty, again, size = index.execute("SELECT dirty, again, size FROM changed WHERE entry = ?", (entry,)).fetchone()
    (end,) = index.execute(
        "SELECT coalesce(max(x.offset + c.size), 0) FROM extent_chunks AS x JOIN chunks AS c ON c.id = x.chunk"
        " WHERE x.entry = ?",
        (entry,),
    ).fetchone()
    return ExtentsState(bool(dirty), bool(again), size, int(end))


def finish_extents(index: sqlite3.Connection, content: Content) -> None:
    """Record a file whose extents are all read; its chunks are theirs."""
    set_contents(index, [content])
    index.execute("INSERT INTO entry_chunks SELECT * FROM extent_chunks WHERE entry = ?", (content.entry,))
    drop_plan(index, content.entry)


def link_groups(index: sqlite3.Connection) -> None:
    """Let the first name of every inode carry its content; the others point to it.

    A file that is to be read is read under its leader's name.
    """
    index.execute("UPDATE entries SET hardlink = NULL WHERE hardlink IS NOT NULL AND NOT (type <> 'd' AND nlink > 1)")
    groups = "(SELECT mount, inode, min(id) AS leader FROM entries WHERE type <> 'd' AND nlink > 1 GROUP BY mount, inode) AS g"
    # The content went with the name that led before.
    index.execute(
        "INSERT INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, unread)"
        f" SELECT e.id, e.size, 0, e.mtime_ns, e.ctime_ns, e.inode, 1 FROM {groups}"
        " JOIN entries AS e ON e.id = g.leader WHERE e.type = 'f' AND e.hardlink <> e.id ON CONFLICT (entry) DO UPDATE SET unread = 1"
    )
    index.execute(
        f"UPDATE entries AS e SET hardlink = g.leader FROM {groups}"
        " WHERE e.type <> 'd' AND e.nlink > 1 AND e.mount = g.mount AND e.inode = g.inode AND e.hardlink IS NOT g.leader"
    )
    followers = "SELECT id FROM entries WHERE hardlink IS NOT NULL AND hardlink <> id"
    index.execute(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode)"
        " SELECT l.id, c.size, c.blocks, c.mtime_ns, c.ctime_ns, c.inode FROM changed AS c"
        " JOIN entries AS f ON f.id = c.entry JOIN entries AS l ON l.id = f.hardlink WHERE f.hardlink <> f.id"
    )
    for table in ("changed", "entry_chunks", "pieces", "boundaries", "extent_chunks"):
        index.execute(f"DELETE FROM {table} WHERE entry IN ({followers})")
