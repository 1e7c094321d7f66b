"""Runs and their receipts: what was tried, what came of it, what could not be read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import SnapshotId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

UNREADABLE = "unreadable"
CHANGED = "changed"
VANISHED = "vanished"
WARNING = "warning"

_RUNS_KEPT = 1000
_SNAPSHOTS_KEPT = 20_000
"""Two years of hourly ones."""
_PROBLEMS_KEPT = 20
"""Of how many runs it is remembered which files they had trouble with."""


class Run(NamedTuple):
    """One attempt at a backup."""

    id: int
    run_id: str
    started: float
    scanned: bool
    snapshot: SnapshotId | None
    exit_code: int | None
    counts: dict[str, int]
    full: bool
    """Whether the scan looked at everything, not only at what a watcher had named."""


class Problem(NamedTuple):
    """Something a run says of one path."""

    kind: str
    path: bytes
    reason: str


def add_run(index: sqlite3.Connection, run_id: str, started: float) -> int:
    """Record that a run begins, and forget the oldest ones but the last that was done. Returns its row id."""
    (run,) = index.execute(
        "INSERT INTO runs (run_id, started) VALUES (?, ?) RETURNING id", (run_id, started)
    ).fetchone()
    index.execute(
        "DELETE FROM runs WHERE id <= ? AND id <> (SELECT coalesce(max(id), 0) FROM runs WHERE exit_code IS NOT NULL)",
        (run - _RUNS_KEPT,),
    )
    index.execute("DELETE FROM commits WHERE run <= ?", (run - _RUNS_KEPT,))
    index.execute("DELETE FROM problems WHERE run <= ?", (run - _PROBLEMS_KEPT,))
    return int(run)


def find_run(index: sqlite3.Connection, run_id: str) -> Run | None:
    """Return a run by its id, or None."""
    row = index.execute(
        'SELECT id, run_id, started, scanned, snapshot, exit_code, counts, "full" FROM runs WHERE run_id = ?', (run_id,)
    ).fetchone()
    if row is None:
        return None
    number, run_id, started, scanned, snapshot, exit_code, counts, full = row
    return Run(
        number,
        run_id,
        started,
        bool(scanned),
        SnapshotId(snapshot) if snapshot else None,
        exit_code,
        json.loads(counts),
        bool(full),
    )


def last_full_scan(index: sqlite3.Connection) -> float | None:
    """Return when the last run began that looked at everything and wrote its snapshot; None if none is remembered."""
    (started,) = index.execute('SELECT max(started) FROM runs WHERE "full" = 1 AND exit_code IN (0, 3)').fetchone()
    return None if started is None else float(started)


def add_own_snapshot(index: sqlite3.Connection, snapshot: SnapshotId) -> None:
    """Remember that a snapshot which stands in the store is of this index; the oldest are forgotten."""
    index.execute("INSERT OR IGNORE INTO own_snapshots VALUES (?)", (snapshot,))
    # Their order is that of time.
    index.execute(
        "DELETE FROM own_snapshots WHERE snapshot <="
        " (SELECT snapshot FROM own_snapshots ORDER BY snapshot DESC LIMIT 1 OFFSET ?)",
        (_SNAPSHOTS_KEPT,),
    )


def own_snapshots(index: sqlite3.Connection) -> set[str]:
    """Return the ids of the snapshots that this index committed, as far back as it remembers."""
    return {row[0] for row in index.execute("SELECT snapshot FROM own_snapshots")}


def was_interrupted(index: sqlite3.Connection) -> bool:
    """Tell whether the last run left no receipt."""
    row = index.execute("SELECT exit_code FROM runs ORDER BY id DESC LIMIT 1").fetchone()
    return row is not None and row[0] is None


def add_counts(index: sqlite3.Connection, run: int, counts: Mapping[str, int]) -> None:
    """Add numbers to what a run counted."""
    (text,) = index.execute("SELECT counts FROM runs WHERE id = ?", (run,)).fetchone()
    total: dict[str, int] = json.loads(text)
    for name, number in counts.items():
        total[name] = total.get(name, 0) + number
    index.execute("UPDATE runs SET counts = ? WHERE id = ?", (json.dumps(total), run))


def total_since(index: sqlite3.Connection, since: float, name: str) -> int:
    """Return the sum of what runs counted under a name that began after a time."""
    query = "SELECT coalesce(sum(json_extract(counts, '$.' || ?)), 0) FROM runs WHERE started > ?"
    return int(index.execute(query, (name, since)).fetchone()[0])


def set_scanned(index: sqlite3.Connection, run: int, *, full: bool) -> None:
    """Record that a run's scan is complete, and whether it looked at everything."""
    index.execute('UPDATE runs SET scanned = 1, "full" = ? WHERE id = ?', (full, run))


def add_problem(index: sqlite3.Connection, run: int, kind: str, path: bytes, reason: str) -> None:
    """Record something of one path."""
    index.execute("INSERT INTO problems (run, kind, path, reason) VALUES (?, ?, ?, ?)", (run, kind, path, reason))


def get_problems(index: sqlite3.Connection, run: int) -> list[Problem]:
    """Return what a run said of paths, in order."""
    rows = index.execute("SELECT kind, path, reason FROM problems WHERE run = ? ORDER BY id", (run,))
    return [Problem._make(row) for row in rows]


def unreadable_before(index: sqlite3.Connection, run: int) -> list[bytes]:
    """Return the paths that the last run before this one which scanned could not read."""
    rows = index.execute(
        "SELECT path FROM problems WHERE kind = ? AND run = (SELECT max(id) FROM runs WHERE scanned = 1 AND id < ?)",
        (UNREADABLE, run),
    )
    return [row[0] for row in rows]


def count_problems(index: sqlite3.Connection, run: int, kind: str) -> int:
    """Count a run's problems of a kind."""
    row = index.execute("SELECT count(*) FROM problems WHERE run = ? AND kind = ?", (run, kind)).fetchone()
    return int(row[0])


def set_receipt(
    index: sqlite3.Connection, run: int, *, snapshot: SnapshotId | None, exit_code: int, finished: float
) -> None:
    """Record how a run ended. It is complete from now on."""
    index.execute(
        "UPDATE runs SET snapshot = coalesce(?, snapshot), exit_code = ?, finished = ? WHERE id = ?",
        (snapshot, exit_code, finished, run),
    )


def set_error(index: sqlite3.Connection, run_id: str, error: str, finished: float) -> None:
    """Record why a run ends without a receipt."""
    index.execute("UPDATE runs SET error = ?, finished = ? WHERE run_id = ?", (error, finished, run_id))
