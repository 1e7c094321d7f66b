"""Read frames of one blob as they are stored: out of one stream, or by ranges that are read side by side.

What can't be read together is read by itself, so that a bad sector or a broken segment costs the frames that
touch it and no others. Nothing is decoded here.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vaultik.core.age import NONCE
from vaultik.core.age_stream import RangeOpener, SegmentStream, plaintext_size
from vaultik.core.names import blob_key
from vaultik.errors import (
    AuthenticationError,
    FormatError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
    StoreAccessError,
    VaultikError,
)
from vaultik.snapshot.ahead import side_by_side
from vaultik.snapshot.reads import Range, Reads, Span, WantedBlob, WantedChunk, cover_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from vaultik.core.age import Readable
    from vaultik.core.age_stream import Segments
    from vaultik.core.identity import Identity


class Opener(Protocol):
    """As much of a store as this takes; `open` is called on several threads."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> AbstractContextManager[Readable]:
        """Open an object, or a range of it, as `Store.open` does."""
        ...

    def look_behind(self, key: str, sha256: bytes) -> object | None:
        """Give an older version from now on, as `Store.look_behind` does."""
        ...


class Damage(NamedTuple):
    """Why a chunk's bytes can't be had."""

    reason: str
    refused: bool = False
    """The store has the object and doesn't give it away."""


class WantedFrame(NamedTuple):
    """A frame, and what is wanted of it."""

    span: Span
    chunks: list[WantedChunk]


_FAILURES = (ObjectNotFoundError, StoreAccessError, IntegrityError, NoMatchingIdentityError)
"""What goes wrong with a blob and not with the whole store (for a refusal that is still to be found out)."""


def name_of(blob: WantedBlob) -> str:
    """Return what a blob is called in messages."""
    return f"blob {blob.hash.hex()[:12]}…"


class StoredFrames:
    """The frames of one blob."""

    def __init__(
        self, store: Opener, identities: Sequence[Identity], blob: WantedBlob, others_work: Callable[[], bool]
    ) -> None:
        """Name the blob (as `BlobFetcher` does)."""
        self._store = store
        self._identities = identities
        self._blob = blob
        self._key = blob_key(blob.hash)
        self._name = name_of(blob)
        self._others_work = others_work
        self._header: RangeOpener | VaultikError | None = None
        """What opens its ranges, or why nothing does for now, once that is known."""
        self._alone: bool | None = None
        """Whether it is this blob alone that the store refuses, once that is known."""

    @property
    def is_open(self) -> bool:
        """Whether the header has been read."""
        return isinstance(self._header, RangeOpener)

    def begin_anew(self) -> None:
        """Forget what was read: the store gives another version from now on."""
        self._header = None

    def read(self, frames: Iterator[WantedFrame], reads: Reads) -> Iterator[tuple[WantedFrame, bytes | Damage]]:
        """Yield each frame as it is stored, or why that can't be had.

        Args:
            frames: by their offsets. Taken as they are needed.
            reads: what to ask the store for, planned for these frames or more.

        Raises:
            StoreError: the store failed.
        """
        if not self.is_open:
            self._header = None
        try:
            total = plaintext_size(self._blob.size, self._blob.header_length)
        except FormatError as exc:
            damage = self._damage(exc)
            yield from ((frame, damage) for frame in frames)
            return
        yield from (self._from_stream if reads.whole else self._from_ranges)(frames, reads.ranges, total)

    def _from_stream(
        self, frames: Iterator[WantedFrame], ranges: Sequence[Range], total: int
    ) -> Iterator[tuple[WantedFrame, bytes | Damage]]:
        try:
            with self._store.open(self._key) as stream:
                yield from self._taken(SegmentStream(stream, self._identities, total), frames, ranges, total)
        except _FAILURES as exc:
            damage = self._damage(exc)
            yield from ((frame, damage) for frame in frames)

    def _taken(
        self, plain: SegmentStream, frames: Iterator[WantedFrame], ranges: Sequence[Range], total: int
    ) -> Iterator[tuple[WantedFrame, bytes | Damage]]:
        for frame in frames:
            try:
                data = self._fault(frame.span, total) or plain.take(frame.span.offset, frame.span.length)
            except AuthenticationError as exc:
                data = self._damage(exc)
            except _FAILURES:
                # The stream itself broke, at a bad sector maybe; what lies behind it can be had by itself.
                begin = cover_of(self._blob, frame.span, total).begin
                behind = [one for one in ranges if one.end > begin]
                yield from self._from_ranges(chain([frame], frames), behind, total)
                return
            yield frame, data

    def _from_ranges(
        self, frames: Iterator[WantedFrame], ranges: Sequence[Range], total: int
    ) -> Iterator[tuple[WantedFrame, bytes | Damage]]:
        coming = side_by_side(self._read, ranges)
        at, segments = Range(0, 0), None
        for frame in frames:
            if (fault := self._fault(frame.span, total)) is not None:
                yield frame, fault
                continue
            cover = cover_of(self._blob, frame.span, total)
            while at.end < cover.end and (found := next(coming, None)) is not None:
                at, future = found
                segments = self._opened(at, future, total)
                del future, found
            yield frame, self._cut(frame.span, cover, segments if at.covers(cover) else None, total)

    def _opened(self, at: Range, future: Future[bytes], total: int) -> Segments | None:
        """Return what a range holds, None if it can't be read as one."""
        try:
            stored = future.result()
            if at.begin == 0:
                self._header = self._header or RangeOpener(stored[: self._blob.header_length + NONCE], self._identities)
            return self._opener().segments(stored, at.begin, total)
        except ObjectNotFoundError as exc:
            # Nor is anything else of it there.
            self._header = exc
            return None
        except _FAILURES:
            return None

    def _cut(self, frame: Span, cover: Range, segments: Segments | None, total: int) -> bytes | Damage:
        """Return a frame out of what was read, or else read by itself: what can't be read costs no other."""
        try:
            if segments is None:
                segments = self._opener().segments(self._read(cover), cover.begin, total)
            return segments.cut(frame.offset, frame.length)
        except _FAILURES as exc:
            return self._damage(exc)

    def _opener(self) -> RangeOpener:
        """Return what opens ranges.

        Raises:
            VaultikError: one of `_FAILURES`, the same each time.
        """
        # Several threads may read from one blob; each goes by what it has seen.
        header = self._header
        if header is None:
            try:
                start = self._read(Range(0, self._blob.header_length + NONCE))
                header = RangeOpener(start, self._identities)
            except _FAILURES as exc:
                header = exc
            self._header = header
        if isinstance(header, VaultikError):
            raise header
        return header

    def _read(self, one: Range) -> bytes:
        """Read a range, or as much as there is of it."""
        left = one.end - one.begin
        parts = []
        with self._store.open(self._key, offset=one.begin, length=left) as stream:
            while left and (part := stream.read(min(left, 1 << 20))):
                left -= len(part)
                parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fault(self, frame: Span, total: int) -> Damage | None:
        """Return why a frame's row can't be true, None if it may be."""
        fault = frame.fault(total)
        return None if fault is None else Damage(f"{self._name}: frame at {frame.offset}: {fault}")

    def _damage(self, exc: VaultikError) -> Damage:
        """Return what an error means for the chunks.

        Raises:
            StoreAccessError: it isn't this blob's alone.
        """
        if isinstance(exc, ObjectNotFoundError):
            return Damage(f"{self._name}: missing")
        if isinstance(exc, StoreAccessError):
            if self._alone is None:
                self._alone = self._others_work()
            if not self._alone:
                raise exc
            return Damage(str(exc), refused=True)
        return Damage(f"{self._name}: {exc}")
