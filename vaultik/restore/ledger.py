"""What of a plan is done, what failed, and what is still to be read: the tables that a restore writes as it goes.

A blob's rows are read in pages: the plan is written to meanwhile, and memory doesn't depend on how many
there are. Every function that takes the copy expects it in autocommit mode unless it says otherwise.
"""

from __future__ import annotations

import enum
import sqlite3
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import BlobId, ChunkId
from vaultik.restore.attributes import FLAGS
from vaultik.restore.target import is_fatal
from vaultik.snapshot.fetch import WantedBlob, WantedChunk
from vaultik.snapshot.tree import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WAVE = 32
_PAGE = 1000
_RANGE = 10_000


class Kind(enum.IntEnum):
    """Whose fault a failure is."""

    TARGET = 0
    """The target would not take it."""
    DAMAGED = 1
    """Something stored is missing or damaged: another try finds the same."""
    REFUSED = 2
    """The store doesn't give one object away, others it does."""


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
    failed = "SELECT 1 FROM failures WHERE kind <> ? UNION ALL SELECT 1 FROM notes WHERE failed"
    return copy.execute(failed, (int(Kind.DAMAGED),)).fetchone() is not None


def go_on(copy: sqlite3.Connection) -> None:
    """Begin another try: what is done stays done once it has been looked at; all else is to be done, but for what is damaged."""
    with transaction(copy):
        copy.execute("DELETE FROM failures WHERE kind <> ?", (int(Kind.DAMAGED),))
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


def read_again(copy: sqlite3.Connection) -> None:
    """Settle which blobs are to be read: those that an unfinished file lacks something of."""
    copy.execute(
        "UPDATE reads SET done = blob NOT IN (SELECT c.blob FROM files AS f JOIN entry_chunks AS ec"
        f" ON ec.entry = f.content JOIN chunks AS c ON c.id = ec.chunk WHERE f.entry = f.prime AND {_OPEN} AND NOT {_WRITTEN})"
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


_OPEN = (
    "NOT EXISTS (SELECT 1 FROM done AS d WHERE d.entry = f.entry)"
    " AND NOT EXISTS (SELECT 1 FROM failures AS x WHERE x.entry = f.entry)"
)
_WRITTEN = "EXISTS (SELECT 1 FROM written AS w WHERE w.entry = f.entry AND w.blob = c.blob AND w.complete)"


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
    f" AND EXISTS (SELECT 1 FROM {_USERS} WHERE ec.chunk = c.id AND {_OPEN} AND NOT {_WRITTEN})"
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
    f" AND {_OPEN} ORDER BY ec.entry, ec.offset LIMIT ?"
)


def wanted_bytes(copy: sqlite3.Connection, blob: int) -> int:
    """Return the length of all frames of a blob that hold a chunk of an unfinished file."""
    (total,) = copy.execute(
        "SELECT total(frame_length) FROM (SELECT DISTINCT c.frame_offset, c.frame_length FROM chunks AS c WHERE c.blob = ?"
        f" AND EXISTS (SELECT 1 FROM {_USERS} WHERE ec.chunk = c.id AND {_OPEN} AND NOT {_WRITTEN}))",
        (blob,),
    ).fetchone()
    return int(total)


def is_partly_done(copy: sqlite3.Connection, blob: int) -> bool:
    """Tell whether a file that needs something of a blob is done: what it needs shall not be fetched again."""
    query = (
        f"SELECT 1 FROM {_USERS} JOIN chunks AS c ON c.id = ec.chunk JOIN done AS d ON d.entry = f.entry"
        " WHERE c.blob = ? LIMIT 1"
    )
    return copy.execute(query, (blob,)).fetchone() is not None
