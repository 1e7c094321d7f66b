"""Files in the index that can't be read: what is stored of them all the same.

A file of which nothing was changed keeps its content. One that changed, or was never read, has none; what could be
read of it remains stored, so that the next try doesn't upload it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.index.contents import drop_plan, set_content
from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable


def keep_content(index: sqlite3.Connection, entry: int) -> bool:
    """Take a file off the list that can't be read, if what is stored of it is still what it holds.

    That is, it was to be read only to be sealed afresh: it didn't change, and all of it has its place.

    Returns:
        False if it is not so; nothing was done then.
    """
    stays = index.execute(
        "SELECT 1 FROM changed WHERE entry = ?1 AND lost AND NOT unread AND NOT EXISTS (SELECT 1 FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ?1 AND c.blob IS NULL AND c.bundle IS NULL)",
        (entry,),
    ).fetchone()
    if stays is None:
        return False
    drop_plan(index, entry)
    index.execute("DELETE FROM changed WHERE entry = ?", (entry,))
    return True


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


def give_up_content(index: sqlite3.Connection, entry: int, chunks: Iterable[tuple[int, int]]) -> None:
    """Take a file off the list that can't be read, with its content; what could be read of it remains.

    Args:
        index: within a transaction.
        entry: its id.
        chunks: (offset in the file, chunk row) of the slice that failed.
    """
    row = index.execute("SELECT ctime_ns FROM changed WHERE entry = ?", (entry,)).fetchone()
    if row is not None:
        extents = index.execute("SELECT offset, chunk FROM extent_chunks WHERE entry = ?", (entry,)).fetchall()
        add_remains(index, entry, row[0], [*extents, *chunks])
    drop_plan(index, entry)
    set_content(index, entry, ())


def forget_remains(index: sqlite3.Connection) -> None:
    """Forget what remained of files that were read at last, or are gone."""
    index.execute(
        "DELETE FROM remains WHERE entry NOT IN (SELECT id FROM entries WHERE marks & ? AND coalesce(hardlink, id) = id)",
        (int(Mark.UNREADABLE),),
    )
