"""Fetch chunks out of one blob: whole where most of it is wanted, else the ranges that cover them.

Rule: at least half of the plaintext wanted, and the blob is streamed once; else (and where an earlier try
had the rest) frames that stand closer
than 256 KiB are joined into ranges of at most 8 MiB. Every frame is decoded and every chunk hashed on
threads; what comes out is genuine, or what is wrong stands beside the chunk's name. Damage costs the
frames that it touches and no others, wherever it lies.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vaultik.core.age_stream import RangeOpener, SegmentStream, plaintext_size
from vaultik.core.frames import FrameDecoder
from vaultik.core.names import blob_key
from vaultik.errors import (
    AuthenticationError,
    FormatError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    VaultikError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from vaultik.core.age import Readable
    from vaultik.core.identity import Identity
    from vaultik.model import BlobId, ChunkId

FRAME_BYTES = 1 << 20
_JOIN = 256 << 10
_WINDOW = 8 << 20
_JOINED_AT_MOST = 256
_CHUNKS_AT_MOST = 4096
"""Chunks of a frame that are looked at together; a frame of more is decoded again for the others."""
_FRAME_BYTES_MORE = 4096
_THREADS = 2
_AHEAD = 4
_AHEAD_BYTES = 32 << 20
"""Bytes of frames under way at once, stored or plain, but for one that is larger."""


class Opener(Protocol):
    """As much of a store as this takes."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> AbstractContextManager[Readable]:
        """Open an object, or a range of it, as `Store.open` does."""
        ...

    def look_behind(self, key: str, sha256: bytes) -> object | None:
        """Give an older version from now on, as `Store.look_behind` does."""
        ...


class WantedBlob(NamedTuple):
    """A blob's row."""

    hash: BlobId
    size: int
    header_length: int


class WantedChunk(NamedTuple):
    """A chunk's row."""

    id: int
    hash: ChunkId
    size: int
    frame_offset: int
    frame_length: int
    offset: int


class Damage(NamedTuple):
    """Why a chunk's bytes can't be had."""

    reason: str
    refused: bool = False
    """The store has the object and doesn't give it away."""


class Fetched(NamedTuple):
    """A chunk's bytes, or why there are none."""

    chunk: WantedChunk
    data: bytes | memoryview
    damage: Damage | None


class _Frame(NamedTuple):
    offset: int
    length: int
    chunks: list[WantedChunk]

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def plain(self) -> int:
        """The most that the frame may hold."""
        return max(FRAME_BYTES, *(chunk.offset + chunk.size for chunk in self.chunks))


