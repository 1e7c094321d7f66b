"""Fetch chunks out of one blob: whole, or the ranges that cover them, as `reads` decides.

Every frame is decoded and every chunk hashed on threads; what comes out is genuine, or what is wrong stands
beside the chunk's name. Damage costs the frames that it touches and no others, wherever it lies.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.frames import FrameDecoder
from vaultik.core.names import blob_key
from vaultik.errors import IntegrityError, StoreError
from vaultik.snapshot.reads import Reads, Span, WantedBlob, WantedChunk, all_of, plan_reads
from vaultik.snapshot.stored import Damage, Opener, StoredFrames, WantedFrame, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity

__all__ = [
    "BlobFetcher", "Damage", "Fetched", "Opener", "Reads", "Span", "WantedBlob", "WantedChunk", "all_of", "can_read", "plan_reads",
]  # fmt: skip

_CHUNKS_AT_MOST = 4096
"""Chunks of a frame that are looked at together; a frame of more is decoded again for the others."""
_THREADS = 2
_AHEAD = 4
_AHEAD_BYTES = 32 << 20
"""Bytes of frames that are decoded at once, stored or plain, but for one that is larger."""


class Fetched(NamedTuple):
    """A chunk's bytes, or why there are none."""

    chunk: WantedChunk
    data: bytes | memoryview
    damage: Damage | None


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
        self._blob = blob
        self._name = name_of(blob)
        self._frames = StoredFrames(store, identities, blob, others_work)
        self._older: bool | None = None
        """Whether an older version is right, once that was asked."""

    def fetch(self, chunks: Iterable[WantedChunk], reads: Reads | None = None) -> Iterator[Fetched]:
        """Yield every wanted chunk once, in the order of its frames. May be called again: the header is asked for once.

        Args:
            chunks: the wanted ones, ordered by frame offset, then by offset. Taken as they are needed.
            reads: what to ask the store for, planned for these chunks or more. Planned here without it; `chunks`
                are all kept in memory then.

        Raises:
            StoreError: the store failed (a missing, refused or unreadable blob is damage of its chunks, not an error).
        """
        if reads is None:
            chunks = list(chunks)
            reads = self._plan(chunks)
        for found in self._decoded(self._frames.read(_frames(chunks), reads)):
            is_damaged = any(fetched.damage is not None for fetched in found)
            yield from self._again(found) if is_damaged and self._has_older() else found

    def _has_older(self) -> bool:
        """Tell whether behind what stands there is a version of the blob that is right; it is read from now on."""
        if self._older is None:
            self._older = self._store.look_behind(blob_key(self._blob.hash), self._blob.hash) is not None
            self._frames.begin_anew()
        return self._older

    def _again(self, found: list[Fetched]) -> Iterator[Fetched]:
        """Fetch the chunks of one frame once more, by its range."""
        chunks = [fetched.chunk for fetched in found]
        for again in self._decoded(self._frames.read(_frames(chunks), self._plan(chunks))):
            yield from again

    def _plan(self, chunks: Iterable[WantedChunk]) -> Reads:
        return plan_reads(self._blob, (frame.span for frame in _frames(chunks)), is_open=self._frames.is_open)

    def _decoded(self, frames: Iterator[tuple[WantedFrame, bytes | Damage]]) -> Iterator[list[Fetched]]:
        """Decode frames on threads, a few ahead, and yield what is in each."""
        with ThreadPoolExecutor(_THREADS) as threads:
            under_way: deque[tuple[Span, Future[list[Fetched]]]] = deque()
            for frame, stored in frames:
                under_way.append((frame.span, threads.submit(self._decode, frame, stored)))
                del stored
                while len(under_way) >= _AHEAD or sum(max(s.plain, s.length) for s, _ in under_way) > _AHEAD_BYTES:
                    yield under_way.popleft()[1].result()
            while under_way:
                yield under_way.popleft()[1].result()

    def _decode(self, frame: WantedFrame, stored: bytes | Damage) -> list[Fetched]:
        if isinstance(stored, Damage):
            return [Fetched(chunk, b"", stored) for chunk in frame.chunks]
        try:
            plain = memoryview(FrameDecoder().decode(stored, size_limit=frame.span.plain))
        except IntegrityError as exc:
            damage = Damage(f"{self._name}: frame at {frame.span.offset}: {exc}")
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


def _frames(chunks: Iterable[WantedChunk]) -> Iterator[WantedFrame]:
    for (offset, length), group in groupby(chunks, key=lambda c: (c.frame_offset, c.frame_length)):
        while part := list(islice(group, _CHUNKS_AT_MOST)):
            yield WantedFrame(Span(offset, length, max(chunk.offset + chunk.size for chunk in part)), part)
