"""UploadBlob: put a sealed blob under its final name, record it, free its place in the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.backup import spool
from vaultik.backup.seal import give_up
from vaultik.core.names import blob_key
from vaultik.errors import DigestMismatchError, LostBodyError
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
    is gone or damaged before it was stored is taken back: its files are read again in this run.

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
        LocalIndexError: the spool loses what is written to it again and again.
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
        try:
            sent = blob.size if store.put(blob_key(blob.hash), path, sha256=blob.hash) else 0
        except (DigestMismatchError, LostBodyError):
            give_up(index, bundle, blob.id, [path])
            return 0
    with transaction(index):
        bundles.set_uploaded(index, bundle, blob.id)
    path.unlink(missing_ok=True)
    return sent
