"""Chunks and blobs in the index: claims, sealing, uploading, forgetting, and what got lost.

A chunk row has one of three states: claimed (bundle set), in a blob (blob set), or released
(neither). One in a blob may be on its way into another (`moves`). Row ids never change while anything
refers to them, so a chunk that is lost and sealed again mends every file that has it. Invariant for a
commit: every chunk that an entry refers to is in a blob that is uploaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.index import moves, unreadable
from vaultik.index.db import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from vaultik.model import BlobId, ChunkId

_CLAIM = """
INSERT INTO chunks (hash, size, bundle) VALUES (?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET bundle = excluded.bundle WHERE bundle IS NULL AND blob IS NULL
RETURNING id"""
_FIND = "SELECT c.id, b.retiring FROM chunks AS c LEFT JOIN blobs AS b ON b.id = c.blob WHERE c.hash = ?"

_BLOB_COLUMNS = "id, hash, size, recipients, sealed_at, based & 1"


class Claim(NamedTuple):
    """The row of one chunk, and whether the caller is the one to seal it."""

    chunk: int
    is_new: bool


class Place(NamedTuple):
    """Where in its blob a chunk stands: FORMAT.md, `chunks`."""

    frame_offset: int
    frame_length: int
    offset: int
    chunk: int


class BlobRow(NamedTuple):
    """A blob as the index knows it."""

    id: int
    hash: BlobId
    size: int
    recipients: str
    sealed_at: float
    """The store's time when it was sealed."""
    is_based: bool
    """Whether the last committed snapshot refers to it."""


def claim(index: sqlite3.Connection, bundle: int, chunks: Sequence[tuple[ChunkId, int]]) -> list[Claim]:
    """Claim for a bundle those of `chunks` (id, size) that nobody has, in one transaction.

    Order is kept. A chunk that stands twice in `chunks` is new the first time only. One of a retiring blob is
    new as well, as long as nobody moves it.
    """
    claims = []
    with transaction(index):
        for chunk, size in chunks:
            row = index.execute(_CLAIM, (chunk, size, bundle)).fetchone()
            if row is None:
                known, is_retiring = index.execute(_FIND, (chunk,)).fetchone()
                claims.append(Claim(known, is_new=bool(is_retiring) and moves.claim(index, bundle, known)))
            else:
                claims.append(Claim(row[0], is_new=True))
    return claims


def release_claims(index: sqlite3.Connection, bundle: int) -> None:
    """Give up what a bundle claimed and didn't seal; what it would have moved stays where it is."""
    index.execute("UPDATE chunks SET bundle = NULL WHERE blob IS NULL AND bundle = ?", (bundle,))
    moves.release(index, bundle)


def place_chunks(index: sqlite3.Connection, places: Sequence[Place]) -> None:
    """Record where chunks stand in the blob that their bundle becomes."""
    index.executemany(
        "UPDATE chunks SET frame_offset = ?, frame_length = ?, offset = ? WHERE id = ? AND blob IS NULL", places
    )
    moves.place(index, places)


def add_blob(
    index: sqlite3.Connection,
    bundle: int,
    blob: BlobId,
    *,
    size: int,
    header_length: int,
    recipients: str,
    sealed_at: float,
) -> int:
    """Record a sealed blob and bring its bundle's claims into it. Returns the blob's row id.

    What stands in a retiring blob follows when this one is stored (`set_stored`).
    """
    (content,) = index.execute(
        "SELECT coalesce(sum(size), 0) FROM chunks WHERE blob IS NULL AND bundle = ?", (bundle,)
    ).fetchone()
    content += moves.claimed_bytes(index, bundle)
    row = index.execute(
        "INSERT INTO blobs (hash, size, header_length, recipients, sealed_at, uploaded, content_bytes, live_bytes)"
        " VALUES (?, ?, ?, ?, ?, 0, ?, ?) RETURNING id",
        (blob, size, header_length, recipients, sealed_at, content, content),
    ).fetchone()
    index.execute("UPDATE chunks SET blob = ?, bundle = NULL WHERE blob IS NULL AND bundle = ?", (row[0], bundle))
    return int(row[0])


def set_stored(index: sqlite3.Connection, bundle: int, blob: int) -> None:
    """Record that the blob of a bundle is stored."""
    index.execute("UPDATE blobs SET uploaded = 1 WHERE id = ?", (blob,))
    moves.settle(index, bundle, blob)


def get_blob(index: sqlite3.Connection, blob: int) -> BlobRow:
    """Return a blob by its row id."""
    return BlobRow(*index.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE id = ?", (blob,)).fetchone())


def find_blob(index: sqlite3.Connection, blob: BlobId) -> int | None:
    """Return the row id of a blob that is thought to be stored, None if there is no such."""
    row = index.execute("SELECT id FROM blobs WHERE hash = ? AND uploaded = 1", (blob,)).fetchone()
    return None if row is None else int(row[0])


def iter_uploaded(index: sqlite3.Connection) -> Iterator[BlobRow]:
    """Yield the blobs thought to be stored, ascending by hash."""
    return map(BlobRow._make, index.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE uploaded = 1 ORDER BY hash"))


def oldest_uncommitted(index: sqlite3.Connection) -> float | None:
    """Return when the oldest uploaded blob that no committed snapshot refers to was sealed."""
    row = index.execute("SELECT min(sealed_at) FROM blobs WHERE uploaded = 1 AND NOT based & 1").fetchone()
    return None if row[0] is None else float(row[0])


def set_sent(index: sqlite3.Connection) -> None:
    """Note which blobs a snapshot refers to that is about to be sent: all that are uploaded by now."""
    index.execute("UPDATE blobs SET based = (based & 1) | (uploaded << 1)")


def set_based(index: sqlite3.Connection) -> None:
    """Record that the snapshot which was sent last is committed: what it refers to, and nothing else, is its base's."""
    index.execute("UPDATE blobs SET based = based >> 1 & 1 WHERE based <> 0")


def forget_blobs(index: sqlite3.Connection, blobs: Sequence[int]) -> None:
    """Forget blobs that can't be relied on: their chunks become released, to be sealed afresh."""
    if not blobs:
        return
    index.execute("CREATE TEMP TABLE forgotten (id INTEGER PRIMARY KEY)")
    try:
        index.executemany("INSERT INTO forgotten VALUES (?)", ((blob,) for blob in blobs))
        moves.forget(index, "SELECT id FROM forgotten")
        index.execute("DELETE FROM blobs WHERE id IN (SELECT id FROM forgotten)")
    finally:
        index.execute("DROP TABLE forgotten")


def forget_unreferenced(index: sqlite3.Connection) -> None:
    """Forget the chunks, and then the blobs, that no entry refers to.

    A later run must not rely on them: prune may delete what no snapshot refers to. What could be read of a file
    that could not be read as a whole is kept, and the snapshot lists it: else all of that would be uploaded anew
    by each run that tries to read it.
    """
    unreadable.forget_remains(index)
    index.execute("CREATE TEMP TABLE gone (id INTEGER PRIMARY KEY, size INTEGER, blob INTEGER)")
    try:
        index.execute(
            "INSERT INTO gone SELECT id, size, blob FROM chunks WHERE id NOT IN"
            " (SELECT chunk FROM entry_chunks UNION ALL SELECT chunk FROM extent_chunks UNION ALL SELECT chunk FROM remains)"
        )
        index.execute(
            "UPDATE blobs AS b SET live_bytes = live_bytes - g.size FROM"
            " (SELECT blob, sum(size) AS size FROM gone GROUP BY blob) AS g WHERE b.id = g.blob"
        )
        index.execute("DELETE FROM moves WHERE chunk IN (SELECT id FROM gone)")
        index.execute("DELETE FROM chunks WHERE id IN (SELECT id FROM gone)")
    finally:
        index.execute("DROP TABLE gone")
    index.execute(
        "DELETE FROM blobs WHERE id NOT IN (SELECT blob FROM chunks WHERE blob IS NOT NULL)"
        " AND hash NOT IN (SELECT hash FROM layers)"
    )
    moves.keep_rest(index)


def mark_lost(index: sqlite3.Connection) -> int:
    """Put every file that refers to a chunk without a blob on the list of changed files.

    Returns:
        How many files that adds. Claims of bundles still on their way don't count as lost.
    """
    if index.execute("SELECT 1 FROM chunks WHERE blob IS NULL AND bundle IS NULL LIMIT 1").fetchone() is None:
        return 0
    return index.execute(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, lost)"
        " SELECT e.id, e.size, 0, e.mtime_ns, e.ctime_ns, e.inode, 1 FROM entries AS e WHERE e.id IN"
        " (SELECT ec.entry FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"
        "  WHERE c.blob IS NULL AND c.bundle IS NULL)"
    ).rowcount


def unstored_chunks(index: sqlite3.Connection) -> int:
    """Count the chunks that an entry refers to and that no uploaded blob holds: 0 before a commit."""
    return int(
        index.execute(
            "SELECT count(*) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"
            " LEFT JOIN blobs AS b ON b.id = c.blob WHERE b.uploaded IS NOT 1"
        ).fetchone()[0]
    )
