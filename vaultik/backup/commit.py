"""WriteSnapshotDB: the commit. Reconcile, forget, manifest, DB, in this order and no other.

Theory: a snapshot exists exactly when its DB object exists, and nothing that it refers to may be
missing then. So the listing is looked at last before the put, what the snapshot doesn't need is
forgotten before it (a later run must not rely on what prune may delete), the manifest stands before
the DB, and the DB is sent a single time, soon after the listing. What is not answered is judged by
another listing. A run that finds something lost commits nothing and says so; its files are read again
first. A run that goes on for days commits what it has in between, as a partial snapshot.
"""

from __future__ import annotations

import contextlib
import enum
import io
import time
from typing import TYPE_CHECKING, NamedTuple

import vaultik
from vaultik.backup import spool
from vaultik.backup.reconcile import commit_base
from vaultik.core import age_seal, manifest
from vaultik.core.bounds import DB_BOUND, MANIFEST_BOUND
from vaultik.core.frames import encode_stream
from vaultik.core.ids import new_snapshot_id, source8
from vaultik.core.lease import PARTIAL_AFTER_S
from vaultik.core.names import SnapshotName
from vaultik.core.padding import padded
from vaultik.errors import ConfigError, FormatError, LocalIndexError, StoreUnavailableError
from vaultik.index import chunks, contents, state
from vaultik.index.db import mapped, transaction
from vaultik.index.state import Base
from vaultik.snapshot.write import FORMAT, Totals, plain_path, write_snapshot_db

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.backup.reconcile import Reliance
    from vaultik.backup.session import Session
    from vaultik.model import SnapshotId

_ATTEMPTS = 10
_PAUSES_S = (1, 5, 20)


class Outcome(enum.IntEnum):
    """What came of one try to commit, as the index keeps it."""

    MENDING = 0
    """Something that the snapshot needs is not stored: its files are on the list of those to read."""
    COMMITTED = 1
    PARTIAL = 2
    """What was done so far is committed; the run goes on."""


class _MisfitError(Exception):
    """The index held content that no file can have; those files are on the list of those to read now."""


class _Draft(NamedTuple):
    """A snapshot about to be written."""

    id: SnapshotId
    source: str
    base: Base | None
    server_time: float
    is_complete: bool


class _Sealed(NamedTuple):
    """A snapshot's two objects, sealed and waiting in the spool."""

    manifest: tuple[SnapshotName, Path]
    db: tuple[SnapshotName, Path]
    base: Base
    """What the snapshot is to the next one."""


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
        with _sealed(session, draft) as sealed:
            is_put = _put(session, sealed, reliance)
    except _MisfitError:
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


def _draft(session: Session, index: sqlite3.Connection, *, is_complete: bool) -> _Draft:
    snapshot = new_snapshot_id(session.started, state.get_state(index, "last_snapshot"))
    # Taken before it is used, so that a killed run's id is never given twice.
    state.set_state(index, "last_snapshot", snapshot)
    return _Draft(snapshot, session.source(), state.get_base(index), session.store().now(), is_complete)


@contextlib.contextmanager
def _sealed(session: Session, draft: _Draft) -> Iterator[_Sealed]:
    """Seal a snapshot's objects into the spool, for as long as the block lasts."""
    prefix = f"{session.config.index_prefix}{source8(draft.source)}/"
    db_path = session.spool_dir / f"snapshot-{draft.id}.db.age"
    manifest_path = session.spool_dir / f"snapshot-{draft.id}.manifest.age"
    try:
        db, totals = _seal_db(session, draft, db_path)
        db_name = SnapshotName(prefix, draft.id, db.sha256, "db")
        sealed = _seal_manifest(session, _manifest(session, draft, totals, (db_name.key, db.size_bytes)), manifest_path)
        manifest_name = SnapshotName(prefix, draft.id, sealed.sha256, "manifest")
        base = Base(draft.id, sealed.sha256.hex(), db_name.key, db.size_bytes, draft.server_time)
        yield _Sealed((manifest_name, manifest_path), (db_name, db_path), base)
    finally:
        for path in (db_path, manifest_path):
            path.unlink(missing_ok=True)