class BlobFetcher:
    """Fetches from one blob."""

    def __init__(
        self,
        store: Opener,
        identities: Sequence[Identity],
        blob: WantedBlob,
        others_work: Callable[[], bool] = lambda: False,
    ) -> None:
        """Name the blob.

        Args:
            store: where it lies.
            identities: those that opened the snapshot; a blob that they don't open is a damaged one.
            blob: its row.
            others_work: tells, after the store refused this blob, whether it still gives others.
        """
        self._store = store
        self._identities = identities
        self._blob = blob
        self._key = blob_key(blob.hash)
        self._name = f"blob {blob.hash.hex()[:12]}…"
        self._others_work = others_work
        self._opened: RangeOpener | None = None
        """Kept from one `fetch` to the next, which may be several threads': the header is read once."""
        self._older: bool | None = None
        """Whether an older version is right, once that was asked."""
        self._alone: bool | None = None
        """Whether it is this blob alone that the store refuses, once that is known."""

    def fetch(self, chunks: Iterable[WantedChunk], wanted_bytes: int, *, sparing: bool = False) -> Iterator[Fetched]:
        """Yield every wanted chunk once, in the order of its frames.

        Args:
            chunks: the wanted ones, ordered by frame offset, then by offset. Taken as they are needed.
            wanted_bytes: the length of their frames in sum.
            sparing: take ranges even where most is wanted: the rest has been fetched before.

        Raises:
            StoreError: the store failed (a missing, refused or unreadable blob is damage of its chunks, not an error).
        """
        for found in self._decoded(self._stored(_frames(chunks), 0 if sparing else wanted_bytes)):
            is_damaged = any(fetched.damage is not None for fetched in found)
            yield from self._again(found) if is_damaged and self._has_older() else found

    def _has_older(self) -> bool:
        """Tell whether behind what stands there is a version of the blob that is right; it is read from now on."""
        if self._older is None:
            self._older = self._store.look_behind(self._key, self._blob.hash) is not None
            self._opened = None
        return self._older

    def _again(self, found: list[Fetched]) -> Iterator[Fetched]:
        """Fetch the chunks of one frame once more, by its range."""
        for again in self._decoded(self._stored(_frames(fetched.chunk for fetched in found), 0)):
            yield from again

    def _decoded(self, frames: Iterator[tuple[_Frame, bytes | Damage]]) -> Iterator[list[Fetched]]:
        """Decode frames on threads, a few ahead, and yield what is in each."""
        with ThreadPoolExecutor(_THREADS) as threads:
            under_way: deque[tuple[_Frame, Future[list[Fetched]]]] = deque()
            for frame, stored in frames:
                under_way.append((frame, threads.submit(self._decode, frame, stored)))
                del stored
                while len(under_way) >= _AHEAD or sum(max(f.plain, f.length) for f, _ in under_way) > _AHEAD_BYTES:
                    yield under_way.popleft()[1].result()
            while under_way:
                yield under_way.popleft()[1].result()

    def _stored(self, frames: Iterator[_Frame], wanted_bytes: int) -> Iterator[tuple[_Frame, bytes | Damage]]:
        """Yield each frame as it is stored, or why that can't be had."""
        try:
            total = plaintext_size(self._blob.size, self._blob.header_length)
        except FormatError as exc:
            damage = self._damage(exc)
            yield from ((frame, damage) for frame in frames)
            return
        yield from (self._from_stream if wanted_bytes * 2 >= total else self._from_ranges)(frames, total)

    def _from_stream(self, frames: Iterator[_Frame], total: int) -> Iterator[tuple[_Frame, bytes | Damage]]:
        try:
            with self._store.open(self._key) as stream:
                yield from self._taken(SegmentStream(stream, self._identities, total), frames, total)
        except _FAILURES as exc:
            damage = self._damage(exc)
            yield from ((frame, damage) for frame in frames)

    def _taken(
        self, plain: SegmentStream, frames: Iterator[_Frame], total: int
    ) -> Iterator[tuple[_Frame, bytes | Damage]]:
        for frame in frames:
            try:
                data = self._fault(frame, total) or plain.take(frame.offset, frame.length)
            except AuthenticationError as exc:
                data = self._damage(exc)
            except _FAILURES:
                # The stream itself broke, at a bad sector maybe; what lies behind it can be had by itself.
                yield from self._from_ranges(chain([frame], frames), total)
                return
            yield frame, data

    def _from_ranges(self, frames: Iterator[_Frame], total: int) -> Iterator[tuple[_Frame, bytes | Damage]]:
        opener: RangeOpener | None = None
        for group in _joined(frames):
            try:
                opener = self._opened = opener or self._opened or self._opener()
                found = self._range(opener, group, total)
            except _FAILURES as exc:
                # Not as one: each by itself, so that one that can't be read costs no other.
                found = [self._single(opener, frame, total, exc) for frame in group]
            yield from zip(group, found, strict=True)

    def _single(self, opener: RangeOpener | None, frame: _Frame, total: int, failure: VaultikError) -> bytes | Damage:
        try:
            if opener is None:
                raise failure
            return self._range(opener, [frame], total)[0]
        except _FAILURES as exc:
            return self._damage(exc)

    def _opener(self) -> RangeOpener:
        length = self._blob.header_length + 16
        with self._store.open(self._key, offset=0, length=length) as stream:
            return RangeOpener(_read(stream, length), self._identities)

    def _range(self, opener: RangeOpener, group: list[_Frame], total: int) -> list[bytes | Damage]:
        """Read frames that stand close to each other at once."""
        faults = [self._fault(frame, total) for frame in group]
        sound = [frame for frame, fault in zip(group, faults, strict=True) if fault is None]
        if not sound:
            return [fault for fault in faults if fault is not None]
        begin, end = sound[0].offset, max(frame.end for frame in sound)
        offset, stored = opener.ciphertext_range(begin, end - begin, total)
        with self._store.open(self._key, offset=offset, length=stored) as stream:
            segments = opener.segments(_read(stream, stored), begin, total)
        found: list[bytes | Damage] = []
        for frame, fault in zip(group, faults, strict=True):
            try:
                found.append(fault or segments.cut(frame.offset, frame.length))
            except AuthenticationError as exc:
                found.append(self._damage(exc))
        return found

    def _fault(self, frame: _Frame, total: int) -> Damage | None:
        """Return why a frame's row can't be true, None if it may be."""
        if frame.end > total:
            return Damage(f"{self._name}: frame at {frame.offset}: runs past its end")
        # zstd adds less than 1/128 to what it can't compress.
        if frame.length > frame.plain + (frame.plain >> 7) + _FRAME_BYTES_MORE:
            return Damage(f"{self._name}: frame at {frame.offset}: far longer than what is in it")
        return None

    def _damage(self, exc: VaultikError) -> Damage:
        """Return what an error means for the chunks.

        Raises:
            StoreAccessError: it isn't this blob's alone.
        """
        if isinstance(exc, ObjectNotFoundError):
            return Damage(f"{self._name}: missing")
        if isinstance(exc, StoreAccessError):
            if self._alone is None:
                self._alone = self._others_work()
            if not self._alone:
                raise exc
            return Damage(str(exc), refused=True)
        return Damage(f"{self._name}: {exc}")

    def _decode(self, frame: _Frame, stored: bytes | Damage) -> list[Fetched]:
        if isinstance(stored, Damage):
            return [Fetched(chunk, b"", stored) for chunk in frame.chunks]
        try:
            plain = memoryview(FrameDecoder().decode(stored, size_limit=frame.plain))
        except IntegrityError as exc:
            damage = Damage(f"{self._name}: frame at {frame.offset}: {exc}")
            return [Fetched(chunk, b"", damage) for chunk in frame.chunks]
        return [self._checked(chunk, plain[chunk.offset : chunk.offset + chunk.size]) for chunk in frame.chunks]

    def _checked(self, chunk: WantedChunk, data: memoryview) -> Fetched:
        if hashlib.sha256(data).digest() != chunk.hash:
            where = f"chunk at {chunk.offset} of frame {chunk.frame_offset}"
            return Fetched(chunk, b"", Damage(f"{self._name}: {where}: digest mismatch"))
        return Fetched(chunk, data, None)


