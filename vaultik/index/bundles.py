"""Bundles in the index: what each run has to read, in which slices, and how far it has come.

It keeps the books; backup/plan.py decides how files are cut into bundles. States only ever go up:
planned, chunked, sealed, uploaded; a task is complete when its bundle's state says so.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from vaultik.index import moves
from vaultik.index.chunks import release_claims, set_stored

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

BUNDLES_PER_WAVE = 32
"""Luigi's cost per task stays flat when the root yields waves of 16 to 64 bundles."""
BYTES_PER_WAVE = 16 * 10**9
"""Between waves a long run commits what it has, so none may take days: fewer bundles where they are huge."""


class BundleState(enum.IntEnum):
    """How far a bundle has come."""

    PLANNED = 0
    CHUNKED = 1
    SEALED = 2
    UPLOADED = 3


class Cut:
    """Which ends of a piece are nominal offsets whose real boundary FastCDC finds: the sum of these."""

    NONE = 0
    START = 1
    STOP = 2


class Piece(NamedTuple):
    """A slice of one file's bytes; `stop` None is the end of the file."""

    entry: int
    start: int
    stop: int | None
    cut: int
    range_stop: int | None = None
    """Where the range of data ends that an extent is of; no boundary in it lies behind that."""


class Slice(NamedTuple):
    """A piece, and what its reader has to know of the entry."""

    piece: Piece
    parent: int
    name: bytes
    marks: int


class PlannedBundle(NamedTuple):
    """What one blob shall hold."""

    pieces: list[Piece]
    bytes: int


class Bundle(NamedTuple):
    """A bundle's row."""

    id: int
    state: BundleState
    sealed_size: int
    header_length: int
    sha256: bytes | None
    blob: int | None
    recipients: str


def take_over(index: sqlite3.Connection, run: int, recipients: Iterable[str]) -> None:
    """Give a new run what an interrupted one left: finished bundles first (wave 0), then the others.

    Claims of bundles that have to be streamed again are released; so are those of chunked ones that
    are not encrypted to every one of `recipients`.
    """
    wanted = set(recipients)
    for bundle, sealed_to in index.execute("SELECT id, recipients FROM bundles WHERE state = 1").fetchall():
        if not wanted <= set(sealed_to.split()):
            take_back(index, bundle)
    index.execute("DELETE FROM bundles WHERE state = 3")
    index.execute("DELETE FROM bundles WHERE state = 0 AND id NOT IN (SELECT bundle FROM pieces)")
    index.execute(
        "UPDATE chunks SET bundle = NULL WHERE blob IS NULL AND bundle IS NOT NULL"
        " AND bundle NOT IN (SELECT id FROM bundles WHERE state = 1)"
    )
    moves.release_interrupted(index)
    index.execute("UPDATE bundles SET run = ?, wave = 0 WHERE state > 0", (run,))
    _number_waves(index, run, [row[0] for row in index.execute("SELECT id FROM bundles WHERE state = 0 ORDER BY id")])


def add_bundles(index: sqlite3.Connection, run: int, bundles: Iterable[PlannedBundle]) -> int:
    """Record planned bundles in new waves of a run. Returns how many there were."""
    ids = []
    for bundle in bundles:
        (number,) = index.execute(
            "INSERT INTO bundles (run, wave, state, planned_bytes) VALUES (?, -1, 0, ?) RETURNING id",
            (run, bundle.bytes),
        ).fetchone()
        index.executemany(
            "INSERT INTO pieces (bundle, ordinal, entry, start, stop, cut, range_stop) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (number, ordinal, p.entry, p.start, p.stop, p.cut, p.range_stop)
                for ordinal, p in enumerate(bundle.pieces)
            ),
        )
        ids.append(number)
    _number_waves(index, run, ids)
    return len(ids)


def next_wave(index: sqlite3.Connection, run: int) -> int | None:
    """Return the first wave of a run that has a bundle not uploaded yet."""
    row = index.execute("SELECT min(wave) FROM bundles WHERE run = ? AND state < 3", (run,)).fetchone()
    return None if row[0] is None else int(row[0])


