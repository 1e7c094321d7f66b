"""zstd frames (RFC 8878): encode, decode with a limit, walk without decoding. The one door to zstandard.

A decoder never trusts a declared size beyond the caller's limit, and takes exactly one frame: the
library's own stops after the first frame of several without a word.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

import zstandard

from vaultik.core.padding import MAGIC_PADDING
from vaultik.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC_CHUNK_TABLE = 0x184D2A5E
__all__ = [
    "MAGIC_CHUNK_TABLE",
    "MAGIC_PADDING",
    "FrameDecoder",
    "FrameEncoder",
    "decode_frames",
    "decode_stream",
    "encode_stream",
    "iter_frames",
    "skippable_frame",
]

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_SKIPPABLE_HEADER = struct.Struct("<II")
_LONGEST_HEADER = 18
_BLOCK_HEADER_BYTES = 3
_RLE_BLOCK = 1
_RESERVED_BLOCK = 3
_READ = 1 << 20
_STEP = 1 << 10
"""Bytes given to a streaming decoder at once: blocks of 4 bytes that stand for 128 KiB make 32 MiB of them."""


class Readable(Protocol):
    """Something with a file's `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


class FrameEncoder:
    """Makes frames with content size and checksum. One per thread."""

    def __init__(self, level: int) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def encode(self, data: bytes | memoryview) -> bytes:
        """Return `data` as one frame."""
        return self._compressor.compress(data)


def encode_stream(reader: Readable, size: int, level: int) -> Readable:
    """Return a stream of one frame that holds the `size` bytes of `reader`."""
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    stream: Readable = compressor.stream_reader(reader, size=size)  # type: ignore[arg-type]
    return stream


