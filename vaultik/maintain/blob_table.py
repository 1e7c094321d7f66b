"""Which blobs are stored and which snapshots refer to them, in a private temporary database.

A thousand snapshots with a hundred thousand blobs each are a hundred million references, but from one snapshot to the
next of a source hardly any changes. So a row says that all snapshots from one number to another refer to a
blob; memory holds the references of one snapshot at a time, and the disk what changed.

The database holds ids, sizes and times, never a name. It is the prune's working state too: `facts` (the
plan), `doomed` (what to delete, in steps) and `steps` (which are done).
"""

from __future__ import annotations

import enum
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from vaultik.model import BlobId

_SCHEMA = """
CREATE TABLE spans (blob BLOB NOT NULL, size INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
CREATE TABLE blobs (
    id BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    modified REAL NOT NULL,
    hold INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (number INTEGER PRIMARY KEY, hold INTEGER NOT NULL) STRICT;
CREATE INDEX snapshots_by_hold ON snapshots (hold, number);
CREATE TABLE lost (first INTEGER NOT NULL, last INTEGER NOT NULL, blob BLOB NOT NULL) STRICT;
CREATE TABLE doomed (id INTEGER PRIMARY KEY, step TEXT NOT NULL, name ANY NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE INDEX doomed_by_step ON doomed (step, id);
CREATE TABLE freed (step TEXT PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE steps (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT
"""


class Hold(enum.IntEnum):
    """How firmly a snapshot holds its blobs; of several, a blob has the firmest."""

    NONE = 0
    ONCE = 1
    """Dropped by the user's word; its blobs stay in this prune."""
    GRACE = 2
    """Kept because it was a newest within the grace."""
    KEPT = 3


class Share(NamedTuple):
    """A part of the stored blobs."""

    blobs: int
    bytes: int
    newest: float
    """LastModified of the newest of them; 0 if there is none."""


class Lost(NamedTuple):
    """What a snapshot refers to and the store hasn't, or has in another size."""

    snapshot: int
    blobs: int
    example: bytes


def connect(path: Path) -> sqlite3.Connection:
    """Open a prune's database, making it if it isn't there. Nothing in it outlives a power cut, or needs to."""
    # By URI, here and where others are attached: a path may be any bytes.
    db = sqlite3.connect(path.absolute().as_uri(), timeout=120, isolation_level=None, uri=True)
    db.execute("PRAGMA journal_mode = MEMORY")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -16384")
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
        db.executescript(f"BEGIN; {_SCHEMA}; COMMIT")
    return db


class References:
    """Takes the references of snapshots one after the other; those of one source in a row cost least."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._now: dict[bytes, tuple[int, int]] = {}
        """Of the latest snapshot: size, and the number of the first snapshot of the row, by blob."""
        self._number = -1

    def add(self, blobs: Mapping[bytes, int]) -> int:
        """Take the sizes of a snapshot's blobs by id. Returns the snapshot's number."""
        self._end({blob for blob, (size, _) in self._now.items() if blobs.get(blob) != size})
        self._number += 1
        for blob, size in blobs.items():
            if blob not in self._now:
                self._now[blob] = size, self._number
        return self._number

    def finish(self) -> None:
        """Write down what is still open. Nothing can be added after."""
        self._end(set(self._now))

    def _end(self, blobs: set[bytes]) -> None:
        self._db.execute("BEGIN")
        rows = ((blob, *self._now.pop(blob), self._number) for blob in blobs)
        self._db.executemany("INSERT INTO spans VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")


def add_blobs(db: sqlite3.Connection, blobs: Iterable[tuple[BlobId, int, float]]) -> None:
    """Note what is stored: id, size and LastModified of each blob."""
    db.execute("BEGIN")
    db.executemany("INSERT INTO blobs (id, size, modified) VALUES (?, ?, ?)", blobs)
    db.execute("COMMIT")


def hold(db: sqlite3.Connection, holds: Mapping[int, Hold]) -> None:
    """Say how firmly each snapshot holds its blobs, by its number; once."""
    db.execute("BEGIN")
    db.executemany("INSERT INTO snapshots VALUES (?, ?)", holds.items())
    for firmness in (Hold.ONCE, Hold.GRACE, Hold.KEPT):
        db.execute(
            "UPDATE blobs SET hold = ?1 WHERE id IN (SELECT blob FROM spans WHERE EXISTS"
            " (SELECT 1 FROM snapshots WHERE hold = ?1 AND number BETWEEN first AND last))",
            (firmness,),
        )
    db.execute("COMMIT")


def find_lost(db: sqlite3.Connection) -> list[Lost]:
    """Return what kept snapshots refer to and isn't stored as they say, by snapshot."""
    db.execute("DELETE FROM lost")
    db.execute(
        "INSERT INTO lost SELECT s.first, s.last, s.blob FROM spans AS s LEFT JOIN blobs AS b ON b.id = s.blob"
        " WHERE b.size IS NOT s.size"
    )
    rows = db.execute(
        "SELECT n.number, count(*), min(l.blob) FROM snapshots AS n JOIN lost AS l ON n.number BETWEEN l.first AND l.last"
        " WHERE n.hold >= ? GROUP BY n.number ORDER BY n.number",
        (Hold.GRACE,),
    )
    return [Lost(*row) for row in rows]


def mend_sizes(db: sqlite3.Connection, look_behind: Callable[[bytes], int | None]) -> list[bytes]:
    """Take for the blobs that `find_lost` found with another size that of an older version, where there is one that is right.

    Returns:
        Those blobs.
    """
    mended = []
    rows = db.execute("SELECT DISTINCT l.blob FROM lost AS l JOIN blobs AS b ON b.id = l.blob").fetchall()
    for (blob,) in rows:
        if (size := look_behind(blob)) is not None:
            db.execute("UPDATE blobs SET size = ? WHERE id = ?", (size, blob))
            mended.append(blob)
    return mended


def share(db: sqlite3.Connection, firmness: Hold, *, before: float | None = None, since: float | None = None) -> Share:
    """Return how much is held so firmly and no firmer, with a LastModified before a time, or not before one."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(max(modified), 0) FROM blobs WHERE hold = ?"
        " AND (?2 IS NULL OR modified < ?2) AND (?3 IS NULL OR modified >= ?3)",
        (firmness, before, since),
    ).fetchone()
    return Share(*row)


def doom_blobs(db: sqlite3.Connection, step: str, before: float) -> None:
    """Put on the list of a step the blobs that nobody holds with a LastModified before a time."""
    db.execute(
        "INSERT INTO doomed (step, name, size) SELECT ?, id, size FROM blobs WHERE hold = ? AND modified < ? ORDER BY id",
        (step, Hold.NONE, before),
    )
