"""Padme: pad lengths so that exact sizes don't show (FORMAT.md, "Padding").

Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019:
at most 12 % overhead, and only O(log log n) bits of a length leak.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC_PADDING = 0x184D2A5D


class Readable(Protocol):
    """Something with a file's `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


_HEADER = struct.Struct("<II")
_LONGEST_FRAME = 1 << 32
_ZEROS = bytes(1 << 20)


def padme(length: int) -> int:
    """Return the smallest Padme size that is not below `length`."""
    if length < 2:  # noqa: PLR2004 - the formula needs a logarithm's logarithm
        return length
    exponent = length.bit_length() - 1
    mantissa_bits = exponent.bit_length()
    mask = (1 << max(exponent - mantissa_bits, 0)) - 1
    return (length + mask) & ~mask


def padding_frame(length: int) -> bytes:
    """Return the skippable frame that brings `length` bytes to a Padme size, b"" if they have one.

    A frame is at least 8 bytes, so a gap of 1 to 7 leads to the Padme size after.
    """
    return b"".join(iter_padding(length))


def iter_padding(length: int, at_least: int = 0) -> Iterator[bytes]:
    """Yield, in pieces of up to 1 MiB, the skippable frames that bring `length` bytes to a Padme size.

    Args:
        length: of what is padded.
        at_least: the Padme size is no smaller.
    """
    target = padme(max(length, at_least))
    while 0 < target - length < _HEADER.size:
        target = padme(target + 1)
    left = target - length
    while left:
        frame = min(left, _LONGEST_FRAME)
        if 0 < left - frame < _HEADER.size:
            frame -= _HEADER.size
        left -= frame
        yield _HEADER.pack(MAGIC_PADDING, frame - _HEADER.size)
        yield from _zeros(frame - _HEADER.size)


def padded(frame: Readable, at_least: int = 0) -> Iterator[bytes]:
    """Yield a stream with the padding that brings it to a Padme size, no smaller than `at_least`."""
    length = 0
    while block := frame.read(len(_ZEROS)):
        length += len(block)
        yield block
    yield from iter_padding(length, at_least)


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = _ZEROS[: min(count, len(_ZEROS))]
        count -= len(piece)
        yield piece
