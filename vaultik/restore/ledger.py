"""What of a plan is done, what failed, and what is still to be read: the tables that a restore writes as it goes.

A blob's rows are read in pages: the plan is written to meanwhile, and memory doesn't depend on how many
there are. Every function that takes the copy expects it in autocommit mode unless it says otherwise.
"""

from __future__ import annotations

import enum
import sqlite3
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from vaultik.restore.attributes import FLAGS
from vaultik.restore.target import is_fatal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WAVE = 32
NOT_SALVAGED = "entry NOT IN (SELECT entry FROM salvaged)"
"""What holds of files of which nothing was kept under another name."""
_RANGE = 10_000


class Kind(enum.IntEnum):
    """Whose fault a failure is."""

    TARGET = 0
    """The target would not take it."""
    DAMAGED = 1
    """Something stored came damaged, or is missing: no reason for another try by itself, and asked for again by one."""
    REFUSED = 2
    """The store doesn't give one object away, others it does."""
    CLASH = 3
    """The target's file system takes its name for another's; it is not in the plan."""


LASTING = f"({Kind.DAMAGED:d}, {Kind.CLASH:d})"
"""Kinds of failures that are no reason for another try."""


class Failure(NamedTuple):
    """Why an entry can't be brought back."""

    kind: Kind
    reason: str


def add_failures(copy: sqlite3.Connection, failures: Mapping[int, Failure]) -> None:
    """Record entries that can't be brought back; the first reason stands."""
    copy.executemany(
        "INSERT OR IGNORE INTO failures VALUES (?, ?, ?)",
        ((entry, int(kind), reason) for entry, (kind, reason) in failures.items()),
    )


@contextmanager
def transaction(copy: sqlite3.Connection) -> Iterator[None]:
    """Make all changes in the block one, that no other process's come between."""
    copy.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # A full disk has taken it back already.
        if copy.in_transaction:
            copy.execute("ROLLBACK")
        raise
    copy.execute("COMMIT")


def add_done(copy: sqlite3.Connection, entries: Sequence[int]) -> None:
    """Note entries that have their own name, whole."""
    outer = nullcontext() if copy.in_transaction else transaction(copy)
    with outer:
        copy.executemany("INSERT OR IGNORE INTO done (entry) VALUES (?)", ((entry,) for entry in entries))


def add_damaged(copy: sqlite3.Connection, chunks: Sequence[int]) -> None:
    """Note chunks that can't be read where the snapshot says they are."""
    copy.executemany("INSERT OR IGNORE INTO damaged VALUES (?)", ((chunk,) for chunk in chunks))


def has_damage(copy: sqlite3.Connection) -> bool:
    """Tell whether there are any."""
    return copy.execute("SELECT 1 FROM damaged").fetchone() is not None


@contextmanager
def guarded(copy: sqlite3.Connection, entry: int) -> Iterator[None]:
    """Keep what goes wrong with one entry as its failure.

    Raises:
        OSError: it is the whole target that failed.
    """
    try:
        yield
    except OSError as exc:
        if is_fatal(exc):
            raise
        add_failures(copy, {entry: Failure(Kind.TARGET, exc.strerror or str(exc))})


def may_try_again(copy: sqlite3.Connection) -> bool:
    """Tell whether something failed for another reason than damage: the next try may find it mended."""
    failed = f"SELECT 1 FROM failures WHERE kind NOT IN {LASTING} UNION ALL SELECT 1 FROM notes WHERE failed"
    return copy.execute(failed).fetchone() is not None


def go_on(copy: sqlite3.Connection) -> None:
    """Begin another try: what is done stays done once it has been looked at; all else is to be done.

    What came damaged is asked for again: a line may have been bad, and it may have been stored anew.
    """
    with transaction(copy):
        copy.execute(f"DELETE FROM failures WHERE kind NOT IN {LASTING}")
        copy.execute(f"DELETE FROM failures WHERE kind = {Kind.DAMAGED:d} AND {NOT_SALVAGED}")
        copy.execute(f"DELETE FROM lost WHERE {NOT_SALVAGED}")
        copy.execute("DELETE FROM damaged")
        copy.execute("DELETE FROM notes")
        copy.execute("DELETE FROM steps WHERE name <> 'snapshot'")
        copy.execute(
            "DELETE FROM refused WHERE what = ? OR entry IN (SELECT entry FROM wanted WHERE entry NOT IN (SELECT entry FROM done))",
            (FLAGS,),
        )


