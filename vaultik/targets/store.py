"""Objects in a store as Luigi targets. What a store holds is an effect; the index's rows say what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import luigi

if TYPE_CHECKING:
    from vaultik.store.base import Store


class StoreTarget(luigi.Target):
    """An object under a key."""

    def __init__(self, store: Store, key: str, size_bytes: int) -> None:
        """Name an object.

        Args:
            store: where.
            key: its name, relative to the store's prefix.
            size_bytes: its size; another one under the key is not it.
        """
        self.store = store
        self.key = key
        self.size_bytes = size_bytes

    def exists(self) -> bool:
        """Tell whether the object is stored, whole.

        Raises:
            StoreError: the store doesn't say.
        """
        found = self.store.head(self.key)
        return found is not None and found.size_bytes == self.size_bytes


class S3Target(StoreTarget):
    """An object in an S3 bucket."""


class LocalStoreTarget(StoreTarget):
    """An object in a directory store."""


def store_target(store: Store, key: str, size_bytes: int) -> StoreTarget:
    """Return the target that fits the store."""
    return (LocalStoreTarget if store.location.startswith("file://") else S3Target)(store, key, size_bytes)
