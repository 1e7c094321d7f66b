"""Object Lock and prune: what is locked stays and is said, what is kept is locked for longer.

A blob is put with a lock of its own time; snapshots that come later need it for longer than that. Who prunes renews
it, since the host that backs up may have no right but to put.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vaultik.core.names import blob_key
from vaultik.errors import ConfigError
from vaultik.maintain.blob_table import Hold
from vaultik.maintain.plan import DROP, HOLD
from vaultik.model import BlobId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.maintain.decide import Decision
    from vaultik.maintain.survey import Surveyed
    from vaultik.store.base import Store

SCHEMA = "CREATE TABLE IF NOT EXISTS locks (key TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID"
_THREADS = 8
_BATCH = 1000
_DEFAULT_MODE = "governance"


def check_can_lock(store: Store) -> None:
    """Refuse to lock where nothing can be.

    Raises:
        ConfigError: the store is of a kind that has no locks.
    """
    if not store.can_lock:
        raise ConfigError(
            f"--extend-lock: {store.location}: a directory has no locks",
            hint="leave it out; Object Lock is a bucket's, set when it is made",
        )


def locked_until(store: Store, keys: Iterable[str]) -> dict[str, float]:
    """Return until when objects are locked, those that are; a request for each."""
    with ThreadPoolExecutor(_THREADS) as threads:
        asked = list(keys)
        found = zip(asked, threads.map(store.retention, asked), strict=True)
        return {key: lock.until for key, lock in found if lock is not None}


def hold_locked(store: Store, surveyed: Sequence[Surveyed], decision: Decision) -> tuple[Decision, bool]:
    """Keep the snapshots that would be dropped and are locked, with all that they need.

    Returns:
        The decision, and whether the store locks anything at all: the newest DB or one of these.
    """
    dropped = [at for at, fate in enumerate(decision.fates) if fate.fate == DROP]
    newest = max(surveyed, key=lambda s: s.found.modified).found.name.key
    keys = {
        at: [o.key for o in (surveyed[at].found.name, surveyed[at].found.manifest) if o is not None] for at in dropped
    }
    until = locked_until(store, [newest, *(key for both in keys.values() for key in both)])
    fates, holds = list(decision.fates), dict(decision.holds)
    for at, both in keys.items():
        number = surveyed[at].number
        if number is None or not any(key in until for key in both):
            continue
        end = max(until[key] for key in both if key in until)
        fates[at] = fates[at]._replace(fate=HOLD, reasons=(*fates[at].reasons, "locked"), until=end)
        holds[number] = Hold.GRACE
    return decision._replace(fates=fates, holds=holds), bool(until)


def spare_locked(db: sqlite3.Connection, store: Store) -> tuple[int, int, float | None]:
    """Take off the list of what is to be deleted what is locked. Returns number, bytes, and when the last lock ends."""
    objects, size, end, last = 0, 0, None, 0
    while batch := db.execute(
        "SELECT id, name, size FROM doomed WHERE id > ? ORDER BY id LIMIT ?", (last, _BATCH)
    ).fetchall():
        last = batch[-1][0]
        names = {
            name if isinstance(name, str) else blob_key(BlobId(name)): (row, length) for row, name, length in batch
        }
        for key, until in locked_until(store, names).items():
            row, length = names[key]
            db.execute("DELETE FROM doomed WHERE id = ?", (row,))
            objects, size, end = objects + 1, size + length, max(until, end or 0)
    return objects, size, end


def plan_locks(
    db: sqlite3.Connection, surveyed: Sequence[Surveyed], decision: Decision, now: float, period_s: float
) -> None:
    """Note until when each object that a kept snapshot needs is to be locked: its time and the period, of a newest one from now."""
    newest: dict[str, int] = {}
    for at, one in enumerate(surveyed):
        source = one.found.source8
        if source not in newest or one.found.modified >= surveyed[newest[source]].found.modified:
            newest[source] = at
    db.execute("CREATE TEMP TABLE periods (number INTEGER PRIMARY KEY, until REAL NOT NULL)")
    for at, (one, fate) in enumerate(zip(surveyed, decision.fates, strict=True)):
        end = (now if newest[one.found.source8] == at else one.found.modified) + period_s
        if fate.fate == DROP or one.number is None or end <= now:
            continue
        db.execute("INSERT INTO periods VALUES (?, ?)", (one.number, end))
        names = [name.key for name in (one.found.name, one.found.manifest) if name is not None]
        db.executemany("INSERT INTO locks VALUES (?, ?)", ((key, end) for key in names))
    rows = db.execute(
        "SELECT s.blob, max(p.until) FROM spans AS s JOIN periods AS p ON p.number BETWEEN s.first AND s.last GROUP BY s.blob"
    )
    db.executemany("INSERT INTO locks VALUES (?, ?)", ((blob_key(BlobId(blob)), end) for blob, end in rows))
    db.execute("DROP TABLE temp.periods")


def extend(db: sqlite3.Connection, store: Store, emit: Callable[..., None]) -> int:
    """Lock what is noted for as long as is noted. Returns how many objects that changed.

    Raises:
        StoreError: the store can't, or refused.
    """
    objects, newest = db.execute("SELECT count(*), max(until) FROM locks").fetchone()
    emit(stage="locking", objects=objects, bytes=0)
    db_keys = db.execute(
        "SELECT key FROM locks WHERE until = ? AND key NOT LIKE 'blobs/%' LIMIT 2", (newest,)
    ).fetchall()
    modes = [lock.mode for (key,) in db_keys if (lock := store.retention(key)) is not None]
    mode = modes[0] if modes else _DEFAULT_MODE
    changed = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in _batches(db):
            for has_changed in threads.map(lambda row: store.retain(row[0], mode, row[1]), batch):
                changed += has_changed
                emit(done=1)
    return changed


def _batches(db: sqlite3.Connection) -> Iterator[list[tuple[str, float]]]:
    last = ""
    while batch := db.execute(
        "SELECT key, until FROM locks WHERE key > ? ORDER BY key LIMIT ?", (last, _BATCH)
    ).fetchall():
        yield batch
        last = batch[-1][0]