def add_note(copy: sqlite3.Connection, path: bytes, text: str, *, failed: bool = False) -> None:
    """Note something of a path."""
    copy.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (path, text, failed))


def written_files(copy: sqlite3.Connection) -> list[int]:
    """Return the files that are not done and may have bytes in their temporaries."""
    query = "SELECT DISTINCT entry FROM written WHERE entry NOT IN (SELECT entry FROM done)"
    return [row[0] for row in copy.execute(query)]


def forget_written(copy: sqlite3.Connection, entry: int) -> None:
    """Forget what was written of a file: its temporary is gone."""
    copy.execute("DELETE FROM written WHERE entry = ?", (entry,))
    copy.execute(f"DELETE FROM lost WHERE entry = ? AND {NOT_SALVAGED}", (entry,))


def read_again(copy: sqlite3.Connection) -> None:
    """Settle which blobs are to be read: those that an unfinished file lacks something of."""
    copy.execute(
        "UPDATE reads SET done = blob NOT IN (SELECT c.blob FROM files AS f JOIN entry_chunks AS ec"
        f" ON ec.entry = f.content JOIN chunks AS c ON c.id = ec.chunk WHERE f.entry = f.prime AND {OPEN} AND NOT {WRITTEN})"
    )


def iter_ids(copy: sqlite3.Connection, query: str) -> Iterator[int]:
    """Yield ids, read before the loop's body changes what the query looks at. One such loop at a time."""
    copy.execute("CREATE TEMP TABLE IF NOT EXISTS todo (at INTEGER PRIMARY KEY, id INTEGER)")
    copy.execute("DELETE FROM temp.todo")
    copy.execute(f"INSERT INTO temp.todo (id) {query}")
    last = 0
    while rows := copy.execute("SELECT at, id FROM temp.todo WHERE at > ? LIMIT ?", (last, _RANGE)).fetchall():
        yield from (number for _, number in rows)
        last = rows[-1][0]


OPEN = (
    "NOT EXISTS (SELECT 1 FROM done AS d WHERE d.entry = f.entry)"
    " AND NOT EXISTS (SELECT 1 FROM failures AS x WHERE x.entry = f.entry)"
)
WRITTEN = "EXISTS (SELECT 1 FROM written AS w WHERE w.entry = f.entry AND w.blob = c.blob AND w.complete)"
"""What holds of a file `f` that is still to be done; and of one that has all it needs of the blob of a chunk `c`."""


def needed_blobs(copy: sqlite3.Connection) -> list[int]:
    """Return the rows of all blobs that the plan reads, ascending."""
    return [row[0] for row in copy.execute("SELECT blob FROM reads ORDER BY place")]


def next_wave(copy: sqlite3.Connection) -> int | None:
    """Return the number of the first wave of blobs in which one is still to be read, None if all are."""
    (place,) = copy.execute("SELECT min(place) FROM reads WHERE NOT done").fetchone()
    return None if place is None else (place - 1) // WAVE


def wave_blobs(copy: sqlite3.Connection, wave: int) -> list[int]:
    """Return the rows of a wave's blobs."""
    between = (wave * WAVE + 1, (wave + 1) * WAVE)
    return [row[0] for row in copy.execute("SELECT blob FROM reads WHERE place BETWEEN ? AND ? ORDER BY 1", between)]


def is_done(copy: sqlite3.Connection, step: str) -> bool:
    """Tell whether a step is complete."""
    try:
        return copy.execute("SELECT 1 FROM steps WHERE name = ?", (step,)).fetchone() is not None
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        return False  # no such table: the plan isn't made yet


def is_read(copy: sqlite3.Connection, blob: int) -> bool:
    """Tell whether what is wanted of a blob has been written."""
    return copy.execute("SELECT 1 FROM reads WHERE blob = ? AND done", (blob,)).fetchone() is not None
