"""UploadBlob: put a sealed blob under its final name, record it, free its place in the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.backup import spool
from vaultik.core.names import blob_key
from vaultik.index import bundles, chunks
from vaultik.index.db import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from vaultik.store.base import Store


def upload_bundle(
    index: sqlite3.Connection, bundle: int, *, store: Store, spool_dir: Path, is_stored: Callable[[str, int], bool]
) -> int:
    """Upload a sealed bundle's blob, unless it is there.

    The order is: object, row, spool file; so a kill costs at most a look. A blob whose spool file
    is gone before it was stored is taken back: its files are read again in this run.

    Args:
        index: the index.
        bundle: a sealed bundle.
        store: where to.
        spool_dir: where the blob waits.
        is_stored: looks whether an object of that key and size stands in the store (always False
            where the credential can only put).

    Returns:
        How many bytes were sent.

    Raises:
        StoreError: it could not be stored.
    """
    row = bundles.get_bundle(index, bundle)
    if row.blob is None:
        with transaction(index):
            bundles.set_uploaded(index, bundle, None)
        return 0
    blob = chunks.get_blob(index, row.blob)
    path = spool.blob_path(spool_dir, blob.hash)
    sent = 0
    if not is_stored(blob_key(blob.hash), blob.size):
        if not path.exists():
            with transaction(index):
                chunks.forget_blobs(index, [blob.id])
                bundles.take_back(index, bundle)
            return 0
        sent = blob.size if store.put(blob_key(blob.hash), path, sha256=blob.hash) else 0
    with transaction(index):
        bundles.set_uploaded(index, bundle, blob.id)
    path.unlink(missing_ok=True)
    return sent
