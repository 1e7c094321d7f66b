"""A snapshot's two objects, sealed into the spool: the DB from the index, and the manifest that names it.

The DB is plain for a moment, beside the index, and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, NamedTuple

import vaultik
from vaultik.backup import spool
from vaultik.core import age_seal, manifest
from vaultik.core.bounds import DB_BOUND, MANIFEST_BOUND
from vaultik.core.frames import encode_stream
from vaultik.core.ids import source8
from vaultik.core.names import SnapshotName
from vaultik.core.padding import padded
from vaultik.errors import ConfigError, FormatError, LocalIndexError
from vaultik.index import contents
from vaultik.index.db import mapped, transaction
from vaultik.index.state import Base
from vaultik.snapshot.write import FORMAT, Totals, plain_path, write_snapshot_db

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.backup.session import Session
    from vaultik.model import SnapshotId


class MisfitError(Exception):
    """The index held content that no file can have; those files are on the list of those to read now."""


class Draft(NamedTuple):
    """A snapshot about to be written."""

    id: SnapshotId
    source: str
    base: Base | None
    server_time: float
    is_complete: bool


class SealedSnapshot(NamedTuple):
    """A snapshot's two objects, sealed and waiting in the spool."""

    manifest: tuple[SnapshotName, Path]
    db: tuple[SnapshotName, Path]
    base: Base
    """What the snapshot is to the next one."""


@contextlib.contextmanager
def sealed_snapshot(session: Session, draft: Draft) -> Iterator[SealedSnapshot]:
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
        yield SealedSnapshot((manifest_name, manifest_path), (db_name, db_path), base)
    finally:
        for path in (db_path, manifest_path):
            path.unlink(missing_ok=True)


def _seal_db(session: Session, draft: Draft, target: Path) -> tuple[age_seal.Sealed, Totals]:
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
                raise MisfitError from exc
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


def _manifest(session: Session, draft: Draft, totals: Totals, db: tuple[str, int]) -> manifest.Manifest:
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


def _meta(session: Session, draft: Draft) -> dict[str, int | float | str | bytes]:
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
