"""Files in the index that can't be read: what is stored of them all the same.

A file of which nothing was changed keeps its content. One that changed, or was never read, has none; what could be
read of it remains stored, so that the next try doesn't upload it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.index import contents
from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from vaultik.index.entries import Known


def keep_content(index: sqlite3.Connection, known: Known) -> bool:
    """Take a file off the list that can't be read, with its other names, if what is stored of it is what it holds.

    That is, it was to be read only to be sealed afresh: it didn't change, and all of it has its place.

    Returns:
        False if it is not so; nothing was done then.
    """
    names = [known.id, *contents.waiting_names(index, known.id, known.inode)]
    if not all(_is_kept(index, name) for name in names):
        return False
    for name in names:
        contents.drop_plan(index, name)
        index.execute("DELETE FROM changed WHERE entry = ?", (name,))
    return True


def _is_kept(index: sqlite3.Connection, name: int) -> bool:
    row = index.execute(
        "SELECT 1 FROM changed WHERE entry = ?1 AND lost AND NOT unread AND NOT EXISTS (SELECT 1 FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = (SELECT coalesce(hardlink, id) FROM entries WHERE id = ?1)"
        " AND c.blob IS NULL AND c.bundle IS NULL)",
        (name,),
    )
    return row.fetchone() is not None


def add_remains(index: sqlite3.Connection, entry: int, ctime_ns: int, chunks: Iterable[tuple[int, int]]) -> None:
    """Keep what could be read of a file that could not be read as a whole, so that nobody uploads it again.

    No snapshot shows it as the file's content. It is kept for as long as the file stays unreadable and as it was.

    Args:
        index: within a transaction.
        entry: its id.
        ctime_ns: which state of it was read; what was kept of another is given up.
        chunks: (offset in the file, chunk row).
    """
    index.execute("DELETE FROM remains WHERE entry = ? AND ctime_ns <> ?", (entry, ctime_ns))
    index.executemany("INSERT OR IGNORE INTO remains VALUES (?, ?, ?)", ((entry, c, ctime_ns) for _, c in chunks))


def give_up_content(index: sqlite3.Connection, known: Known, chunks: Iterable[tuple[int, int]]) -> None:
    """Take a file off the list that can't be read, with its content under any name; what could be read of it remains.

    Args:
        index: within a transaction.
        known: the file.
        chunks: (offset in the file, chunk row) of the slice that failed.
    """
    row = index.execute("SELECT ctime_ns FROM changed WHERE entry = ?", (known.id,)).fetchone()
    if row is not None:
        extents = index.execute("SELECT offset, chunk FROM extent_chunks WHERE entry = ?", (known.id,)).fetchall()
        add_remains(index, known.id, row[0], [*extents, *chunks])
    contents.set_unreadable(index, known)


def forget_remains(index: sqlite3.Connection) -> None:
    """Forget what remained of files that were read at last, or are gone, and what remained and isn't stored any more."""
    index.execute(
        "DELETE FROM remains WHERE entry NOT IN (SELECT id FROM entries WHERE marks & ? AND coalesce(hardlink, id) = id)"
        " OR chunk IN (SELECT id FROM chunks WHERE blob IS NULL)",
        (Mark.UNREADABLE,),
    )
