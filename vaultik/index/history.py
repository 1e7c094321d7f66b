"""What the index remembers of how runs went, in a few numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


class History(NamedTuple):
    """How it went lately."""

    last_success: float
    """When the last run ended that wrote a snapshot, seconds since 1970, 0 if none has."""
    counts: Mapping[str, int]
    """What that one counted."""
    failures: int
    """How many runs have begun since then and failed."""
    snapshots: int
    """How many of the remembered runs wrote a snapshot."""


def read_history(index: sqlite3.Connection) -> History:
    """Return how it went; a run that goes on counts as failed."""
    last = index.execute(
        "SELECT id, finished, counts FROM runs WHERE exit_code IN (0, 3) ORDER BY id DESC LIMIT 1"
    ).fetchone()
    number, finished, counts = last or (0, 0.0, "{}")
    (failures,) = index.execute("SELECT count(*) FROM runs WHERE id > ?", (number,)).fetchone()
    (snapshots,) = index.execute("SELECT count(*) FROM runs WHERE exit_code IN (0, 3)").fetchone()
    return History(finished, json.loads(counts), failures, snapshots)
