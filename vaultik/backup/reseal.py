"""Give space back: leave out of what a run relies on the blobs that are mostly dead, and many tiny ones.

No key is needed for it: what still lives in such a blob is read from the source again, and sealed afresh
into a new one; the next snapshots don't refer to the old blob, and a prune frees it in time. What is read
for that is bounded per run; files that are read anyway cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.lease import DAY_S
from vaultik.index import chunks

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

MOSTLY_DEAD = 0.25
"""A blob is worth sealing again when less of it than this still lives."""
WORTH_IT = 0.8
"""So is one of which less than this lives, as long as more is dead than was lately sealed again."""
LATELY_S = 28 * DAY_S
"""So long what is sealed again is stored twice: older snapshots keep the old blob. (Who prunes knows how long; this is a guess.)"""
TINY_PARTS = 64
"""Tiny is below this part of blob_size_limit."""
TINY_AT_MOST = 32
"""So many tiny blobs may be; then they are brought together."""


class Candidate(NamedTuple):
    """A blob that may be left out."""

    blob: int
    content: int
    live: int


class Resealed(NamedTuple):
    """What is to be sealed again."""

    blobs: int
    bytes: int


def leave_out(index: sqlite3.Connection, *, blob_size_limit: int, budget: int, lately: int) -> Resealed:
    """Forget the blobs that are worth sealing again; their chunks become released.

    Args:
        index: within a transaction, scanned and not planned yet.
        blob_size_limit: most plaintext bytes of a blob.
        budget: most bytes of files that are read for it, beyond those that are read anyway.
        lately: bytes that were sealed again within `LATELY_S`.
    """
    wanted = list(_about(budget, candidates(index, blob_size_limit // TINY_PARTS, lately)))
    chosen = list(_within(budget, wanted, _readers(index, wanted))) if wanted else []
    # What a stream held is there for the run in which its command fails: it is left once it came anew.
    kept = chunks.in_streams(index)
    chunks.set_leaving(index, [candidate.blob for candidate in chosen if candidate.blob in kept])
    chunks.forget_blobs(index, [candidate.blob for candidate in chosen if candidate.blob not in kept])
    return Resealed(len(chosen), sum(candidate.live for candidate in chosen))


def candidates(index: sqlite3.Connection, tiny: int, lately: int) -> Iterator[Candidate]:
    """Yield the blobs that are worth sealing again, the deadest first, then the tiny ones if there are many.

    What is dead costs space until its blob is given up, what is sealed again until the old blob's snapshots
    are dropped: the one is kept about as large as the other.
    """
    rows = index.execute("SELECT id, content_bytes, live_bytes FROM blobs WHERE uploaded = 1 ORDER BY id").fetchall()
    blobs = sorted(map(Candidate._make, rows), key=lambda b: b.live / max(b.content, 1))
    dead = sum(blob.content - blob.live for blob in blobs)
    left = []
    for blob in blobs:
        share = blob.live / max(blob.content, 1)
        if share < MOSTLY_DEAD or (share < WORTH_IT and lately + blob.live < dead):
            dead -= blob.content - blob.live
            lately += blob.live
            yield blob
        else:
            left.append(blob)
    small = [blob for blob in left if blob.content < tiny]
    if len(small) > TINY_AT_MOST:
        yield from sorted(small, key=lambda blob: blob.content)


def _about(budget: int, wanted: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield as many as may be within a budget: what lives in a blob has to be read at the least."""
    for candidate in wanted:
        budget -= candidate.live
        if budget < 0:
            return
        yield candidate


def _readers(index: sqlite3.Connection, wanted: Iterable[Candidate]) -> dict[int, dict[int, int]]:
    """Return for each blob the files that must be read for it and are not read anyway, with their sizes."""
    index.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
    try:
        index.executemany("INSERT INTO wanted VALUES (?)", ((candidate.blob,) for candidate in wanted))
        rows = index.execute(
            "SELECT DISTINCT c.blob, e.id, e.size FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"
            " JOIN entries AS e ON e.id = ec.entry WHERE c.blob IN (SELECT id FROM wanted)"
            " AND e.id NOT IN (SELECT entry FROM changed)"
        )
        readers: dict[int, dict[int, int]] = {}
        for blob, entry, size in rows:
            readers.setdefault(blob, {})[entry] = size
    finally:
        index.execute("DROP TABLE wanted")
    return readers


def _within(budget: int, wanted: Iterable[Candidate], readers: dict[int, dict[int, int]]) -> Iterator[Candidate]:
    """Yield the blobs whose files are within the budget together, in their order; a file counts once."""
    reading: set[int] = set()
    for candidate in wanted:
        more = {entry: size for entry, size in readers.get(candidate.blob, {}).items() if entry not in reading}
        cost = sum(more.values())
        if cost <= budget:
            budget -= cost
            reading |= more.keys()
            yield candidate