def wave_bundles(index: sqlite3.Connection, run: int, wave: int) -> list[int]:
    """Return the ids of a wave's bundles, ascending."""
    return [
        row[0] for row in index.execute("SELECT id FROM bundles WHERE run = ? AND wave = ? ORDER BY id", (run, wave))
    ]


def count_bundles(index: sqlite3.Connection, run: int) -> int:
    """Count a run's bundles that are not uploaded yet."""
    return int(index.execute("SELECT count(*) FROM bundles WHERE run = ? AND state < 3", (run,)).fetchone()[0])


def count_blobs(index: sqlite3.Connection) -> tuple[int, int]:
    """Return how many blobs there are, and how many bundles may become one."""
    (blobs,) = index.execute("SELECT count(*) FROM blobs").fetchone()
    (waiting,) = index.execute("SELECT count(*) FROM bundles WHERE state < 2").fetchone()
    return int(blobs), int(waiting)


def are_interrupted(index: sqlite3.Connection, run: int) -> bool:
    """Tell whether bundles of an earlier run wait to be streamed again."""
    query = "SELECT 1 FROM bundles WHERE run = ? AND state = 0 LIMIT 1"
    return index.execute(query, (run,)).fetchone() is not None


def planned_bytes(index: sqlite3.Connection, run: int) -> int:
    """Return how many bytes a run's bundles have still to read."""
    query = "SELECT total(planned_bytes) FROM bundles WHERE run = ? AND state = 0"
    return int(index.execute(query, (run,)).fetchone()[0])


def totals(index: sqlite3.Connection, run: int) -> dict[str, int]:
    """Return what a run's bundles came to, by name."""
    row = index.execute(
        "SELECT total(files), total(bytes_read), total(bytes_new), total(sealed_size), count(blob) FROM bundles WHERE run = ?",
        (run,),
    ).fetchone()
    names = ("files_read", "bytes_read", "bytes_new", "bytes_stored", "blobs")
    return {name: int(number) for name, number in zip(names, row, strict=True)}


