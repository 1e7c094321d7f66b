"""WriteSnapshotDB: the commit. Reconcile, forget, manifest, DB, in this order and no other.

Theory: a snapshot exists exactly when its DB object exists, and nothing that it refers to may be
missing then. So the listing is looked at last before the put, what the snapshot doesn't need is
forgotten before it (a later run must not rely on what prune may delete), the manifest stands before
the DB, and the DB is sent a single time, soon after the listing. What is not answered is judged by
another listing. A run that finds something lost commits nothing and says so; its files are read again
first. A run that goes on for days commits what it has in between, as a partial snapshot.
"""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

from vaultik.backup.layer import lay
from vaultik.backup.plain_db import Draft, MisfitError
from vaultik.backup.reconcile import commit_base
from vaultik.backup.sealed_snapshot import SealedSnapshot, sealed_snapshot
from vaultik.core.ids import new_snapshot_id
from vaultik.core.lease import PARTIAL_AFTER_S
from vaultik.errors import LocalIndexError, StoreUnavailableError
from vaultik.index import chunks, state
from vaultik.index.db import transaction

if TYPE_CHECKING:
    import sqlite3

    from vaultik.backup.reconcile import Reliance
    from vaultik.backup.session import Session

_ATTEMPTS = 10
_PAUSES_S = (1, 5, 20)


class Outcome(enum.IntEnum):
    """What came of one try to commit, as the index keeps it."""

    MENDING = 0
    """Something that the snapshot needs is not stored: its files are on the list of those to read."""
    COMMITTED = 1
    PARTIAL = 2
    """What was done so far is committed; the run goes on."""


def is_partial_due(session: Session) -> bool:
    """Tell whether a run has gone on for so long that it must commit what it has."""
    oldest = chunks.oldest_uncommitted(session.index())
    return oldest is not None and oldest < session.store().now() - PARTIAL_AFTER_S


def commit_snapshot(session: Session, attempt: int) -> Outcome:
    """Write the snapshot of a run whose content is all uploaded, or a partial one if it is due.

    Returns:
        MENDING if something the snapshot needs is not stored (any more); nothing was written then.

    Raises:
        StoreUnavailableError: that for the tenth time.
        StoreError: the store failed; whether the snapshot exists is known after the next listing.
        LocalIndexError: the disk under the index or the spool failed.
    """
    index = session.index()
    reliance = session.reconcile()
    with transaction(index):
        is_complete = chunks.mark_lost(index) == 0 and _has_no_plan(index)
        if not is_complete and not is_partial_due(session):
            return _to_mending(session, attempt)
        if is_complete:
            _forget(session, index)
        draft = _draft(session, index, is_complete=is_complete)
    try:
        below = lay(session, draft) if is_complete else None
        with sealed_snapshot(session, draft, below) as sealed:
            is_put = _put(session, sealed, reliance)
    except MisfitError:
        is_put = False
    if not is_put:
        with transaction(index):
            return _to_mending(session, attempt)
    with transaction(index):
        commit_base(index, sealed.base)
        outcome = Outcome.COMMITTED if is_complete else Outcome.PARTIAL
        index.execute("UPDATE runs SET snapshot = ? WHERE id = ?", (draft.id, session.run))
        _record_attempt(index, session.run, attempt, outcome)
    return outcome


def _has_no_plan(index: sqlite3.Connection) -> bool:
    return index.execute("SELECT 1 FROM changed LIMIT 1").fetchone() is None


def _to_mending(session: Session, attempt: int) -> Outcome:
    """Send the root back to reading what is lost.

    Raises:
        StoreUnavailableError: it was sent back too often.
    """
    index = session.index()
    _record_attempt(index, session.run, attempt, Outcome.MENDING)
    (tries,) = index.execute(
        "SELECT count(*) FROM commits WHERE run = ? AND committed = ?", (session.run, int(Outcome.MENDING))
    ).fetchone()
    if tries > _ATTEMPTS:
        raise StoreUnavailableError(
            f"{session.store().location}: what was uploaded is gone again, {tries} times in this run",
            hint="is something deleting from the store while the backup runs?",
        )
    return Outcome.MENDING


def _record_attempt(index: sqlite3.Connection, run: int, attempt: int, outcome: Outcome) -> None:
    index.execute("INSERT OR REPLACE INTO commits VALUES (?, ?, ?)", (run, attempt, int(outcome)))


def _forget(session: Session, index: sqlite3.Connection) -> None:
    """Forget what the snapshot doesn't refer to, and look once more whether everything else is stored.

    Raises:
        LocalIndexError: it isn't; the index is wrong in itself.
    """
    chunks.forget_unreferenced(index)
    if chunks.unstored_chunks(index):
        raise LocalIndexError(
            f"index {session.config.index_path}: refers to chunks that are in no blob",
            hint="nothing was committed; move the index aside, and a fresh one is built (a full upload at worst)",
        )


def _draft(session: Session, index: sqlite3.Connection, *, is_complete: bool) -> Draft:
    snapshot = new_snapshot_id(session.started, state.get_state(index, "last_snapshot"))
    # Taken before it is used, so that a killed run's id is never given twice.
    state.set_state(index, "last_snapshot", snapshot)
    return Draft(snapshot, session.source(), state.get_base(index), session.store().now(), is_complete)


def _put(session: Session, sealed: SealedSnapshot, reliance: Reliance) -> bool:
    """Put the manifest, then the DB.

    Each put of the DB is sent once, in the time that its listing allows. One that is not answered is judged by
    another listing: it stands there, or the very same bytes are sent again.

    Returns:
        False if a listing in between shows that something is lost (also if the DB was put: another snapshot will have
        it), or the manifest is so old that a prune may take it for one without a DB: the DB was not put.

    Raises:
        StoreError: the store doesn't take it.
    """
    index, (name, path), first = session.index(), sealed.manifest, reliance
    with transaction(index):
        state.set_pending(index, sealed.base)
        chunks.set_sent(index)
    session.store().put(name.key, path, sha256=name.sha256)
    for pause_s in (*_PAUSES_S, None):
        try:
            _put_db(session, sealed, reliance)
        except StoreUnavailableError:
            if pause_s is None or session.put_only:
                raise
        else:
            return True
        time.sleep(pause_s)
        reliance = session.reconcile()
        if reliance.forgotten:
            return False
        if reliance.adopted:
            return True
        if _is_out_of_date(session, first):
            return False
    raise AssertionError("the last put raises or returns")


def _is_out_of_date(session: Session, reliance: Reliance) -> bool:
    return session.store().ask_time() > reliance.expires


def _put_db(session: Session, sealed: SealedSnapshot, reliance: Reliance) -> None:
    name, path = sealed.db
    if _is_out_of_date(session, reliance):
        raise StoreUnavailableError("put of the snapshot: too late after the listing that it relies on")
    session.store().put(name.key, path, sha256=name.sha256, until=reliance.until)
