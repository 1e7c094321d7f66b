"""A stream that hashes what passes through it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaultik.core.age import Readable


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
