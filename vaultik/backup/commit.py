"""WriteSnapshotDB: the commit. Reconcile, forget, manifest, DB, in this order and no other.

Theory: a snapshot exists exactly when its DB object exists, and nothing that it refers to may be
missing then. So the listing is looked at last before the put, what the snapshot doesn't need is
forgotten before it (a later run must not rely on what prune may delete), the manifest stands before
the DB, and the DB is sent a single time. A run that finds something lost commits nothing and says
so; its files are read again first.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import vaultik
from vaultik.backup import spool
from vaultik.backup.reconcile import reconcile
from vaultik.core import age, manifest
from vaultik.core.frames import FrameEncoder, encode_stream
from vaultik.core.ids import new_snapshot_id, source8
from vaultik.core.names import SnapshotName
from vaultik.core.padding import padding_frame
from vaultik.core.streams import PieceReader
from vaultik.errors import FormatError, LocalIndexError, StoreUnavailableError
from vaultik.index import chunks, state
from vaultik.index.db import mapped, transaction
from vaultik.index.state import Base
from vaultik.snapshot.write import FORMAT, plain_path, write_snapshot_db

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.backup.session import Session
    from vaultik.model import SnapshotId
    from vaultik.store.base import Store

_BLOCK = 1 << 20
_ATTEMPTS = 10


class _Draft(NamedTuple):
    """A snapshot about to be written."""

    id: SnapshotId
    source: str
    base: Base | None
    server_time: float
    entries: int
    bytes: int


def commit_snapshot(session: Session, attempt: int) -> bool:
    """Write the snapshot of a run whose content is all uploaded.

    Returns:
        False if something the snapshot needs is not stored (any more): the files are on the list
        of those to read and nothing was written.

    Raises:
        StoreUnavailableError: the same for the tenth time.
        StoreError: the store failed; whether the snapshot exists is known after the next listing.
        LocalIndexError: the disk under the index or the spool failed.
    """
    index, store = session.index(), session.store()
    reconcile(index, store, session.recipients, put_only=session.put_only)
    with transaction(index):
        complete = chunks.mark_lost(index) == 0 and _has_no_plan(index)
        if not complete:
            _record_attempt(index, session.run, attempt, committed=False)
            if attempt < _ATTEMPTS:
                return False
            raise StoreUnavailableError(
                f"{store.location}: what was uploaded is gone again, {attempt} times in this run",
                hint="is something deleting from the store while the backup runs?",
            )
        chunks.forget_unreferenced(index)
        if chunks.unstored_chunks(index):
            raise LocalIndexError(
                f"index {session.config.index_path}: refers to chunks that are in no blob",
                hint="nothing was committed; move the index aside, and a fresh one is built (a full upload at worst)",
            )
        draft = _draft(session, index, store)
    base = _write(session, draft)
    with transaction(index):
        state.set_base(index, base)
        index.execute("UPDATE runs SET snapshot = ? WHERE id = ?", (draft.id, session.run))
        _record_attempt(index, session.run, attempt, committed=True)
    return True


def _has_no_plan(index: sqlite3.Connection) -> bool:
    return index.execute("SELECT 1 FROM changed LIMIT 1").fetchone() is None


def _record_attempt(index: sqlite3.Connection, run: int, attempt: int, *, committed: bool) -> None:
    index.execute("INSERT OR REPLACE INTO commits VALUES (?, ?, ?)", (run, attempt, committed))


def _draft(session: Session, index: sqlite3.Connection, store: Store) -> _Draft:
    snapshot = new_snapshot_id(session.started, state.get_state(index, "last_snapshot"))
    # Taken before it is used, so that a killed run's id is never given twice.
    state.set_state(index, "last_snapshot", snapshot)
    entries, size = index.execute(
        "SELECT count(*), total(CASE WHEN type = 'f' AND coalesce(hardlink, id) = id THEN size ELSE 0 END) FROM entries"
    ).fetchone()
    source = state.source_uuid(index, session.config.index_path)
    return _Draft(snapshot, source, state.get_base(index), store.now(), entries, int(size))


def _write(session: Session, draft: _Draft) -> Base:
    prefix = f"{session.config.index_prefix}{source8(draft.source)}/"
    db_path = session.spool_dir / f"snapshot-{draft.id}.db.age"
    manifest_path = session.spool_dir / f"snapshot-{draft.id}.manifest.age"
    try:
        db = _seal_db(session, draft, db_path)
        db_name = SnapshotName(prefix, draft.id, db.sha256, "db")
        text = manifest.encode(_manifest(session, draft, db_name.key, db.size_bytes))
        frame = FrameEncoder(session.config.compression_level).encode(text)
        readers = [*session.recipients, *([session.config.audit_recipient] if session.config.audit_recipient else [])]
        sealed = _seal(session, iter([frame, padding_frame(len(frame))]), manifest_path, readers)
        manifest_name = SnapshotName(prefix, draft.id, sealed.sha256, "manifest")
        session.store().put(manifest_name.key, manifest_path, sha256=sealed.sha256)
        _put_db(session, db_name.key, db_path, db)
    finally:
        for path in (db_path, manifest_path):
            path.unlink(missing_ok=True)
    return Base(draft.id, sealed.sha256.hex())


def _put_db(session: Session, key: str, path: Path, sealed: age.Sealed) -> None:
    """Send the DB once. No answer is judged by a look: it stands there, or the run failed."""
    try:
        session.store().put(key, path, sha256=sealed.sha256, once=True)
    except StoreUnavailableError:
        if not session.is_stored(key, sealed.size_bytes):
            raise


def _seal_db(session: Session, draft: _Draft, target: Path) -> age.Sealed:
    index_path = session.config.index_path
    plain = plain_path(index_path)
    with mapped(index_path), contextlib.ExitStack() as stack:
        plain.unlink(missing_ok=True)
        stack.callback(plain.unlink, missing_ok=True)
        spool.create(plain).close()
        try:
            write_snapshot_db(index_path, plain, _meta(session, draft))
        except FormatError as exc:
            raise LocalIndexError(
                f"index {index_path}: holds what no snapshot may: {exc}",
                hint="nothing was committed; move the index aside, and a fresh one is built (a full upload at worst)",
            ) from exc
        file = stack.enter_context(plain.open("rb"))
        size = plain.stat().st_size
        return _seal(
            session, _padded(encode_stream(file, size, session.config.compression_level)), target, session.recipients
        )


def _seal(session: Session, pieces: Iterator[bytes], target: Path, recipients: Sequence[str]) -> age.Sealed:
    with spool.spool_errors(session.spool_dir), spool.create(target) as file:
        return age.seal(PieceReader(pieces), file, recipients)


def _padded(frame: age.Readable) -> Iterator[bytes]:
    length = 0
    while block := frame.read(_BLOCK):
        length += len(block)
        yield block
    yield padding_frame(length)


def _manifest(session: Session, draft: _Draft, db_name: str, db_size: int) -> manifest.Manifest:
    rows = session.index().execute("SELECT hash, size FROM blobs ORDER BY hash")
    return manifest.Manifest(
        format=FORMAT,
        source=draft.source,
        host=session.host,
        snapshot=draft.id,
        previous=draft.base.snapshot if draft.base else None,
        previous_manifest=draft.base.manifest_sha256 if draft.base else None,
        complete=True,
        started=session.started,
        server_time=draft.server_time,
        entries=draft.entries,
        bytes=draft.bytes,
        dbs=((db_name, db_size),),
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
        "complete": 1,
        "chunker": session.chunker_name,
        "source_dirs": b"\0".join(session.config.source_dirs),
        "tool": f"vaultik {vaultik.__version__}",
        "entries": draft.entries,
        "bytes": draft.bytes,
    }
