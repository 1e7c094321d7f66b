"""What an age v1 file is made of (C2SP age.md, binary): sizes and streams that its writer and its readers share."""

from __future__ import annotations

from typing import Protocol

SEGMENT = 64 * 1024
"""Bytes of plaintext in each segment but the last."""
NONCE = 16
TAG = 16


class Readable(Protocol):
    """Something with a file's `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


class Writable(Protocol):
    """Something with a file's `write`."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Write bytes; the number of those taken, as a raw file does."""
        ...


def segment_nonce(number: int, *, final: bool) -> bytes:
    """Return the nonce of a segment: an 11-byte big endian counter, then 1 for the last segment, else 0."""
    return number.to_bytes(11, "big") + (b"\1" if final else b"\0")
