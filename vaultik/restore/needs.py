"""What unfinished files need of a blob: its frames, its chunks, and where these go.

Chunks and places are read in pages: the plan is written to meanwhile, and memory doesn't depend on how many
there are.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import BlobId, ChunkId
from vaultik.restore.ledger import OPEN, WRITTEN
from vaultik.snapshot.reads import Reads, Span, WantedBlob, WantedChunk, plan_reads
from vaultik.snapshot.tree import Entry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_PAGE = 1000


def get_blob(copy: sqlite3.Connection, blob: int) -> WantedBlob:
    """Return a blob by its row id."""
    digest, size, header_length = copy.execute(
        "SELECT hash, size, header_length FROM blobs WHERE id = ?", (blob,)
    ).fetchone()
    return WantedBlob(BlobId(digest), size, header_length)


def iter_chunks(copy: sqlite3.Connection, blob: int) -> Iterator[WantedChunk]:
    """Yield the chunks of a blob that unfinished files need, in the order they are stored.

    In pages: the plan may be written to meanwhile, and memory doesn't depend on how many there are.
    """
    last = (-1, -1, -1)
    while rows := copy.execute(_CHUNKS, (blob, *last, _PAGE)).fetchall():
        for number, digest, size, frame_offset, frame_length, offset in rows:
            yield WantedChunk(number, ChunkId(digest), size, frame_offset, frame_length, offset)
        last = (rows[-1][3], rows[-1][5], rows[-1][0])


_USERS = "entry_chunks AS ec JOIN files AS f ON f.content = ec.entry AND f.entry = f.prime"
_CHUNKS = (
    "SELECT c.id, c.hash, c.size, c.frame_offset, c.frame_length, c.offset FROM chunks AS c WHERE c.blob = ?"
    " AND (c.frame_offset, c.offset, c.id) > (?, ?, ?)"
    f" AND EXISTS (SELECT 1 FROM {_USERS} WHERE ec.chunk = c.id AND {OPEN} AND NOT {WRITTEN})"
    " ORDER BY c.frame_offset, c.offset, c.id LIMIT ?"
)


class Place(NamedTuple):
    """Where a chunk goes."""

    file: Entry
    offset: int
    chunks: int
    """How many chunks the file has."""


def iter_places(copy: sqlite3.Connection, chunk: int) -> Iterator[Place]:
    """Yield where a chunk goes, in pages like `iter_chunks`; what is done or given up is left out."""
    content, at = 0, -1
    while rows := copy.execute(_PLACES, (chunk, content, at, _PAGE)).fetchall():
        yield from (Place(Entry._make(columns), offset, chunks) for _, offset, chunks, *columns in rows)
        if len(rows) < _PAGE:
            return
        content, at, *_ = rows[-1]


_PLACES = (
    f"SELECT ec.entry, ec.offset, f.chunks, {', '.join(f'e.{column}' for column in Entry._fields)} FROM {_USERS}"
    " JOIN entries AS e ON e.id = f.entry WHERE ec.chunk = ? AND (ec.entry, ec.offset) > (?, ?)"
    f" AND {OPEN} ORDER BY ec.entry, ec.offset LIMIT ?"
)


def iter_frames(copy: sqlite3.Connection, blob: int) -> Iterator[Span]:
    """Yield the frames of a blob that hold a chunk of an unfinished file, in the order they are stored.

    Nothing may be written to the plan meanwhile.
    """
    for (offset, length), rows in groupby(copy.execute(_FRAMES, (blob,)), key=lambda row: row[:2]):
        yield Span(offset, length, max(end for _, _, end in rows))


_FRAMES = (
    "SELECT c.frame_offset, c.frame_length, c.offset + c.size FROM chunks AS c WHERE c.blob = ?"
    f" AND EXISTS (SELECT 1 FROM {_USERS} WHERE ec.chunk = c.id AND {OPEN} AND NOT {WRITTEN})"
    " ORDER BY c.frame_offset, c.offset, c.id"
)


def plan_blob(copy: sqlite3.Connection, blob: int) -> Reads:
    """Return what is asked of the store for what unfinished files need of a blob."""
    return plan_reads(get_blob(copy, blob), iter_frames(copy, blob))


def left_reads(copy: sqlite3.Connection) -> tuple[int, int]:
    """Return how many requests, and how many bytes in sum, the blobs that are still to be read take."""
    requests = size = 0
    for (blob,) in copy.execute("SELECT blob FROM reads WHERE NOT done"):
        reads = plan_blob(copy, blob)
        requests += reads.requests
        size += reads.bytes
    return requests, size
