"""What earlier verifications of a store found right, and when: an SQLite file beside the index, or where `--state` says.

Nothing depends on it: without it a verification reads everything, or begins with any part. It holds digests and
times, and which snapshots there were; never a path. It is attached to a session's own database as `memory`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.lease import GRACE_S
from vaultik.errors import ConfigError, LocalIndexError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultik.store.base import Store

_SCHEMA = """
CREATE TABLE IF NOT EXISTS memory.store (location TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS memory.objects (sha256 BLOB PRIMARY KEY, size INTEGER NOT NULL, at REAL NOT NULL,
    is_right INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memory.depths (sha256 BLOB PRIMARY KEY, at REAL NOT NULL, content BLOB) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memory.passes (kind TEXT PRIMARY KEY, since REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS memory.seen (key TEXT PRIMARY KEY, source TEXT NOT NULL, modified REAL NOT NULL) STRICT, WITHOUT ROWID
"""
_SYSTEM = Path("/var/lib/vaultik")
_GOES_ON_S = GRACE_S
"""An interrupted verification that is older is begun anew."""
_TABLES = {"objects", "depths", "passes", "seen", "store"}
_REMEMBERED = {
    False: "CREATE TEMP VIEW remembered AS SELECT sha256, size, at, is_right, NULL AS content FROM memory.objects",
    True: "CREATE TEMP VIEW remembered AS SELECT o.sha256, o.size, d.at, o.is_right, d.content"
    " FROM memory.objects AS o LEFT JOIN memory.depths AS d USING (sha256)",
}
"""What a verification goes by: a deep one is not content with what a shallow one has read."""


class Seen(NamedTuple):
    """A snapshot that was listed."""

    source: str
    """8 hex digits."""
    modified: float
    """LastModified of its DB."""


def default_path(store: Store) -> Path:
    """Return where the memory of a store lies unless somebody says otherwise."""
    name = f"verify-{hashlib.sha256(store.location.encode()).hexdigest()[:16]}.sqlite"
    if os.geteuid() == 0:
        return _SYSTEM / name
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "vaultik" / name


def attach(db: sqlite3.Connection, path: Path | None, store: Store, *, deep: bool) -> None:
    """Attach the memory of a store to a connection, making it (0600) if it isn't there; the view `remembered` shows it.

    Args:
        db: the connection.
        path: where it is; None for the place that belongs to the store, which is made as well.
        store: whose.
        deep: what counts is what was decrypted and looked into.

    Raises:
        ConfigError: it is another store's.
        LocalIndexError: it can't be made or used.
    """
    location, is_given, path = store.location, path is not None, path or default_path(store)
    try:
        if not is_given:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        db.execute("ATTACH ? AS memory", (path.absolute().as_uri(),))
        db.execute("PRAGMA memory.journal_mode = WAL")
        db.execute("PRAGMA memory.synchronous = NORMAL")
        found = _prepare(db, location)
        # A clock that was ahead would make them look read for a long time to come.
        for table in ("objects", "depths"):
            db.execute(f"DELETE FROM memory.{table} WHERE at > ?", (time.time(),))
        db.execute(_REMEMBERED[deep])
    except (OSError, sqlite3.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise LocalIndexError(
            f"state {path}: {reason}", hint="--state FILE names another; one that is damaged may be removed"
        ) from exc
    if found != location:
        raise ConfigError(
            f"state {path}: is that of {found}", hint="each store has its own; --state FILE names another"
        )


def _prepare(db: sqlite3.Connection, location: str) -> str:
    db.execute("BEGIN IMMEDIATE")
    tables = {name for (name,) in db.execute("SELECT name FROM memory.sqlite_schema WHERE type = 'table'")}
    if tables and not {"store"} <= tables <= _TABLES:
        raise sqlite3.DatabaseError("not the state of a verification")
    for statement in _SCHEMA.split(";"):
        db.execute(statement)
    if not tables:
        db.execute("INSERT INTO memory.store VALUES (?)", (location,))
    db.execute("COMMIT")
    (found,) = db.execute("SELECT location FROM memory.store").fetchone()
    return str(found)


def begin_pass(db: sqlite3.Connection, kind: str, now: float) -> float:
    """Begin a verification, or go on with an interrupted one of the same kind. Returns when it began."""
    row = db.execute("SELECT since FROM memory.passes WHERE kind = ?", (kind,)).fetchone()
    if row is not None and now - _GOES_ON_S < row[0] <= now:
        return float(row[0])
    db.execute("INSERT OR REPLACE INTO memory.passes VALUES (?, ?)", (kind, now))
    return now


def end_pass(db: sqlite3.Connection, kind: str) -> None:
    """Note that a verification has come to its end."""
    db.execute("DELETE FROM memory.passes WHERE kind = ?", (kind,))


def note(db: sqlite3.Connection, sha256: bytes, size: int, at: float, *, is_right: bool) -> None:
    """Note that an object was read, and whether it was right."""
    row = (sha256, size, at, is_right)
    db.execute("INSERT OR REPLACE INTO memory.objects (sha256, size, at, is_right) VALUES (?, ?, ?, ?)", row)


def note_depth(db: sqlite3.Connection, sha256: bytes, at: float, content: bytes | None) -> None:
    """Note that what is in an object was right, for the `content` that the snapshots say of it."""
    db.execute("INSERT OR REPLACE INTO memory.depths VALUES (?, ?, ?)", (sha256, at, content))


def find_vanished(db: sqlite3.Connection, listed: Mapping[str, Seen], now: float) -> dict[str, Seen]:
    """Return the snapshots that were seen once, are not listed, and that no prune may have dropped.

    A prune keeps whatever was its source's newest at any time within the grace: what is gone must have been superseded
    for that long, by the store's times, which nobody can set back.

    Args:
        db: with the memory attached.
        listed: what is there now, by the key of the DB.
        now: the time; a week matters, not an hour.
    """
    seen = {key: Seen(source, at) for key, source, at in db.execute("SELECT key, source, modified FROM memory.seen")}
    latest: dict[str, float] = {}
    for one in (*seen.values(), *listed.values()):
        if one.modified <= now - GRACE_S:
            latest[one.source] = max(latest.get(one.source, 0.0), one.modified)
    return {key: one for key, one in seen.items() if key not in listed and one.modified >= latest.get(one.source, 0.0)}


def set_seen(db: sqlite3.Connection, seen: Mapping[str, Seen]) -> None:
    """Remember snapshots by the keys of their DBs; others are forgotten."""
    db.execute("BEGIN")
    db.execute("DELETE FROM memory.seen")
    db.executemany("INSERT INTO memory.seen VALUES (?, ?, ?)", ((key, *one) for key, one in seen.items()))
    db.execute("COMMIT")
