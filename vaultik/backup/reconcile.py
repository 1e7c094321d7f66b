"""Reconcile: hold what the index believes against the store's listing, and forget what can't be relied on.

A run may rely on a stored blob only if the listing shows it with its size and it is sealed to every
recipient now configured. Forgotten chunks are sealed afresh from the source; so a rolled-back
machine, a cleaned bucket or another bucket heal themselves. With a credential that can only put
there is no listing, and the recipients alone are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.names import BLOBS_PREFIX, parse_blob_key
from vaultik.index import chunks
from vaultik.index.db import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from vaultik.index.chunks import BlobRow
    from vaultik.model import BlobId
    from vaultik.store.base import Store


class Forgotten(NamedTuple):
    """How many blobs a run may not rely on."""

    lost: int
    """Not in the store, or not of their size."""
    outdated: int
    """Not sealed to every recipient."""


def reconcile(index: sqlite3.Connection, store: Store, recipients: Sequence[str], *, put_only: bool) -> Forgotten:
    """Forget every blob that the run may not rely on.

    One request per 1,000 stored blobs; bounded memory.

    Raises:
        StoreError: the store couldn't be listed.
    """
    wanted = set(recipients)
    listed = None if put_only else _stored(store)
    doubtful = list(_doubtful(chunks.iter_uploaded(index), listed, wanted))
    with transaction(index):
        chunks.forget_blobs(index, [blob for blob, _ in doubtful])
    lost = sum(is_lost for _, is_lost in doubtful)
    return Forgotten(lost, len(doubtful) - lost)


def _stored(store: Store) -> Iterator[tuple[BlobId, int]]:
    for info in store.walk(BLOBS_PREFIX):
        blob = parse_blob_key(info.key)
        if blob is not None:
            yield blob, info.size_bytes


def _doubtful(
    known: Iterator[BlobRow], listed: Iterator[tuple[BlobId, int]] | None, wanted: set[str]
) -> Iterator[tuple[int, bool]]:
    """Yield the rows of the known blobs that can't be relied on, and whether they are lost. Both streams ascend by hash."""
    at = next(listed, None) if listed is not None else None
    for blob in known:
        while listed is not None and at is not None and at[0] < blob.hash:
            at = next(listed, None)
        stored = listed is None or at == (blob.hash, blob.size)
        if not stored or not wanted <= set(blob.recipients.split()):
            yield blob.id, not stored
