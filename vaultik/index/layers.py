"""Layers in the index: what of a snapshot DB's rows lies in the store already, and which rows changed since.

A snapshot of a large tree is a delta over layers, which are blobs: to reliance, prune and verification nothing else.
So what is true of blobs is true of them, and one that is lost costs writing it again. Triggers note each row
that changes while there are layers, with the layer that was topmost; so what has changed since any of
them is known, layers can be merged, and no writer of a row has to think of it.

How layers are merged is how log-structured merge trees do it (O'Neil et al., 1996): each is at least twice as large
as the next, so that there are few, and a row is written again as often as there are sizes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.lease import DAY_S
from vaultik.model import BlobId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from vaultik.core.age_seal import Sealed

LEAST_ROWS = 10_000
"""A tree of fewer entries and chunks is written as a whole."""
TOP_ROWS = 1_500
"""So many changed rows a snapshot's own DB may hold; more become a layer, which the next ones needn't repeat."""
_LARGEST_DELTA = 0.25
"""A layer that is to hold more than this part of all rows holds all of them."""
_OLDEST_S = 30 * DAY_S
"""After so long all rows are written again: what so many snapshots rest on shall not get old."""

_ENTRY_COLUMNS = (
    "parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target, rdev,"
    " hardlink, inode_flags, marks"
)
_CHUNK_COLUMNS = "hash, size, blob, frame_offset, frame_length, offset"
_WATCHED = {
    "entries": ("touched_entries", "id", _ENTRY_COLUMNS),
    "xattrs": ("touched_entries", "entry", "entry, name, value"),
    "entry_chunks": ("touched_entries", "entry", "entry, offset, chunk"),
    "chunks": ("touched_chunks", "id", _CHUNK_COLUMNS),
}
"""Where a row of each table is noted, by which column, and which columns snapshots have of it."""
_EVENTS = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",)}


class Layer(NamedTuple):
    """A blob that holds rows of the snapshot DB."""

    number: int
    hash: BlobId
    rows: int
    sealed_at: float


class Plan(NamedTuple):
    """What the next snapshot's DB builds on."""

    kept: list[Layer]
    """The layers that stay, the lowest first."""
    rows: int
    """How many rows changed since the topmost of them; all, if there is none."""
    is_layer: bool
    """Whether they become a layer of their own; otherwise they are the snapshot's DB."""


def plan(index: sqlite3.Connection, now: float) -> Plan:
    """Decide what to build the next snapshot's DB on.

    Args:
        index: at a commit: all that it knows of is uploaded.
        now: the store's time.
    """
    total = _count(index, "entries") + _count(index, "chunks")
    if total < LEAST_ROWS:
        return Plan([], total, is_layer=False)
    known = find_all(index)
    if not known or known[0].sealed_at < now - _OLDEST_S:
        return Plan([], total, is_layer=True)
    rows = touched(index, known[-1])
    if rows <= TOP_ROWS:
        return Plan(known, rows, is_layer=False)
    while known and known[-1].rows < 2 * rows:
        known.pop()
        rows = touched(index, known[-1]) if known else total
    if rows > _LARGEST_DELTA * total:
        return Plan([], total, is_layer=True)
    return Plan(known, rows, is_layer=True)


def find_all(index: sqlite3.Connection) -> list[Layer]:
    """Return the layers, from the lowest up to the last before one whose blob isn't relied on any more."""
    rows = index.execute(
        "SELECT l.number, l.hash, l.rows, b.sealed_at FROM layers AS l"
        " LEFT JOIN blobs AS b ON b.hash = l.hash AND b.uploaded = 1 ORDER BY l.number"
    )
    return list(itertools.takewhile(lambda layer: layer.sealed_at is not None, map(Layer._make, rows)))


def touched(index: sqlite3.Connection, layer: Layer) -> int:
    """Count the entries and chunks that changed since a layer was written."""
    query = "SELECT (SELECT count(*) FROM touched_entries WHERE since >= ?1) + (SELECT count(*) FROM touched_chunks WHERE since >= ?1)"
    return int(index.execute(query, (layer.number,)).fetchone()[0])


def keep(index: sqlite3.Connection, kept: Sequence[Layer]) -> None:
    """Forget all layers but some of the lowest, with their blobs.

    Args:
        index: within a transaction.
        kept: those that stay.
    """
    top = kept[-1].number if kept else 0
    index.execute("DELETE FROM blobs WHERE hash IN (SELECT hash FROM layers WHERE number > ?)", (top,))
    index.execute("DELETE FROM layers WHERE number > ?", (top,))
    if not kept:
        for name, _ in _triggers():
            index.execute(f"DROP TRIGGER IF EXISTS {name}")
        index.execute("DELETE FROM touched_entries")
        index.execute("DELETE FROM touched_chunks")


def add(index: sqlite3.Connection, sealed: Sealed, *, rows: int, recipients: str, sealed_at: float) -> None:
    """Record a layer that is stored. From now on, what changes has changed since it.

    Args:
        index: within a transaction.
        sealed: its blob.
        rows: how many entries and chunks it holds.
        recipients: whom it is sealed to, a space between.
        sealed_at: the store's time.
    """
    blob = BlobId(sealed.sha256)
    index.execute(
        "INSERT INTO blobs (hash, size, header_length, recipients, sealed_at, uploaded) VALUES (?, ?, ?, ?, ?, 1)",
        (blob, sealed.size_bytes, sealed.header_length, recipients, sealed_at),
    )
    index.execute("INSERT INTO layers (hash, rows) VALUES (?, ?)", (blob, rows))
    for _, statement in _triggers():
        index.execute(statement)


def _count(index: sqlite3.Connection, table: str) -> int:
    return int(index.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _triggers() -> Iterator[tuple[str, str]]:
    """Yield name and SQL of each trigger."""
    for table, (noted, column, columns) in _WATCHED.items():
        for event, sides in _EVENTS.items():
            name = f"note_{event.lower()}_of_{table}"
            when = f"UPDATE OF {columns}" if event == "UPDATE" else event
            notes = "".join(
                f" INSERT INTO {noted} VALUES ({side}.{column}, (SELECT max(number) FROM layers))"
                " ON CONFLICT (id) DO UPDATE SET since = excluded.since;"
                for side in sides
            )
            yield name, f"CREATE TRIGGER IF NOT EXISTS {name} AFTER {when} ON {table} BEGIN{notes} END"
