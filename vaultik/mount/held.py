"""What the cache of frames holds: a frame, decoded, with what of it has its hash, or why it hasn't."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vaultik.model import BlobId
    from vaultik.snapshot.fetch import Damage, Fetched, WantedBlob, WantedChunk

_DAMAGE_S = 60.0
"""So long what is damaged isn't asked for again: a kernel asks page by page."""
_CHUNK_BYTES = 256
"""What it takes to know a chunk, besides its content."""


class Frame(NamedTuple):
    """A frame of a blob, as a snapshot has it."""

    blob: WantedBlob
    row: int
    """The blob's, in that snapshot."""
    offset: int
    length: int

    @property
    def key(self) -> tuple[BlobId, int, int]:
        """What it is known by, whichever snapshot asks."""
        return self.blob.hash, self.offset, self.length

    @property
    def end(self) -> int:
        """Where the next one may begin."""
        return self.offset + self.length


class Source(Protocol):
    """The snapshot that asks."""

    def chunks(self, frame: Frame, chunk: WantedChunk | None = None) -> Sequence[WantedChunk]:
        """Return what the snapshot has in a frame, `chunk` in any case, by offset."""
        ...

    def iter_frames(self, blob: Frame, offset: int) -> Iterator[Frame]:
        """Yield the frames of a frame's blob that the snapshot needs something of, from an offset on."""
        ...


_Known = tuple[int, int, bytes]
"""Offset, size and hash of a chunk: a stranger's DB may have several at one place of a frame, not all of them true."""


def _known(chunk: WantedChunk) -> _Known:
    return chunk.offset, chunk.size, chunk.hash


class Held(NamedTuple):
    """What came of a frame."""

    plain: memoryview
    sound: set[_Known]
    damaged: dict[_Known, Damage]
    until: float

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.plain) + _CHUNK_BYTES * (len(self.sound) + len(self.damaged))

    def find(self, chunk: WantedChunk) -> memoryview | Damage | None:
        """Return a chunk, or why it can't be had; None if it wasn't fetched, or that is long ago."""
        if _known(chunk) in self.sound:
            return self.plain[chunk.offset : chunk.offset + chunk.size]
        return self.damaged.get(_known(chunk)) if time.monotonic() < self.until else None


def held_of(fetched: Iterable[Fetched]) -> Held:
    """Return what came of a frame whose chunks these are."""
    plain = memoryview(b"")
    sound: set[_Known] = set()
    damaged: dict[_Known, Damage] = {}
    for chunk, data, damage in fetched:
        if damage is not None:
            damaged[_known(chunk)] = damage
        else:
            # A chunk is a part of its frame, which is what stays in memory.
            plain = memoryview(memoryview(data).obj)
            sound.add(_known(chunk))
    return Held(plain, sound, damaged, time.monotonic() + _DAMAGE_S)
