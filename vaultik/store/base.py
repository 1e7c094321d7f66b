"""The contract of every store: immutable objects under names, in a bucket and prefix.

A store knows names, sizes and bytes; it does not know what the bytes are. Keys are relative to the
prefix and have no leading slash. Guarantees that every implementation keeps:

- `put` is atomic: a reader sees the whole object or none, whatever is killed, and an object that
  is there is never replaced where the store can refuse it.
- `walk` yields keys in ascending byte order. (Some servers sort folder by folder, so that `a/b` comes
  before `a-c`; the names of FORMAT.md come out the same either way.)
- times are the store's own, never this machine's.
- only StoreError, IntegrityError and their kinds leave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class ObjectInfo(NamedTuple):
    """One stored object, as a listing shows it."""

    key: str
    """Relative to the store's prefix."""
    size_bytes: int
    modified: float
    """LastModified by the store's clock, seconds since 1970."""


class Retention(NamedTuple):
    """Until when nobody can delete an object."""

    mode: Literal["governance", "compliance"]
    until: float
    """By the store's time."""


class Rights(NamedTuple):
    """What a credential may do."""

    list: bool
    get: bool
    delete: bool
    overwrite: bool
    """Put without If-None-Match where an object stands: the bucket's newest version is then whatever was put last."""
    delete_versions: bool
    is_versioned: bool
    """Whether what was overwritten or deleted is still there, as an older version."""


class Listing(NamedTuple):
    """One level of the store's name tree."""

    objects: list[ObjectInfo]
    prefixes: list[str]
    """Common prefixes with their trailing slash, relative to the store's prefix."""


class ByteStream(Protocol):
    """What `Store.open` gives: bytes in order, no seeking."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that is left when negative), b"" at the end.

        Raises:
            StoreUnavailableError: the store broke off and could not be resumed.
        """
        ...


class Store(Protocol):
    """A bucket and prefix, or a directory."""

    @property
    def location(self) -> str:
        """Endpoint, bucket and prefix in one line without any secret; equal for equal stores."""
        ...

    @property
    def can_lock(self) -> bool:
        """Whether stores of this kind know Object Lock; a bucket may still have none."""
        ...

    def now(self) -> float:
        """Return the store's own time, seconds since 1970.

        From the last answer plus CLOCK_BOOTTIME since; asks the store when there was none yet.

        Raises:
            StoreUnavailableError: it was asked and didn't answer.
        """
        ...

    def ask_time(self) -> float:
        """Ask the store for its time and return it: a machine that was saved and taken up again has a stale one.

        Raises:
            StoreUnavailableError: it didn't answer.
        """
        ...

    def put(self, key: str, body: Path | bytes, *, sha256: bytes, until: float | None = None) -> bool:
        """Store `body` under `key` unless an object stands there; durable on return.

        Args:
            key: the object's name.
            body: the bytes, or the path of a file that holds them. The file may become the object itself: nobody
                may write to it from then on.
            sha256: digest of the whole body, 32 bytes; sent as a checksum where the store
                takes one.
            until: send it a single time, without retries of any kind, so that it stands there by then or
                not at all; a time as `linux.boottime` counts.

        Returns:
            True if this call stored it, False if an object stood there already (HTTP 412, EEXIST).

        Raises:
            StoreAccessError: refused.
            StoreUnavailableError: no answer after retries, or too late; the object may or may not stand there.
        """
        ...

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> AbstractContextManager[ByteStream]:
        """Open an object, or `length` bytes of it from `offset`, for reading.

        A range that runs past the end is cut at the end.

        Raises:
            ObjectNotFoundError: no such object (raised on entering the context).
            StoreAccessError: refused.
            StoreUnavailableError: no answer after retries.
        """
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size and time, or None if there is none.

        Raises:
            StoreAccessError, StoreUnavailableError: as above.
        """
        ...

    def look_behind(self, key: str, sha256: bytes) -> ObjectInfo | None:
        """Find the version of an object whose bytes have a digest, where what stands there hasn't; give that one from now on.

        Returns:
            Its size and time; None if no version has it, or the store keeps none.

        Raises:
            StoreUnavailableError: as above.
        """
        ...

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, ascending, in bounded memory."""
        ...

    def children(self, prefix: str = "") -> Listing:
        """Return one level below `prefix` (empty or ending in a slash): objects and prefixes."""
        ...

    def retention(self, key: str) -> Retention | None:
        """Return the lock on an object; None if it has none (any more), or there is no such object.

        Raises:
            StoreAccessError, StoreUnavailableError: as above.
        """
        ...

    def retain(self, key: str, mode: str, until: float) -> bool:
        """Lock every version of an object until a time, in its own mode where it has one; no lock gets shorter.

        Returns:
            Whether that changed anything.

        Raises:
            StoreError: the store can't, or refused.
        """
        ...

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """Delete objects; one that isn't there counts as deleted.

        Returns:
            For each key that could not be deleted, the store's reason. Empty is success.
        """
        ...

    def rights(self, key: str, body: bytes) -> Rights | None:
        """Find out what the credential may do, by an object that is there; None where there is no credential.

        Raises:
            StoreError: an answer that says neither yes nor no.
        """
        ...

    def close(self) -> None:
        """Release connections. The store can't be used after."""
        ...
