"""SealBlob: make a chunked bundle's file a blob: durable, named by its hash, recorded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaultik.backup import spool
from vaultik.directories import sync_directory
from vaultik.errors import LocalIndexError
from vaultik.index import bundles, chunks
from vaultik.index.db import transaction
from vaultik.model import BlobId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from pathlib import Path

_GIVE_UPS = 16


def seal_bundle(
    index: sqlite3.Connection,
    bundle: int,
    *,
    spool_dir: Path,
    store_time: float,
    is_spooled: Callable[[Path], bool],
) -> None:
    """Check what a bundle's pass left in the spool and record it as a blob.

    A file that is gone is taken back: what it held is read again in this run. So is one that is not what was
    counted, when the put that stores it hashes it.

    Args:
        index: the index.
        bundle: a chunked bundle.
        spool_dir: where its `.part` lies.
        store_time: the store's time, which begins the blob's lease.
        is_spooled: looks whether a file lies in the spool.

    Raises:
        LocalIndexError: the spool failed, or loses what is written to it again and again.
    """
    row = bundles.get_bundle(index, bundle)
    if row.sha256 is None:
        with transaction(index):
            bundles.set_sealed(index, bundle, None)
        return
    blob = BlobId(row.sha256)
    part, final = spool.part_path(spool_dir, bundle), spool.blob_path(spool_dir, blob)
    with spool.spool_errors(spool_dir):
        whole = _finish_file(part if is_spooled(part) else final, final)
    if not whole:
        give_up(index, bundle, None, (part, final))
        return
    with transaction(index):
        number = chunks.add_blob(
            index,
            bundle,
            blob,
            size=row.sealed_size,
            header_length=row.header_length,
            recipients=row.recipients,
            sealed_at=store_time,
        )
        bundles.set_sealed(index, bundle, number)


def give_up(index: sqlite3.Connection, bundle: int, blob: int | None, files: Iterable[Path]) -> None:
    """End a bundle whose sealed bytes are not what they were: its files are read again in this run.

    Raises:
        LocalIndexError: that has happened too often in this run.
    """
    for path in files:
        path.unlink(missing_ok=True)
    with transaction(index):
        if blob is not None:
            chunks.forget_blobs(index, [blob])
        bundles.take_back(index, bundle)
    if bundles.count_taken_back(index, bundle) > _GIVE_UPS:
        raise LocalIndexError(
            "spool: what is written to it doesn't stay what it was",
            hint="look at the disk that holds it, and at whatever else cleans it up; set spool_dir to another place",
        )


def _finish_file(source: Path, final: Path) -> bool:
    """Bring the file under its final name, durably. Returns False if it is gone."""
    try:
        with source.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
        if source != final:
            source.rename(final)
    except FileNotFoundError:
        return False
    sync_directory(final.parent)
    return True
