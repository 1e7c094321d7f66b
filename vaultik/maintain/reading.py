"""Read objects side by side, and say of each whether its bytes are what its name says.

Memory doesn't depend on how large the objects are or how many.
"""

from __future__ import annotations

import queue
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.streams import HashingReader
from vaultik.errors import IntegrityError, ObjectNotFoundError, StoreAccessError
from vaultik.maintain.findings import Kind
from vaultik.shown import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.core.age import Readable
    from vaultik.store.base import Store


class Item(NamedTuple):
    """An object to read."""

    key: str
    sha256: bytes
    """Of its bytes, as its name says."""
    size: int
    """As listed."""


class Reading(NamedTuple):
    """What came of reading an object."""

    item: Item
    problem: tuple[Kind, str] | None
    bad_chunks: list[bytes] | None
    """Hashes of the chunks that are not in it where a snapshot says; None if nobody looked, and any may be."""


class Witness:
    """A store that remembers the SHA-256 of what was read of an object from its first byte to its last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.digest: bytes | None = None

    @contextmanager
    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[Readable]:
        """Open an object as `Store.open` does; of a whole one what the block leaves is read as well."""
        with self._store.open(key, offset=offset, length=length) as stream:
            if offset or length is not None:
                yield stream
                return
            hashing = HashingReader(stream)
            yield hashing
            self.digest = hashing.finish()

    def look_behind(self, key: str, sha256: bytes) -> None:  # noqa: ARG002 - `Opener`'s
        """Return None: it is what stands there that is to be witnessed."""
        return


def read_all(
    items: Iterable[Item], stores: Sequence[Store], read: Callable[[Store, Item], Reading]
) -> Iterator[Reading]:
    """Read each item once, as many at a time as there are stores, and yield what came of it, in any order.

    Raises:
        StoreError: as `read`; what is under way then is given up.
    """
    free: queue.SimpleQueue[Store] = queue.SimpleQueue()
    for store in stores:
        free.put(store)

    def with_store(item: Item) -> Reading:
        store = free.get()
        try:
            return read(store, item)
        finally:
            free.put(store)

    pool = ThreadPoolExecutor(len(stores))
    under_way: set[Future[Reading]] = set()
    try:
        for item in items:
            under_way.add(pool.submit(with_store, item))
            if len(under_way) >= 2 * len(stores):
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from _results(done)
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from _results(done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _results(done: set[Future[Reading]]) -> Iterator[Reading]:
    """Yield what came of those that are done; what one of them raised comes after the others' results."""
    for future in sorted(done, key=lambda future: future.exception() is not None):
        yield future.result()


def read_item(
    store: Store, item: Item, others_work: Callable[[Store], bool], look: Callable[[Witness], list[bytes]] | None = None
) -> Reading:
    """Read an object and hash it.

    Args:
        store: where it lies.
        item: which.
        others_work: tells, after the store refused this object, whether it still gives others.
        look: reads the object in one go, looks into it, and returns the hashes of the chunks that are not right.

    Raises:
        StoreError: it is not this object alone that can't be read.
    """
    witness = Witness(store)
    bad = look(witness) if look is not None else None
    try:
        if witness.digest is None:
            with witness.open(item.key):
                pass
        problem = _problem(store, item, witness.digest, bad)
    except ObjectNotFoundError:
        problem, bad = (Kind.MISSING, "it was listed, and is gone"), None
    except StoreAccessError as exc:
        if not others_work(store):
            raise
        problem, bad = (Kind.UNREADABLE, str(exc)), None
    except IntegrityError as exc:
        problem = Kind.DAMAGED, str(exc)
    return Reading(item, problem, [] if problem and problem[0] == Kind.REPLACED else bad)


def _problem(store: Store, item: Item, digest: bytes | None, bad: list[bytes] | None) -> tuple[Kind, str] | None:
    """Return what is wrong with an object that could be read."""
    if digest == item.sha256:
        return (Kind.CONTENT, f"{plural(len(bad), 'chunk')} in it not what the snapshots say") if bad else None
    if store.look_behind(item.key, item.sha256) is not None:
        return (
            Kind.REPLACED,
            "what stands there is not what its name says; an older version is, and is read in its place",
        )
    return Kind.DAMAGED, "its bytes are not what its name says"
