"""A store whose metadata is read through a cache: manifests, snapshot DBs and the layers that these build on.

Who reads such an object says so (`open_metadata`), with the digest that its name carries; everything else goes to the store. So a
listing is always the store's, a snapshot that was deleted is gone, and only what never changes comes from the cache.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.store.base import ByteStream, Store
    from vaultik.store.object_cache import ObjectCache


class _CachedStore:
    """A store, and a cache of some of its objects."""

    def __init__(self, store: Store, cache: ObjectCache) -> None:
        self.store = store
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def with_cache(store: Store, cache: ObjectCache | None) -> Store:
    """Return a store that does what another does, and reads metadata through a cache."""
    # It has all that the other has.
    return store if cache is None else cast("Store", _CachedStore(store, cache))


@contextmanager
def open_metadata(store: Store, key: str, sha256: bytes) -> Iterator[ByteStream]:
    """Open an object that is named by the digest of its bytes, from the cache if the store has one.

    What comes from the cache has that digest. What comes from the store is for the caller to check, who has to read all of
    it for the cache to keep it.

    Raises:
        StoreError, IntegrityError: as `Store.open`.
    """
    if not isinstance(store, _CachedStore):
        with store.open(key) as stream:
            yield stream
    elif (file := store.cache.find(sha256)) is not None:
        with file:
            yield file
    else:
        with store.store.open(key) as stream, store.cache.keeping(stream, sha256) as kept:
            yield kept


def size_of_metadata(store: Store, key: str, sha256: bytes) -> int | None:
    """Return the size of such an object, None if there is none.

    Raises:
        StoreError: as `Store.head`.
    """
    if isinstance(store, _CachedStore) and (file := store.cache.find(sha256)) is not None:
        with file:
            return file.seek(0, 2)
    info = store.head(key)
    return None if info is None else info.size_bytes
