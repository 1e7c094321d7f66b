"""Streams of byte pieces as something that can be read from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.core.age import Readable


class PieceReader:
    """An iterator of byte pieces with a file's `read`.

    Exceptions of the iterator come out of `read` as they are.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, one piece at the most; b"" at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        taken = bytes(self._rest if size < 0 else self._rest[:size])
        self._rest = self._rest[len(taken) :]
        return taken


class HashingReader:
    """A stream that hashes what passes through."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Return what the stream gives."""
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def finish(self) -> bytes:
        """Read to the end and return the SHA-256 of the whole stream, 32 bytes."""
        while self.read(1 << 20):
            pass
        return self._digest.digest()