def _put(session: Session, sealed: _Sealed, reliance: Reliance) -> bool:
    """Put the manifest, then the DB.

    Each put of the DB is sent once, in the time that its listing allows. One that is not answered is judged by
    another listing: it stands there, or the very same bytes are sent again.

    Returns:
        False if a listing in between shows that something is lost, or the manifest is so old that a prune may take
        it for one without a DB: the DB was not put.

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
        if reliance.adopted:
            return True
        if reliance.forgotten or _is_out_of_date(session, first):
            return False
    raise AssertionError("the last put raises or returns")


def _is_out_of_date(session: Session, reliance: Reliance) -> bool:
    return session.store().ask_time() > reliance.expires


def _put_db(session: Session, sealed: _Sealed, reliance: Reliance) -> None:
    name, path = sealed.db
    if _is_out_of_date(session, reliance):
        raise StoreUnavailableError("put of the snapshot: too late after the listing that it relies on")
    session.store().put(name.key, path, sha256=name.sha256, until=reliance.until)


def _seal_db(session: Session, draft: _Draft, target: Path) -> tuple[age_seal.Sealed, Totals]:
    index_path = session.config.index_path
    plain = plain_path(index_path)
    with mapped(index_path), contextlib.ExitStack() as stack:
        stack.callback(plain.unlink, missing_ok=True)
        spool.create(plain).close()
        try:
            totals = write_snapshot_db(index_path, plain, _meta(session, draft))
        except FormatError as exc:
            with transaction(session.index()):
                misfits = contents.drop_misfits(session.index())
            if misfits:
                raise _MisfitError from exc
            raise LocalIndexError(
                f"index {index_path}: holds what no snapshot may: {exc}",
                hint="nothing was committed; move the index aside, and a fresh one is built (a full upload at worst)",
            ) from exc
        file = stack.enter_context(plain.open("rb"))
        size = plain.stat().st_size
        if size > DB_BOUND.largest:
            raise LocalIndexError(f"snapshot DB: {size} bytes, at most {DB_BOUND.largest} are allowed")
        frame = encode_stream(file, size, session.config.compression_level)
        return _seal(session, padded(frame, DB_BOUND.least_stored(size)), target, session.recipients), totals


def _seal_manifest(session: Session, facts: manifest.Manifest, target: Path) -> age_seal.Sealed:
    try:
        text = manifest.encode(facts)
        # Nothing is stored that a reader would refuse.
        manifest.decode(text)
    except FormatError as exc:
        raise ConfigError(f"config {session.config.path}: {exc}") from exc
    frame = encode_stream(io.BytesIO(text), len(text), session.config.compression_level)
    readers = [*session.recipients, *([session.config.audit_recipient] if session.config.audit_recipient else [])]
    return _seal(session, padded(frame, MANIFEST_BOUND.least_stored(len(text))), target, readers)


def _seal(session: Session, pieces: Iterator[bytes], target: Path, recipients: Sequence[str]) -> age_seal.Sealed:
    with spool.spool_errors(session.spool_dir), spool.create(target) as file:
        return age_seal.seal(pieces, file, recipients)


def _manifest(session: Session, draft: _Draft, totals: Totals, db: tuple[str, int]) -> manifest.Manifest:
    rows = session.index().execute("SELECT hash, size FROM blobs WHERE uploaded = 1 ORDER BY hash")
    return manifest.Manifest(
        format=FORMAT,
        source=draft.source,
        host=session.host,
        snapshot=draft.id,
        previous=draft.base.snapshot if draft.base else None,
        previous_manifest=draft.base.manifest_sha256 if draft.base else None,
        complete=draft.is_complete,
        started=session.started,
        server_time=draft.server_time,
        entries=totals.entries,
        bytes=totals.bytes,
        dbs=(db,),
        recipients=tuple(session.recipients),
        blobs=tuple((digest.hex(), size) for digest, size in rows),
    )


def _meta(session: Session, draft: _Draft) -> dict[str, int | float | str | bytes]:
    return {
        "format": FORMAT,
        "kind": "full",
        "snapshot": draft.id,
        "source": draft.source,
        "previous": draft.base.snapshot if draft.base else "",
        "host": session.host,
        "started": session.started,
        "server_time": draft.server_time,
        "complete": int(draft.is_complete),
        "chunker": session.chunker_name,
        "source_dirs": b"\0".join(session.config.source_dirs),
        "tool": f"vaultik {vaultik.__version__}",
    }