class FrameDecoder:
    """Opens frames that declare their size. One per thread."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()

    def decode(self, frame: bytes | memoryview, *, size_limit: int) -> bytes:
        """Return the content of exactly one frame.

        Raises:
            FormatError: not one whole frame, or its declared size is above `size_limit`.
        """
        declared = _declared_size(bytes(frame[:_LONGEST_HEADER]))
        if declared > size_limit:
            raise FormatError(f"zstd frame: declares {declared} bytes, at most {size_limit} are allowed")
        if _frame_length(memoryview(frame), 0) != len(frame):
            raise FormatError("zstd frame: bytes after its end")
        try:
            content = self._decompressor.decompress(frame, max_output_size=declared)
        except zstandard.ZstdError as exc:
            raise FormatError(f"zstd frame: {exc}") from exc
        if len(content) != declared:
            raise FormatError(f"zstd frame: {len(content)} bytes instead of {declared}")
        return content


def decode_stream(reader: Readable, *, size_limit: int) -> Iterator[bytes]:
    """Yield the content of the one data frame that a stream begins with, in pieces.

    After it only skippable frames may follow.

    Raises:
        FormatError: otherwise, or if its declared size is missing or above `size_limit`. What was
            yielded before is then of no worth.
    """
    source = _Source(reader)
    yield from _decode_frame(source, size_limit)
    while head := source.peek(_SKIPPABLE_HEADER.size):
        if not _is_skippable(head):
            raise FormatError("after the zstd frame: something else than skippable frames")
        source.skip_frame()


def decode_frames(reader: Readable, *, size_limit: int) -> Iterator[bytes]:
    """Yield the content of all data frames of a stream, in pieces; skippable frames are passed over.

    Raises:
        FormatError: bytes that are no frame, or one without a size; what they declare is above `size_limit` in sum.
            What was yielded before is then of no worth.
    """
    source = _Source(reader)
    while head := source.peek(_SKIPPABLE_HEADER.size):
        if _is_skippable(head):
            source.skip_frame()
            continue
        for piece in _decode_frame(source, size_limit):
            size_limit -= len(piece)
            yield piece


def _decode_frame(source: _Source, size_limit: int) -> Iterator[bytes]:
    declared = _declared_size(source.peek(_LONGEST_HEADER))
    if declared > size_limit:
        raise FormatError(f"zstd frame: declares {declared} bytes, at most {size_limit} are allowed")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    total = 0
    while not decoder.eof:
        if not (block := source.take(_STEP)):
            raise FormatError("zstd frame: ends too early")
        try:
            piece = decoder.decompress(block)
        except zstandard.ZstdError as exc:
            raise FormatError(f"zstd frame: {exc}") from exc
        total += len(piece)
        if total > declared:
            raise FormatError(f"zstd frame: more than the {declared} bytes it declares")
        if piece:
            yield piece
    if total != declared:
        raise FormatError(f"zstd frame: {total} bytes instead of {declared}")
    source.give_back(decoder.unused_data)


class _Source:
    """A stream of which one may see what comes next."""

    def __init__(self, reader: Readable) -> None:
        self._reader = reader
        self._held = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end, and leave them where they are."""
        while len(self._held) - self._at < size and (more := self._reader.read(_READ)):
            self._held, self._at = self._held[self._at :] + more, 0
        return self._held[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        piece = self.peek(1) and self._held[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def give_back(self, data: bytes) -> None:
        """Take back the last bytes that were given."""
        self._at -= len(data)

    def skip_frame(self) -> None:
        """Pass over a skippable frame.

        Raises:
            FormatError: it isn't whole.
        """
        left = _SKIPPABLE_HEADER.size + int.from_bytes(self.peek(_SKIPPABLE_HEADER.size)[4:], "little")
        while left:
            if not (piece := self.take(min(left, _READ))):
                raise FormatError("skippable frame: ends too early")
            left -= len(piece)


def _is_skippable(head: bytes) -> bool:
    return len(head) == _SKIPPABLE_HEADER.size and int.from_bytes(head[:4], "little") in _SKIPPABLE


def skippable_frame(magic: int, payload: bytes) -> bytes:
    """Return a frame that every zstd decoder passes over."""
    assert magic in _SKIPPABLE
    return _SKIPPABLE_HEADER.pack(magic, len(payload)) + payload


def iter_frames(plaintext: bytes | memoryview) -> Iterator[tuple[int, int, int | None]]:
    """Yield offset, length and (of skippable frames) magic of each frame, without decoding any.

    Raises:
        FormatError: bytes that are no frame, or an unfinished one.
    """
    view = memoryview(plaintext)
    at = 0
    while at < len(view):
        length = _frame_length(view, at)
        magic = int.from_bytes(view[at : at + 4], "little")
        yield at, length, magic if magic in _SKIPPABLE else None
        at += length


def _declared_size(start: bytes) -> int:
    try:
        declared = zstandard.get_frame_parameters(start).content_size
    except zstandard.ZstdError as exc:
        raise FormatError(f"zstd frame: {exc}") from exc
    if declared in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise FormatError("zstd frame: declares no size")
    return declared


def _frame_length(view: memoryview, start: int) -> int:
    """Return a frame's length by its block headers (RFC 8878, 3.1.1.2)."""
    magic = int.from_bytes(view[start : start + 4], "little")
    if magic in _SKIPPABLE and len(view) >= start + 8:
        end = start + 8 + int.from_bytes(view[start + 4 : start + 8], "little")
    elif magic == _MAGIC:
        end = _data_frame_end(view, start)
    else:
        raise FormatError(f"offset {start}: no zstd frame")
    if end > len(view):
        raise FormatError(f"zstd frame at {start}: runs past the end")
    return end - start


def _data_frame_end(view: memoryview, start: int) -> int:
    try:
        header = zstandard.frame_header_size(bytes(view[start : start + _LONGEST_HEADER]))
        has_checksum = zstandard.get_frame_parameters(bytes(view[start : start + _LONGEST_HEADER])).has_checksum
    except zstandard.ZstdError as exc:
        raise FormatError(f"zstd frame at {start}: {exc}") from exc
    at = start + header
    last = 0
    while not last:
        if at + _BLOCK_HEADER_BYTES > len(view):
            raise FormatError(f"zstd frame at {start}: runs past the end")
        block = int.from_bytes(view[at : at + _BLOCK_HEADER_BYTES], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind == _RESERVED_BLOCK:
            raise FormatError(f"zstd frame at {start}: reserved block type")
        at += _BLOCK_HEADER_BYTES + (1 if kind == _RLE_BLOCK else size)
    return at + (4 if has_checksum else 0)
