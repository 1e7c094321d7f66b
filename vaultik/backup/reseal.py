"""Give space back: let blobs that are mostly dead, and many tiny ones, retire.

No key is needed for it: what still lives in such a blob is read from the source again, and sealed afresh
into a new one; the next snapshots don't refer to the old blob, and a prune frees it in time. What is read
for that is bounded per run; files that are read anyway cost nothing.

What can't be read any more stays where it is stored, and the blob with it: its disk went bad, and this may be
the last good copy.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup import plan
from vaultik.core.lease import DAY_S
from vaultik.index import moves

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
FEW_PARTS = 4
"""And below this part of the chunks that a bundle of tiny files may have: brought together they must become fewer."""
TINY_AT_MOST = 32
"""So many tiny blobs may be; then they are brought together."""


class Candidate(NamedTuple):
    """A blob that may retire."""

    blob: int
    content: int
    live: int


class Resealed(NamedTuple):
    """What is to be sealed again."""

    blobs: int
    bytes: int


def leave_out(index: sqlite3.Connection, *, blob_size_limit: int, budget: int, lately: int, now: float) -> Resealed:
    """Choose the blobs that are worth sealing again, and put the files in them on the list of those to read.

    Args:
        index: within a transaction, scanned and not planned yet.
        blob_size_limit: most plaintext bytes of a blob.
        budget: most bytes of files that are read for it, beyond those that are read anyway.
        lately: bytes that were sealed again within `LATELY_S`.
        now: this machine's time.

    Returns:
        What was chosen and is not what an interrupted run had chosen before.
    """
    before = moves.find_retiring(index)
    wanted = list(_about(budget, candidates(index, blob_size_limit // TINY_PARTS, lately, now - LATELY_S)))
    readers = _readers(index, wanted) if wanted else {}
    chosen = list(_within(budget, wanted, readers))
    blobs = [candidate.blob for candidate in chosen]
    moves.retire(index, blobs, chain.from_iterable(readers.get(blob, ()) for blob in blobs))
    fresh = [candidate for candidate in chosen if candidate.blob not in before]
    return Resealed(len(fresh), sum(candidate.live for candidate in fresh))


def candidates(index: sqlite3.Connection, tiny: int, lately: int, kept: float) -> Iterator[Candidate]:
    """Yield the blobs that are worth sealing again, the deadest first, then the tiny ones if there are many.

    What is dead costs space until its blob is given up, what is sealed again until the old blob's snapshots
    are dropped: the one is kept about as large as the other. A blob that had to be kept since the time `kept`,
    because something in it can't be read, isn't tried again yet.
    """
    query = (
        "SELECT id, content_bytes, live_bytes FROM blobs WHERE uploaded = 1 AND kept_at <= ?"
        " AND hash NOT IN (SELECT hash FROM layers) ORDER BY id"
    )
    rows = index.execute(query, (kept,)).fetchall()
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
        small = _of_few_chunks(index, small)
    if len(small) > TINY_AT_MOST:
        yield from sorted(small, key=lambda blob: blob.content)


def _of_few_chunks(index: sqlite3.Connection, blobs: Iterable[Candidate]) -> list[Candidate]:
    """Return those that are tiny because little came together, not because their files are: those stay as many."""
    counts = dict(index.execute("SELECT blob, count(*) FROM chunks WHERE blob IS NOT NULL GROUP BY blob"))
    return [blob for blob in blobs if FEW_PARTS * counts.get(blob.blob, 0) < plan.PIECES_PER_BUNDLE]


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
            # What an interrupted run has sealed already needn't be read.
            " AND e.id NOT IN (SELECT entry FROM changed) AND c.id NOT IN (SELECT chunk FROM moves)"
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
