"""A snapshot's two objects, sealed into the spool: the DB from the index, and the manifest that names it.

The DB is plain for a moment, beside the index, and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup import spool
from vaultik.backup.plain_db import plain_db
from vaultik.core import manifest
from vaultik.core.bounds import DB_BOUND, MANIFEST_BOUND
from vaultik.core.frames import encode_stream
from vaultik.core.ids import source8
from vaultik.core.names import SnapshotName
from vaultik.core.padding import padded
from vaultik.errors import ConfigError, FormatError
from vaultik.index.state import Base
from vaultik.snapshot.write import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaultik.backup.plain_db import Draft
    from vaultik.backup.session import Session
    from vaultik.core.age_seal import Sealed
    from vaultik.snapshot.write import Below, Totals


class SealedSnapshot(NamedTuple):
    """A snapshot's two objects, sealed and waiting in the spool."""

    manifest: tuple[SnapshotName, Path]
    db: tuple[SnapshotName, Path]
    base: Base
    """What the snapshot is to the next one."""


@contextlib.contextmanager
def sealed_snapshot(session: Session, draft: Draft, below: Below | None) -> Iterator[SealedSnapshot]:
    """Seal a snapshot's objects into the spool, for as long as the block lasts.

    Raises:
        MisfitError: nothing was sealed.
        LocalIndexError: the disk under the index or the spool failed.
    """
    prefix = f"{session.config.index_prefix}{source8(draft.source)}/"
    db_path = session.spool_dir / f"snapshot-{draft.id}.db.age"
    manifest_path = session.spool_dir / f"snapshot-{draft.id}.manifest.age"
    try:
        db, totals = _seal_db(session, draft, below, db_path)
        db_name = SnapshotName(prefix, draft.id, db.sha256, "db")
        sealed = _seal_manifest(session, _manifest(session, draft, totals, (db_name.key, db.size_bytes)), manifest_path)
        manifest_name = SnapshotName(prefix, draft.id, sealed.sha256, "manifest")
        base = Base(draft.id, sealed.sha256.hex(), db_name.key, db.size_bytes, draft.server_time)
        yield SealedSnapshot((manifest_name, manifest_path), (db_name, db_path), base)
    finally:
        for path in (db_path, manifest_path):
            path.unlink(missing_ok=True)


def _seal_db(session: Session, draft: Draft, below: Below | None, target: Path) -> tuple[Sealed, Totals]:
    with plain_db(session, draft, below) as plain:
        frame = encode_stream(plain.file, plain.size, session.config.compression_level)
        pieces = padded(frame, DB_BOUND.least_stored(plain.size))
        return spool.seal_file(session.spool_dir, pieces, target, session.recipients), plain.totals


def _seal_manifest(session: Session, facts: manifest.Manifest, target: Path) -> Sealed:
    if session.signing_key is not None:
        signature = session.signing_key.sign(manifest.NAMESPACE, manifest.iter_signed(facts))
        facts = dataclasses.replace(facts, signatures=(signature,))
    try:
        text = manifest.encode(facts)
        # Nothing is stored that a reader would refuse.
        manifest.decode(text)
    except FormatError as exc:
        raise ConfigError(f"config {session.config.path}: {exc}") from exc
    frame = encode_stream(io.BytesIO(text), len(text), session.config.compression_level)
    readers = [*session.recipients, *([session.config.audit_recipient] if session.config.audit_recipient else [])]
    pieces = padded(frame, MANIFEST_BOUND.least_stored(len(text)))
    return spool.seal_file(session.spool_dir, pieces, target, readers)


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
