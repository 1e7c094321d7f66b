"""Streams in the index: entries whose content comes from no disk, and the directories made up for them.

A stream's entry is a regular file that no scan looks for. It is on the list of those to read in each run,
and what stood in it stands on until its new content is recorded, also when there comes none.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vaultik.index import contents, entries
from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from vaultik.index.entries import Attributes


class StreamKind(enum.StrEnum):
    """What a made-up entry is."""

    DIRECTORY = "directory"
    COMMAND = "command"
    INPUT = "input"


def ids(index: sqlite3.Connection) -> frozenset[int]:
    """Return the entries that no scan may look for."""
    return frozenset(row[0] for row in index.execute("SELECT entry FROM streams"))


def retire(index: sqlite3.Connection, wanted: Mapping[bytes, StreamKind]) -> int:
    """Remove what a run doesn't want any more, within a transaction. Returns how many entries that were."""
    removed = 0
    for entry, kind in index.execute("SELECT entry, kind FROM streams ORDER BY entry").fetchall():
        if entries.find_known(index, entry) and wanted.get(entries.path_of(index, entry)) != kind:
            removed += entries.remove_trees(index, [entry])
    return removed


def place(index: sqlite3.Connection, wanted: Mapping[bytes, tuple[StreamKind, Attributes]]) -> None:
    """Make what a run wants, and put every stream on the list of files to read.

    Args:
        index: within a transaction, after the scan.
        wanted: by path, parents first.

    Raises:
        NotADirectoryError: what it shall stand in is no directory.
    """
    for path, (kind, attributes) in wanted.items():
        parent, _, name = path.rpartition(b"/")
        directory = _find_directory(index, parent)
        known = entries.children(index, directory).get(name)
        entry = known.id if known else _make(index, directory, name, kind, attributes)
        if kind is not StreamKind.DIRECTORY:
            index.execute(
                "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, unread)"
                " SELECT id, size, 0, mtime_ns, ctime_ns, inode, ? FROM entries WHERE id = ?",
                (known is None, entry),
            )


def _make(index: sqlite3.Connection, directory: int, name: bytes, kind: StreamKind, attributes: Attributes) -> int:
    new = entries.NewEntries(index)
    entry = new.add(directory, name, Mark.IMPLIED if kind is StreamKind.DIRECTORY else 0, attributes)
    new.flush()
    index.execute("INSERT INTO streams (entry, kind) VALUES (?, ?)", (entry, kind))
    return entry


def _find_directory(index: sqlite3.Connection, path: bytes) -> int:
    at = entries.ROOT
    for name in path.split(b"/")[1:]:
        found = entries.children(index, at).get(name)
        if found is None or found.type != "d":
            raise NotADirectoryError
        at = found.id
    return at


def find_of_bundle(index: sqlite3.Connection, bundle: int) -> tuple[int, StreamKind] | None:
    """Return the stream that a bundle is planned for, None if it is for files."""
    row = index.execute(
        "SELECT s.entry, s.kind FROM pieces AS p JOIN streams AS s ON s.entry = p.entry WHERE p.bundle = ?", (bundle,)
    ).fetchone()
    return None if row is None else (row[0], StreamKind(row[1]))


def begin_input(index: sqlite3.Connection, entry: int, run: int) -> bool:
    """Note that a run reads standard input now. Returns False if it has done so before."""
    query = "UPDATE streams SET begun = ?1 WHERE entry = ?2 AND begun IS NOT ?1"
    return index.execute(query, (run, entry)).rowcount > 0


def iter_unplanned(index: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Yield entry and last size of the streams to read that no bundle has yet."""
    yield from index.execute(
        "SELECT c.entry, c.size FROM changed AS c JOIN streams AS s ON s.entry = c.entry"
        " WHERE NOT EXISTS (SELECT 1 FROM pieces AS p WHERE p.entry = c.entry) ORDER BY c.entry"
    ).fetchall()


def keep(index: sqlite3.Connection, entry: int) -> bool:
    """Let an earlier content stand for one that didn't come, marked stale; the entry goes if there is none.

    Args:
        index: within a transaction; nothing is claimed any more by the pass that brought nothing.
        entry: the stream's.

    Returns:
        Whether an earlier content stands.
    """
    lost = (
        "SELECT 1 FROM changed WHERE entry = ?1 AND unread UNION ALL SELECT 1 FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ?1 AND c.blob IS NULL AND c.bundle IS NULL LIMIT 1"
    )
    if index.execute(lost, (entry,)).fetchone():
        entries.remove_trees(index, [entry])
        return False
    contents.drop_plan(index, entry)
    index.execute("DELETE FROM changed WHERE entry = ?", (entry,))
    entries.set_marks(index, entry, Mark.STALE)
    return True
