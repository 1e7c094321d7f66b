"""What the index knows of its runs and its daemon, for somebody who only looks.

It works while a run holds the lock, makes no file, changes none, and understands the index of an older
vaultik, which it leaves as it is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from vaultik.errors import LocalIndexError
from vaultik.index import db, runs
from vaultik.index.lock import is_locked, run_lock_path
from vaultik.index.state import get_state, set_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vaultik.index.runs import Problem

DAEMON = "daemon"
"""The row of `state` that holds what the daemon knows, as JSON."""

_TRIES = 5
_BUSY_S = 0.2
"""How long the daemon's loop may wait for a run's transaction: what it has to say can wait, its watchdog can't."""
_WAIT_S = 10.0


class Attempt(NamedTuple):
    """A run, as it is remembered."""

    run_id: str
    started: float
    finished: float | None
    snapshot: str | None
    exit_code: int | None
    """None: it failed, was interrupted, or is going on."""
    error: str | None
    counts: dict[str, int]


class Status(NamedTuple):
    """What is known of an index."""

    success: Attempt | None
    """The last run that wrote a snapshot."""
    unreadable: list[Problem]
    """What that run could not read."""
    attempt: Attempt | None
    """The last run."""
    last_full_scan: float | None
    daemon: dict[str, Any]
    """What a daemon last noted, {} if there never was one."""
    running: bool
    """A run holds the lock."""
    config: str | None
    """The config that the index belongs to, None before its first run."""


def read_status(index_path: Path) -> Status:
    """Return what the index knows.

    Raises:
        LocalIndexError: there is none, or it can't be read.
    """
    with db.mapped(index_path):
        if not index_path.exists():
            raise LocalIndexError(f"index {index_path}: not there", hint="the first backup makes it")
        running = is_locked(run_lock_path(index_path))
        for _ in range(_TRIES - 1):
            before = _look(index_path)
            with suppress(sqlite3.Error):
                status = _read(index_path, running=running, alone=before is not None)
                if before is None or before == _look(index_path):
                    return status
        return _read(index_path, running=running, alone=_look(index_path) is not None)


def write_daemon(index_path: Path, known: Mapping[str, Any]) -> bool:
    """Note what the daemon knows. Returns False if that isn't possible just now: there is no index yet, or it is busy."""
    with suppress(LocalIndexError, sqlite3.Error, OSError):
        if index_path.exists() and (index := db.open_existing(index_path)) is not None:
            with closing(index):
                index.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")
                set_state(index, DAEMON, json.dumps(known))
                return True
    return False


def _look(path: Path) -> tuple[int, int] | None:
    """Return what tells a change of an index that nobody has open, None if somebody has."""
    if path.with_name(path.name + "-wal").exists():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read(path: Path, *, running: bool, alone: bool) -> Status:
    # Without a WAL, SQLite would make one even to read; `immutable` keeps it from that.
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    uri = f"file:{quote(os.fsencode(path))}?{mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)) as index:
        index.execute("BEGIN")
        columns = {row[1] for row in index.execute("PRAGMA table_info(runs)")}
        if not columns:
            raise LocalIndexError(f"index {path}: no run has begun yet", hint="the first backup fills it")
        success = _find(index, columns, "WHERE exit_code IS NOT NULL AND snapshot IS NOT NULL")
        return Status(
            success=success[1] if success else None,
            unreadable=[p for p in runs.get_problems(index, success[0]) if p.kind == runs.UNREADABLE]
            if success
            else [],
            attempt=found[1] if (found := _find(index, columns, "")) else None,
            last_full_scan=_last_full_scan(index, columns),
            daemon=json.loads(get_state(index, DAEMON) or "{}"),
            running=running,
            config=get_state(index, "config"),
        )


def _find(index: sqlite3.Connection, columns: set[str], where: str) -> tuple[int, Attempt] | None:
    error = "error" if "error" in columns else "NULL"
    row = index.execute(
        f"SELECT id, run_id, started, finished, snapshot, exit_code, {error}, counts FROM runs {where} ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return (row[0], Attempt._make((*row[1:-1], json.loads(row[-1])))) if row else None


def _last_full_scan(index: sqlite3.Connection, columns: set[str]) -> float | None:
    # Before runs looked at dirty directories only, all were full.
    full = '"full" = 1' if "full" in columns else "1"
    (started,) = index.execute(f"SELECT max(started) FROM runs WHERE exit_code IS NOT NULL AND {full}").fetchone()
    return None if started is None else float(started)
