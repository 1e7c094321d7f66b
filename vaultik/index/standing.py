"""How far a run's bundles are, for those who watch: counts and bytes, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3


class Standing(NamedTuple):
    """How far some bundles of a run are."""

    bundles: int
    uploaded: int
    planned_bytes: int
    """What all of them have to read, as planned."""
    uploaded_bytes: int
    """What of it is in the uploaded ones."""
    stored_bytes: int
    last_wave: int


def get_standing(index: sqlite3.Connection, run: int, wave: int | None = None) -> Standing:
    """Return how far a run is, or one wave of it."""
    row = index.execute(
        "SELECT count(*), total(state = 3), total(planned_bytes), total(planned_bytes * (state = 3)),"
        " total(sealed_size * (state = 3)), coalesce(max(wave), 0) FROM bundles WHERE run = ?1 AND (?2 IS NULL OR wave = ?2)",
        (run, wave),
    ).fetchone()
    return Standing._make(map(int, row))


def get_planned_bytes(index: sqlite3.Connection, bundle: int) -> int:
    """Return how much a bundle has to read, as planned."""
    row = index.execute("SELECT planned_bytes FROM bundles WHERE id = ?", (bundle,)).fetchone()
    return int(row[0])
