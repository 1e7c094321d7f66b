"""Every snapshot DB and manifest of a store, as a listing shows them. No key is needed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.core.names import BLOBS_PREFIX, SnapshotName, parse_snapshot_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.store.base import ObjectInfo, Store


def iter_outside_blobs(store: Store) -> Iterator[ObjectInfo]:
    """Yield every object that lies outside blobs/: `index_prefix` is the writer's choice, so all of it is looked at."""
    top = store.children()
    yield from top.objects
    for prefix in top.prefixes:
        if prefix != BLOBS_PREFIX:
            yield from store.walk(prefix)


def iter_snapshot_objects(store: Store) -> Iterator[tuple[SnapshotName, ObjectInfo]]:
    """Yield every snapshot DB and manifest, in no particular order.

    Raises:
        StoreError: the store couldn't be listed.
    """
    for info in iter_outside_blobs(store):
        name = parse_snapshot_key(info.key)
        if name is not None:
            yield name, info
