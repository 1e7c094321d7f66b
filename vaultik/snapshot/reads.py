"""Decide what is asked of a store for some frames of a blob: which ranges of it, or all of it.

A request counts as much as 256 KiB. So ranges that lie no further apart are joined, and a blob is read whole
where that counts no more than its ranges. No range is longer than 8 MiB unless a single frame is. Everything
counts in the stored file: the age header first, then the segments that cover each frame. What is decided here is
exactly what is then asked for, as long as nothing is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.age import NONCE
from vaultik.core.age_stream import plaintext_size, stored_range
from vaultik.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vaultik.model import BlobId, ChunkId

FRAME_BYTES = 1 << 20
REQUEST_BYTES = 256 << 10
"""What a request counts, beside the bytes that it brings."""
RANGE_BYTES = 8 << 20
_RANGES_AT_MOST = 1 << 16
"""In one blob; of more, it is read whole: they are kept in a list."""
_FRAME_BYTES_MORE = 4096


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


class Span(NamedTuple):
    """A frame's place in the plaintext of its blob."""

    offset: int
    length: int
    content: int
    """How much is wanted of what is in it, from its beginning on."""

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.length

    @property
    def plain(self) -> int:
        """The most that it may hold."""
        return max(FRAME_BYTES, self.content)

    def fault(self, total: int) -> str | None:
        """Return why its row can't be true in a blob of so much plaintext, None if it may be."""
        if self.end > total:
            return "runs past its end"
        # zstd adds less than 1/128 to what it can't compress.
        if self.length > self.plain + (self.plain >> 7) + _FRAME_BYTES_MORE:
            return "far longer than what is in it"
        return None


class Range(NamedTuple):
    """A range of the stored file."""

    begin: int
    end: int

    def covers(self, other: Range) -> bool:
        """Tell whether another lies in it."""
        return self.begin <= other.begin and other.end <= self.end


class Reads(NamedTuple):
    """What is asked of the store for one blob."""

    ranges: list[Range]
    """The first begins with the header, unless that is known; none, if nothing in the blob can be had, or they are too many."""
    whole: bool
    """Whether all of it is asked for at once instead."""
    size: int
    """How much that is."""

    @property
    def requests(self) -> int:
        """How many requests that are."""
        return 1 if self.whole else len(self.ranges)

    @property
    def bytes(self) -> int:
        """How many bytes they bring."""
        return self.size if self.whole else sum(r.end - r.begin for r in self.ranges)


def all_of(blob: WantedBlob) -> Reads:
    """Return what reads a blob from its first byte to its last."""
    return Reads([], whole=True, size=blob.size)


def plan_reads(blob: WantedBlob, frames: Iterable[Span], *, is_open: bool = False) -> Reads:
    """Decide what to ask for.

    Args:
        blob: its row.
        frames: those that are wanted, ordered by their offsets. Rows that can't be true cost nothing.
        is_open: the header has been read before.
    """
    ranges: list[Range] = []
    try:
        for cover in _covers(blob, frames):
            if is_open and not ranges:
                ranges.append(cover)
            last = ranges[-1] if ranges else Range(0, blob.header_length + NONCE)
            joined = Range(last.begin, max(last.end, cover.end))
            if cover.begin - last.end <= REQUEST_BYTES and joined.end - joined.begin <= RANGE_BYTES:
                ranges[-1:] = [joined]
            else:
                ranges[-1:] = [last, cover]
            if len(ranges) > _RANGES_AT_MOST:
                return all_of(blob)
    except FormatError:
        return Reads([], whole=False, size=blob.size)
    reads = Reads(ranges, whole=False, size=blob.size)
    return reads._replace(whole=bool(ranges) and _counts(all_of(blob)) <= _counts(reads))


def cover_of(blob: WantedBlob, frame: Span, total: int) -> Range:
    """Return the segments that cover a frame, in a blob of so much plaintext."""
    offset, length = stored_range(blob.header_length + NONCE, frame.offset, frame.length, total)
    return Range(offset, offset + length)


def _covers(blob: WantedBlob, frames: Iterable[Span]) -> Iterator[Range]:
    total = plaintext_size(blob.size, blob.header_length)
    return (cover_of(blob, frame, total) for frame in frames if frame.fault(total) is None)


def _counts(reads: Reads) -> int:
    return reads.bytes + reads.requests * REQUEST_BYTES
