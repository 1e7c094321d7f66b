"""Fetch chunks out of one blob: whole where most of it is wanted, else the ranges that cover them.

Rule: at least half of the plaintext wanted, or one range after joining would do, and the blob is
streamed once; else frames that stand closer than 256 KiB are joined into ranges of at most 8 MiB.
Every frame is decoded and every chunk hashed on threads; what comes out is genuine or an error
beside the chunk's name.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.age_stream import RangeOpener, open_stream, plaintext_size
from vaultik.core.frames import FrameDecoder
from vaultik.core.names import blob_key
from vaultik.errors import (
    DigestMismatchError,
    FormatError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vaultik.core.age import Readable
    from vaultik.core.identity import Identity
    from vaultik.model import BlobId, ChunkId
    from vaultik.store.base import Store

FRAME_BYTES = 1 << 20
_JOIN = 256 << 10
_WINDOW = 8 << 20
_THREADS = 2
_AHEAD = 4
_AHEAD_BYTES = 32 << 20
"""Plaintext under way at once, but for one frame that is larger."""


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


class Fetched(NamedTuple):
    """A chunk's bytes, or why there are none."""

    chunk: WantedChunk
    data: bytes | memoryview
    damage: str | None


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


def fetch_chunks(
    store: Store, identities: Sequence[Identity], blob: WantedBlob, chunks: Iterable[WantedChunk]
) -> Iterator[Fetched]:
    """Yield every wanted chunk of a blob once, in the order of its frames.

    Args:
        store: where the blob lies.
        identities: those that opened the snapshot; a blob that they don't open is a damaged one.
        blob: its row.
        chunks: the wanted ones, ordered by frame offset, then by offset.

    Raises:
        StoreError: the store failed (a missing or unreadable blob is damage of its chunks, not an error).
    """
    frames = [
        _Frame(o, n, list(group)) for (o, n), group in groupby(chunks, key=lambda c: (c.frame_offset, c.frame_length))
    ]
    name = f"blob {blob.hash.hex()[:12]}…"
    failed = ""
    with ThreadPoolExecutor(_THREADS) as threads:
        under_way: deque[tuple[_Frame, Future[list[Fetched]]]] = deque()
        done = 0
        try:
            for frame, data in _stored_frames(store, identities, blob, frames):
                under_way.append((frame, threads.submit(_decode, name, frame, data)))
                done += 1
                while len(under_way) >= _AHEAD or sum(f.plain for f, _ in under_way) > _AHEAD_BYTES:
                    yield from under_way.popleft()[1].result()
        except ObjectNotFoundError:
            failed = f"{name}: missing"
        except (IntegrityError, NoMatchingIdentityError) as exc:
            failed = f"{name}: {exc}"
        while under_way:
            yield from under_way.popleft()[1].result()
    for frame in frames[done:]:
        yield from (Fetched(chunk, b"", failed) for chunk in frame.chunks)


def _stored_frames(
    store: Store, identities: Sequence[Identity], blob: WantedBlob, frames: list[_Frame]
) -> Iterator[tuple[_Frame, bytes]]:
    total = plaintext_size(blob.size, blob.header_length)
    if frames and max(frame.end for frame in frames) > total:
        raise FormatError("a frame runs past its end")
    if sum(frame.length for frame in frames) * 2 >= total:
        with store.open(blob_key(blob.hash)) as stream:
            yield from _from_stream(open_stream(stream, identities), frames)
    else:
        yield from _from_ranges(store, identities, blob, frames, total)


def _from_stream(plain: Readable, frames: list[_Frame]) -> Iterator[tuple[_Frame, bytes]]:
    at = 0
    for frame in frames:
        if frame.offset < at:
            raise FormatError("frames overlap")
        _read_exactly(plain, frame.offset - at, keep=False)
        yield frame, _read_exactly(plain, frame.length, keep=True)
        at = frame.end


def _from_ranges(
    store: Store, identities: Sequence[Identity], blob: WantedBlob, frames: list[_Frame], total: int
) -> Iterator[tuple[_Frame, bytes]]:
    key = blob_key(blob.hash)
    opener: RangeOpener | None = None
    for group in _joined(frames):
        if opener is None:
            with store.open(key, offset=0, length=blob.header_length + 16) as stream:
                opener = RangeOpener(_read_exactly(stream, blob.header_length + 16, keep=True), identities)
        begin, length = group[0].offset, group[-1].end - group[0].offset
        offset, stored = opener.ciphertext_range(begin, length, total)
        with store.open(key, offset=offset, length=stored) as stream:
            plain = opener.open(_read_exactly(stream, stored, keep=True), begin, length, total)
        for frame in group:
            yield frame, plain[frame.offset - begin : frame.end - begin]


def _joined(frames: list[_Frame]) -> Iterator[list[_Frame]]:
    group: list[_Frame] = []
    for frame in frames:
        if group and (
            frame.offset - group[-1].end > _JOIN
            or frame.end - group[0].offset > _WINDOW
            or frame.offset < group[-1].end
        ):
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def _read_exactly(stream: Readable, size: int, *, keep: bool) -> bytes:
    parts = []
    while size:
        part = stream.read(min(size, 1 << 20))
        if not part:
            raise FormatError("ends too early")
        size -= len(part)
        if keep:
            parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decode(name: str, frame: _Frame, data: bytes) -> list[Fetched]:
    try:
        plain = memoryview(FrameDecoder().decode(data, size_limit=frame.plain))
    except IntegrityError as exc:
        return [Fetched(chunk, b"", f"{name}: frame at {frame.offset}: {exc}") for chunk in frame.chunks]
    return [_check(name, chunk, plain[chunk.offset : chunk.offset + chunk.size]) for chunk in frame.chunks]


def _check(name: str, chunk: WantedChunk, data: memoryview) -> Fetched:
    if hashlib.sha256(data).digest() != chunk.hash:
        error = DigestMismatchError(f"{name}: chunk at {chunk.offset} of frame {chunk.frame_offset}: digest mismatch")
        return Fetched(chunk, b"", str(error))
    return Fetched(chunk, data, None)
