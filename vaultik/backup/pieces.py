"""What reading a bundle gives: chunks as they come, and afterwards what became of each piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.index.entries import Attributes


class RawChunk(NamedTuple):
    """A chunk as it was read."""

    piece: int
    offset: int
    data: bytes


class Outcome(NamedTuple):
    """What came of one piece."""

    attributes: Attributes | None
    """Of the fstat before reading, `size` as really read; None if nothing could be read."""
    changed: bool = False
    """The file changed while it was read, or since its other extents were planned."""
    grown: bool = False
    """Much larger than planned: it has to be planned anew, nothing was read."""
    again: bool = False
    """Written so recently that the next scan must look again."""
    reason: str | None = None
    """Why it could not be read; None with no attributes: it vanished."""
    is_stream: bool = False
    """It is on no disk: what it held before goes on standing for what didn't come."""


class Reader(Protocol):
    """What a bundle's bytes come from."""

    outcomes: list[Outcome]
    """What came of each piece, once all chunks are read."""
    is_void: bool
    """What was read is of no worth, and none of it may be kept."""

    def chunks(self) -> Iterator[RawChunk]:
        """Yield the chunks of all pieces, in order."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
