"""Objects in a store as Luigi targets. What a store holds is an effect; the index's rows say what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import luigi

if TYPE_CHECKING:
    from vaultik.store.base import Store


class StoreTarget(luigi.Target):
    """An object under a key."""

    def __init__(self, store: Store, key: str) -> None:
        """Name an object.

        Args:
            store: where.
            key: its name, relative to the store's prefix.
        """
        self.store = store
        self.key = key

    def exists(self) -> bool:
        """Tell whether the object is stored.

        Raises:
            StoreError: the store doesn't say.
        """
        return self.store.head(self.key) is not None


class S3Target(StoreTarget):
    """An object in an S3 bucket."""


class LocalStoreTarget(StoreTarget):
    """An object in a directory store."""


def store_target(store: Store, key: str) -> StoreTarget:
    """Return the target that fits the store."""
    return (LocalStoreTarget if store.location.startswith("file://") else S3Target)(store, key)
