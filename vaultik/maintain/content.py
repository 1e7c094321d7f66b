"""What snapshots say is in their blobs, chunk by chunk; and which files don't come out where a blob is not right.

places       where a chunk lies, as at least one of the snapshots says it. A blob has one age header and one size;
             who says otherwise has a place of its own, which can't be right too
bad_blobs    nothing in these can be relied on
bad_chunks   in these blobs it is some chunks only
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from vaultik.model import BlobId, ChunkId
from vaultik.snapshot.fetch import BlobFetcher, WantedBlob, WantedChunk, all_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.maintain.reading import Witness

SCHEMA = """
CREATE TABLE places (blob BLOB NOT NULL, header_length INTEGER NOT NULL, stored INTEGER NOT NULL, frame_offset INTEGER NOT NULL,
    offset INTEGER NOT NULL, hash BLOB NOT NULL, frame_length INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (blob, header_length, stored, frame_offset, offset, hash, frame_length, size)) STRICT, WITHOUT ROWID;
CREATE TABLE bad_blobs (blob BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE bad_chunks (blob BLOB NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (blob, hash)) STRICT, WITHOUT ROWID
"""
_PAGE = 4096
_COLUMNS = "header_length, stored, frame_offset, offset, hash, frame_length, size"


def add_places(db: sqlite3.Connection, copy: Path) -> None:
    """Take where the files of a copied snapshot have their chunks."""
    with _attached(db, copy):
        db.execute(
            "INSERT OR IGNORE INTO places SELECT b.hash, b.header_length, b.size, c.frame_offset, c.offset, c.hash,"
            " c.frame_length, c.size FROM snapshot.chunks AS c JOIN snapshot.blobs AS b ON b.id = c.blob"
            " WHERE EXISTS (SELECT 1 FROM snapshot.entry_chunks AS ec WHERE ec.chunk = c.id)"
        )


def digest(db: sqlite3.Connection, blob: bytes) -> bytes:
    """Return the SHA-256 of what the snapshots say is in a blob: who looked for the same has found the same."""
    hashing = hashlib.sha256()
    for row in _rows(db, blob):
        hashing.update(json.dumps([v.hex() if isinstance(v, bytes) else v for v in row]).encode())
    return hashing.digest()


def bad_chunks(witness: Witness, identities: Sequence[Identity], db: sqlite3.Connection, blob: bytes) -> list[bytes]:
    """Read a blob once and return the hashes of the chunks that are not where a snapshot says.

    Raises:
        StoreError: the store failed (a missing, refused or unreadable blob is damage of its chunks, not an error).
    """
    bad: dict[bytes, None] = {}
    for (header_length, stored), rows in groupby(_rows(db, blob), key=lambda row: row[:2]):
        row = WantedBlob(BlobId(blob), stored, header_length)
        fetcher = BlobFetcher(witness, identities, row, lambda: True)
        chunks = (
            WantedChunk(0, ChunkId(chunk), size, frame_offset, frame_length, offset)
            for _, _, frame_offset, offset, chunk, frame_length, size in rows
        )
        # As one stream, whatever is wanted of it.
        bad |= {f.chunk.hash: None for f in fetcher.fetch(chunks, all_of(row)) if f.damage is not None}
    return list(bad)


def note_bad(db: sqlite3.Connection, blob: bytes, chunks: Iterable[bytes] | None) -> None:
    """Note that a blob is not right: these chunks of it, or all."""
    if chunks is None:
        db.execute("INSERT OR IGNORE INTO bad_blobs VALUES (?)", (blob,))
    else:
        db.executemany("INSERT OR IGNORE INTO bad_chunks VALUES (?, ?)", ((blob, chunk) for chunk in chunks))


def add_hit_files(db: sqlite3.Connection, snapshot: str, copy: Path) -> None:
    """Note the files of a copied snapshot that need something of a blob which is not right."""
    with _attached(db, copy):
        db.execute(_HIT_FILES, (snapshot,))


_HIT_FILES = """
INSERT OR IGNORE INTO hit_files
WITH RECURSIVE bad (chunk) AS (
    SELECT c.id FROM snapshot.chunks AS c JOIN snapshot.blobs AS b ON b.id = c.blob
    WHERE b.hash IN (SELECT blob FROM bad_blobs) OR (b.hash, c.hash) IN (SELECT blob, hash FROM bad_chunks)
), above (entry, at, path) AS (
    SELECT id, parent, name FROM snapshot.entries
    WHERE type = 'f' AND coalesce(hardlink, id) IN (SELECT entry FROM snapshot.entry_chunks WHERE chunk IN (SELECT chunk FROM bad))
    UNION ALL SELECT entry, e.parent, CAST(e.name || x'2f' || path AS BLOB)
    FROM above JOIN snapshot.entries AS e ON e.id = above.at
) SELECT ?1, path FROM above WHERE at IS NULL
"""


@contextmanager
def _attached(db: sqlite3.Connection, copy: Path) -> Iterator[None]:
    db.execute("ATTACH ? AS snapshot", (copy.absolute().as_uri(),))
    try:
        yield
    finally:
        db.execute("DETACH snapshot")


def _rows(db: sqlite3.Connection, blob: bytes) -> Iterator[tuple[int, int, int, int, bytes, int, int]]:
    """Yield a blob's places in the order they are stored, in pages."""
    last: tuple[int | bytes, ...] = (-1, -1, -1, -1, b"", -1, -1)
    query = f"SELECT {_COLUMNS} FROM places WHERE blob = ? AND ({_COLUMNS}) > (?, ?, ?, ?, ?, ?, ?) ORDER BY {_COLUMNS} LIMIT ?"
    while rows := db.execute(query, (blob, *last, _PAGE)).fetchall():
        yield from rows
        last = rows[-1]