def iter_spooled(index: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Yield id and SHA-256 of every bundle whose sealed file may still lie in the spool, under either name."""
    yield from index.execute("SELECT id, sha256 FROM bundles WHERE state IN (1, 2) AND sha256 IS NOT NULL")


def bundle_before(index: sqlite3.Connection, bundle: int, distance: int) -> int | None:
    """Return the bundle that stands `distance` places before another in the same run, if any."""
    row = index.execute(
        "SELECT id FROM bundles WHERE run = (SELECT run FROM bundles WHERE id = ?1) AND id < ?1"
        " ORDER BY id DESC LIMIT 1 OFFSET ?2",
        (bundle, distance - 1),
    ).fetchone()
    return row[0] if row else None


def get_bundle(index: sqlite3.Connection, bundle: int) -> Bundle:
    """Return a bundle's row."""
    row = index.execute(
        "SELECT id, state, sealed_size, header_length, sha256, blob, recipients FROM bundles WHERE id = ?",
        (bundle,),
    ).fetchone()
    return Bundle(row[0], BundleState(row[1]), *row[2:])


def get_slices(index: sqlite3.Connection, bundle: int) -> list[Slice]:
    """Return a bundle's slices in order, those whose entry is still there."""
    rows = index.execute(
        "SELECT p.entry, p.start, p.stop, p.cut, p.range_stop, e.parent, e.name, e.marks FROM pieces AS p"
        " JOIN entries AS e ON e.id = p.entry WHERE p.bundle = ? ORDER BY p.ordinal",
        (bundle,),
    )
    return [
        Slice(Piece(entry, start, stop, cut, range_stop), parent, name, marks)
        for entry, start, stop, cut, range_stop, parent, name, marks in rows
    ]


def drop_piece(index: sqlite3.Connection, bundle: int, piece: Piece) -> bool:
    """Take a slice that was read off the plan. Returns False if it was taken off before.

    Another bundle may have found that the file changed, and what was read of it is of no worth.
    """
    query = "DELETE FROM pieces WHERE bundle = ? AND entry = ? AND start = ?"
    return index.execute(query, (bundle, piece.entry, piece.start)).rowcount > 0


def agree_boundary(index: sqlite3.Connection, entry: int, nominal: int, actual: int) -> int:
    """Settle where two neighbouring extents of a file meet: the first answer holds for both."""
    index.execute("INSERT OR IGNORE INTO boundaries VALUES (?, ?, ?)", (entry, nominal, actual))
    found = find_boundary(index, entry, nominal)
    assert found is not None
    return found


def find_boundary(index: sqlite3.Connection, entry: int, nominal: int) -> int | None:
    """Return a boundary that was settled already."""
    row = index.execute("SELECT actual FROM boundaries WHERE entry = ? AND nominal = ?", (entry, nominal)).fetchone()
    return row[0] if row else None


def set_chunked(
    index: sqlite3.Connection,
    bundle: int,
    *,
    sealed: tuple[int, int, bytes] | None,
    recipients: Sequence[str],
    files: int,
    bytes_read: int,
    bytes_new: int,
) -> None:
    """Record that a bundle is chunked.

    Args:
        index: within a transaction.
        bundle: the bundle's id.
        sealed: stored size, age header length and SHA-256 of the `.part`; None if
            nothing was new and there is none.
        recipients: whom it is encrypted to.
        files: how many files it read, whole or in part.
        bytes_read: plaintext bytes read.
        bytes_new: those of them in chunks that nobody had.
    """
    size, header_length, sha256 = sealed or (0, 0, None)
    index.execute(
        "UPDATE bundles SET state = 1, sealed_size = ?, header_length = ?, sha256 = ?,"
        " recipients = ?, files = ?, bytes_read = ?, bytes_new = ? WHERE id = ?",
        (size, header_length, sha256, " ".join(recipients), files, bytes_read, bytes_new, bundle),
    )


def drop_whole_pieces(index: sqlite3.Connection, bundle: int) -> None:
    """Take a bundle's whole files off the plan."""
    index.execute("DELETE FROM pieces WHERE bundle = ? AND stop IS NULL", (bundle,))


def set_sealed(index: sqlite3.Connection, bundle: int, blob: int | None) -> None:
    """Record that a bundle is a blob (or needs none)."""
    index.execute("UPDATE bundles SET state = 2, blob = ? WHERE id = ?", (blob, bundle))


def set_uploaded(index: sqlite3.Connection, bundle: int, blob: int | None) -> None:
    """Record that a bundle's blob is stored."""
    index.execute("UPDATE bundles SET state = 3 WHERE id = ?", (bundle,))
    if blob is not None:
        set_stored(index, bundle, blob)


def take_back(index: sqlite3.Connection, bundle: int) -> None:
    """End a bundle whose sealed bytes are gone: its chunks are released, mending reads their files again."""
    release_claims(index, bundle)
    index.execute("UPDATE bundles SET state = 3, blob = NULL, sealed_size = 0 WHERE id = ?", (bundle,))


def count_taken_back(index: sqlite3.Connection, bundle: int) -> int:
    """Count the bundles of a bundle's run that were sealed in it and taken back."""
    query = (
        "SELECT count(*) FROM bundles WHERE run = (SELECT run FROM bundles WHERE id = ?)"
        " AND wave > 0 AND state = 3 AND sha256 IS NOT NULL AND blob IS NULL"
    )
    return int(index.execute(query, (bundle,)).fetchone()[0])


def _number_waves(index: sqlite3.Connection, run: int, bundles: Sequence[int]) -> None:
    (last,) = index.execute("SELECT max(wave) FROM bundles WHERE run = ?", (run,)).fetchone()
    wave, count, size = max(last or 0, 0), BUNDLES_PER_WAVE, 0
    for bundle in bundles:
        (planned,) = index.execute("SELECT planned_bytes FROM bundles WHERE id = ?", (bundle,)).fetchone()
        if count == BUNDLES_PER_WAVE or size + planned > BYTES_PER_WAVE:
            wave, count, size = wave + 1, 0, 0
        count, size = count + 1, size + planned
        index.execute("UPDATE bundles SET run = ?, wave = ? WHERE id = ?", (run, wave, bundle))
