"""Layers: bring the rows of the snapshot DB into blobs, so that each snapshot needn't repeat them (`index.layers`).

A layer is stored before the manifest that names its blob, and belongs to the index from then on, whatever comes of
the snapshot; one whose recording was lost is an unneeded blob, which a prune frees in time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vaultik.backup import spool
from vaultik.backup.plain_db import plain_db
from vaultik.core import chunk_table
from vaultik.core.bounds import DB_BOUND
from vaultik.core.frames import FrameEncoder
from vaultik.core.names import blob_key
from vaultik.core.padding import iter_padding
from vaultik.index import layers
from vaultik.index.db import transaction
from vaultik.model import BlobId, ChunkId
from vaultik.snapshot.write import Below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.backup.plain_db import Draft, PlainDb
    from vaultik.backup.session import Session
    from vaultik.core.age_seal import Sealed

_CHUNK = 8 << 20


def lay(session: Session, draft: Draft) -> Below | None:
    """Store what changed as a layer, if it is due, and return the layers that the snapshot's DB builds on.

    Args:
        session: of the run, all of whose content is uploaded.
        draft: a complete snapshot.

    Returns:
        None for a tree so small that its DB is a whole one.

    Raises:
        LocalIndexError: as `plain_db`.
        StoreError: the store doesn't take it.
    """
    index = session.index()
    planned = layers.plan(index, draft.server_time)
    stored = _put_layer(session, draft, _below(planned.kept)) if planned.is_layer else None
    with transaction(index):
        layers.keep(index, planned.kept)
        if stored is not None:
            recipients = " ".join(session.recipients)
            layers.add(index, stored, rows=planned.rows, recipients=recipients, sealed_at=draft.server_time)
    return _below(layers.find_all(index))


def _below(kept: list[layers.Layer]) -> Below | None:
    return Below(tuple(layer.hash for layer in kept), kept[-1].number) if kept else None


def _put_layer(session: Session, draft: Draft, below: Below | None) -> Sealed:
    path = session.spool_dir / f"snapshot-{draft.id}.layer.age"
    try:
        with plain_db(session, draft, below, is_layer=True) as plain:
            pieces = _blob_of(plain, session.config.compression_level)
            sealed = spool.seal_file(session.spool_dir, pieces, path, session.recipients)
        session.store().put(blob_key(BlobId(sealed.sha256)), path, sha256=sealed.sha256)
    finally:
        path.unlink(missing_ok=True)
    return sealed


def _blob_of(plain: PlainDb, level: int) -> Iterator[bytes]:
    """Yield the plaintext of a blob (FORMAT.md, section 4) that holds a DB, in chunks of its own."""
    encoder = FrameEncoder(level)
    chunks, length = [], 0
    while chunk := plain.file.read(_CHUNK):
        chunks.append((ChunkId(hashlib.sha256(chunk).digest()), len(chunk)))
        frame = encoder.encode(chunk)
        length += len(frame)
        yield frame
    table = chunk_table.encode(chunks)
    yield from iter_padding(length + len(table), DB_BOUND.least_stored(plain.size))
    yield table
