"""Moves in the index: chunks that are sealed afresh while the blob in which they stand is still relied on.

A retiring blob is one whose living chunks this run brings into new blobs. Whoever reads such a chunk claims a
move of it. Invariant: a chunk is where its row says, in a stored blob, until the blob that it moves into is
stored as well; so a move that is given up, or never claimed because a file can't be read any more, loses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_PLACE = "frame_offset = ?, frame_length = ?, offset = ?"


def retire(index: sqlite3.Connection, blobs: Sequence[int], readers: Iterable[int]) -> None:
    """Let this run seal afresh what lives in blobs, these and no others.

    Args:
        index: within a transaction, scanned and not planned yet.
        blobs: their row ids.
        readers: the files that have to be read for it; they go on the list of changed files, as files whose
            content didn't change.
    """
    index.execute("UPDATE blobs SET retiring = 0 WHERE retiring")
    index.executemany("UPDATE blobs SET retiring = 1 WHERE id = ?", ((blob,) for blob in blobs))
    index.executemany(
        "INSERT OR IGNORE INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, lost)"
        " SELECT id, size, 0, mtime_ns, ctime_ns, inode, 1 FROM entries WHERE id = ?",
        ((entry,) for entry in readers),
    )


def find_retiring(index: sqlite3.Connection) -> set[int]:
    """Return the blobs that the last run which planned began to seal afresh, and didn't finish with."""
    return {row[0] for row in index.execute("SELECT id FROM blobs WHERE retiring")}


def keep_rest(index: sqlite3.Connection) -> None:
    """End the retiring of blobs in which something lives that could not be moved: for a while they are left alone.

    Not those that hold a command's output: it is read in each run, and the next time it may come.
    """
    index.execute(
        "UPDATE blobs SET kept_at = (SELECT max(started) FROM runs) WHERE retiring AND id NOT IN"
        " (SELECT c.blob FROM streams AS s JOIN entry_chunks AS ec ON ec.entry = s.entry JOIN chunks AS c ON c.id = ec.chunk"
        "  WHERE c.blob IS NOT NULL)"
    )
    index.execute("UPDATE blobs SET retiring = 0 WHERE retiring")


def claim(index: sqlite3.Connection, bundle: int, chunk: int) -> bool:
    """Claim the move of a chunk that stands in a retiring blob. Returns False if another claim is before it."""
    return index.execute("INSERT OR IGNORE INTO moves (chunk, bundle) VALUES (?, ?)", (chunk, bundle)).rowcount > 0


def place(index: sqlite3.Connection, places: Iterable[tuple[int, int, int, int]]) -> None:
    """Record where moving chunks stand in the blob that their bundle becomes (frame offset and length, offset, chunk)."""
    index.executemany(f"UPDATE moves SET {_PLACE} WHERE chunk = ?", places)


def claimed_bytes(index: sqlite3.Connection, bundle: int) -> int:
    """Return the size of all chunks that move into the blob of a bundle."""
    query = "SELECT total(c.size) FROM moves AS m JOIN chunks AS c ON c.id = m.chunk WHERE m.bundle = ?"
    return int(index.execute(query, (bundle,)).fetchone()[0])


def release(index: sqlite3.Connection, bundle: int) -> None:
    """Give up the moves that a bundle claimed: its chunks stay where they are."""
    index.execute("DELETE FROM moves WHERE bundle = ?", (bundle,))


def release_interrupted(index: sqlite3.Connection) -> None:
    """Give up the moves of bundles that have to be streamed again."""
    index.execute("DELETE FROM moves WHERE bundle NOT IN (SELECT id FROM bundles WHERE state IN (1, 2))")


def settle(index: sqlite3.Connection, bundle: int, blob: int) -> None:
    """Record that a bundle's blob is stored: the chunks that move into it are there from now on."""
    index.execute(
        "UPDATE blobs AS b SET live_bytes = live_bytes - g.size FROM (SELECT c.blob, sum(c.size) AS size"
        " FROM moves AS m JOIN chunks AS c ON c.id = m.chunk WHERE m.bundle = ? GROUP BY c.blob) AS g WHERE b.id = g.blob",
        (bundle,),
    )
    index.execute(
        "UPDATE chunks AS c SET blob = ?, frame_offset = m.frame_offset, frame_length = m.frame_length, offset = m.offset"
        " FROM moves AS m WHERE m.bundle = ? AND m.chunk = c.id",
        (blob, bundle),
    )
    release(index, bundle)


def forget(index: sqlite3.Connection, blobs: str) -> None:
    """Take blobs away in which chunks stand: those that move are their bundle's alone now, the others are released.

    Args:
        index: within a transaction.
        blobs: an SQL query of their row ids.
    """
    moving = index.execute(
        f"DELETE FROM moves WHERE chunk IN (SELECT id FROM chunks WHERE blob IN ({blobs}))"
        " RETURNING frame_offset, frame_length, offset, bundle, bundle, chunk"
    ).fetchall()
    index.execute(f"UPDATE chunks SET blob = NULL, bundle = NULL WHERE blob IN ({blobs})")
    # A sealed bundle has a blob already, in which they stand then.
    index.executemany(
        f"UPDATE chunks SET {_PLACE}, blob = (SELECT blob FROM bundles WHERE id = ?),"
        " bundle = (SELECT id FROM bundles WHERE id = ? AND blob IS NULL) WHERE id = ?",
        moving,
    )
