"""Contents in the index: which files have to be read, and what was read of them.

A changed file keeps its old row, whole, until its new content is recorded with the attributes of the
very fstat that preceded the reading. A large file's extents are recorded one by one and become its
content with the last.

Hard links: mount, inode and nlink say which names the scan saw as one file, `hardlink` which names the
recorded content is of. So a name that is still to be read has its own old content, whatever became of
the others, or none. Whoever carries the content of a group and leaves it hands it over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.index.entries import INSERT_CHANGED, hand_over, seen
from vaultik.model import Mark

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Sequence

    from vaultik.index.entries import Attributes, Known
_UPDATE_CONTENT = (
    "UPDATE entries SET mode = ?, uid = ?, gid = ?, user_name = ?, group_name = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
    " birth_ns = ?, inode_flags = ?, inode = ?, nlink = ?, marks = ?, again = ?, hardlink = iif(? > 1, id, NULL) WHERE id = ?"
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
    marks: int
    again: bool
    chunks: Sequence[tuple[int, int]]


def set_contents(index: sqlite3.Connection, contents: Sequence[Content]) -> None:
    """Record whole files: content, attributes, xattrs, all of one moment; takes them off the list.

    A bundle may hold thousands, so it is done table by table; but for hard links, one by one, whose other names
    get the same.
    """
    _set_contents(index, [content for content in contents if content.attributes.nlink <= 1])
    for content in contents:
        if content.attributes.nlink > 1:
            names = waiting_names(index, content.entry, content.attributes.inode)
            _set_contents(index, [content], names)
            _copy_to_names(index, content.entry, names)


def set_unreadable(index: sqlite3.Connection, known: Known) -> None:
    """Record that a file can't be read: it has no content, under any name, and the next scan looks again."""
    names = waiting_names(index, known.id, known.inode)
    _clear(index, [known.id, *names])
    drop_plan(index, known.id)
    index.execute(
        "UPDATE entries SET marks = marks & ?2 | ?3, again = 1, hardlink = iif(nlink > 1, id, NULL) WHERE id = ?1",
        (known.id, Mark.SOURCE, Mark.UNREADABLE),
    )
    _copy_to_names(index, known.id, names)


def _set_contents(index: sqlite3.Connection, contents: Sequence[Content], names: Sequence[int] = ()) -> None:
    """Record files in place of what was recorded of them and of `names`."""
    _clear(index, [*(content.entry for content in contents), *names])
    index.executemany(
        "INSERT INTO entry_chunks VALUES (?, ?, ?)", ((c.entry, at, chunk) for c in contents for at, chunk in c.chunks)
    )
    index.executemany(
        "INSERT INTO xattrs VALUES (?, ?, ?)", ((c.entry, *pair) for c in contents for pair in c.attributes.xattrs)
    )
    index.executemany(
        _UPDATE_CONTENT,
        ((*_of_content(c.attributes), int(c.marks), c.again, c.attributes.nlink, c.entry) for c in contents),
    )


def _clear(index: sqlite3.Connection, leaving: Sequence[int]) -> None:
    """Take files off the list, and what was recorded of them away; another name of it keeps it."""
    hand_over(index, leaving)
    ids = [(entry,) for entry in leaving]
    for table in ("changed", "xattrs", "entry_chunks"):
        index.executemany(f"DELETE FROM {table} WHERE entry = ?", ids)


def waiting_names(index: sqlite3.Connection, entry: int, inode: int) -> list[int]:
    """Return the other names on the list under which the scan saw an inode on the file system of `entry`."""
    rows = index.execute(
        "SELECT f.id FROM entries AS l JOIN entries AS f ON f.mount = l.mount AND f.inode = ?2 AND f.id <> l.id"
        " AND f.nlink > 1 AND f.type <> 'd' AND f.type = 'f' JOIN changed AS c ON c.entry = f.id WHERE l.id = ?1",
        (entry, inode),
    )
    return [row[0] for row in rows]


def _copy_to_names(index: sqlite3.Connection, entry: int, names: Sequence[int]) -> None:
    """Give other names of an inode what was recorded under one of them."""
    for name in names:
        drop_plan(index, name)
        index.execute(
            "UPDATE entries AS f SET (mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, inode_flags,"
            " nlink, marks, again, hardlink) = (l.mode, l.uid, l.gid, l.user_name, l.group_name, l.size, l.mtime_ns,"
            " l.ctime_ns, l.birth_ns, l.inode_flags, l.nlink, l.marks & ~1 | (f.marks & 1), l.again, l.id)"
            " FROM entries AS l WHERE l.id = ?1 AND f.id = ?2",
            (entry, name),
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


_GROUP = "e.type <> 'd' AND e.nlink > 1 AND e.mount = g.mount AND e.inode = g.inode"


def link_groups(index: sqlite3.Connection) -> None:
    """Bring the hard links in order that the scan saw.

    Of a file all names are on the list or none is: it is read under the first, and recorded for all. Their old
    content stays with each of them until then.
    """
    index.execute("UPDATE entries SET hardlink = NULL WHERE hardlink IS NOT NULL AND type <> 'f' AND nlink <= 1")
    index.execute(
        "UPDATE entries AS e SET hardlink = g.leader FROM (SELECT mount, inode, min(id) AS leader FROM entries"
        " WHERE type <> 'd' AND type <> 'f' AND nlink > 1 GROUP BY mount, inode) AS g"
        f" WHERE {_GROUP} AND e.type <> 'f' AND e.hardlink IS NOT g.leader"
    )
    index.execute("CREATE TEMP TABLE unsettled (mount INTEGER, inode INTEGER, first INTEGER, listed INTEGER)")
    try:
        index.execute(
            "INSERT INTO unsettled SELECT mount, inode, min(id), max(iif(id IN (SELECT entry FROM changed), id, NULL)) AS listed"
            " FROM entries WHERE type <> 'd' AND type = 'f' AND nlink > 1 GROUP BY mount, inode"
            " HAVING listed IS NOT NULL OR count(hardlink) < count(*) OR min(hardlink) < max(hardlink)"
        )
        _list_whole_groups(index)
    finally:
        index.execute("DROP TABLE unsettled")


def _list_whole_groups(index: sqlite3.Connection) -> None:
    names = f"FROM unsettled AS g JOIN entries AS e ON {_GROUP} AND e.type = 'f'"
    index.execute(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, lost, unread)"
        " SELECT e.id, coalesce(c.size, e.size), coalesce(c.blocks, 0), coalesce(c.mtime_ns, e.mtime_ns),"
        f" coalesce(c.ctime_ns, e.ctime_ns), e.inode, coalesce(c.lost, 0), e.marks & {Mark.UNREADABLE} <> 0"
        f" {names} LEFT JOIN changed AS c ON c.entry = g.listed"
    )
    for table in ("pieces", "boundaries", "extent_chunks"):
        index.execute(f"DELETE FROM {table} WHERE entry IN (SELECT e.id {names} WHERE e.id <> g.first)")