def can_read(store: Opener, key: str) -> bool:
    """Tell whether the store gives an object away; a byte of it is asked for."""
    try:
        with store.open(key, offset=0, length=1) as stream:
            return len(stream.read(1)) == 1
    except (StoreError, IntegrityError):
        return False


_FAILURES = (ObjectNotFoundError, StoreAccessError, IntegrityError, NoMatchingIdentityError)
"""What goes wrong with a blob and not with the whole store (for a refusal that is still to be found out)."""


def _frames(chunks: Iterable[WantedChunk]) -> Iterator[_Frame]:
    for (offset, length), group in groupby(chunks, key=lambda c: (c.frame_offset, c.frame_length)):
        while part := list(islice(group, _CHUNKS_AT_MOST)):
            yield _Frame(offset, length, part)


def _joined(frames: Iterator[_Frame]) -> Iterator[list[_Frame]]:
    group: list[_Frame] = []
    for frame in frames:
        if group and (
            frame.offset - group[-1].end > _JOIN
            or frame.end - group[0].offset > _WINDOW
            or len(group) >= _JOINED_AT_MOST
        ):
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def _read(stream: Readable, size: int) -> bytes:
    """Read so many bytes, or as many as there are."""
    parts = []
    while size and (part := stream.read(min(size, 1 << 20))):
        size -= len(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
