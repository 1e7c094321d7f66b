"""Open age v1 files (C2SP age.md), whole or by ranges, releasing nothing that isn't authenticated.

    file      header | nonce (16) | segment 0 | segment 1 | ... | last segment
    segment   up to 64 KiB of plaintext, ChaCha20-Poly1305 with a 16-byte tag,
              nonce: 11-byte big endian counter, then 1 for the last segment, else 0

A segment stands for itself, so a range of the plaintext needs only the segments that cover it, and one
that is damaged costs nothing but its own bytes. The last one alone carries the final flag: a file cut at
a segment's end does not open as a whole one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from vaultik.core.age import NONCE, SEGMENT, TAG, Readable, segment_nonce
from vaultik.core.age_header import parse_header, payload_cipher
from vaultik.errors import AuthenticationError, FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from vaultik.core.identity import Identity

_STORED = SEGMENT + TAG
_BLOCK = 16 * _STORED
_HEADER_AT_MOST = 1 << 16


class Segments:
    """Consecutive segments of one file, each with its authenticated plaintext or, if it hasn't any, None."""

    def __init__(self, first: int = 0) -> None:
        """Begin without any at the segment of that number."""
        self.first = first
        self.opened: deque[bytes | None] = deque()

    @property
    def end(self) -> int:
        """The number of the segment after the last."""
        return self.first + len(self.opened)

    def drop(self, before: int) -> None:
        """Forget the segments before one."""
        while self.opened and self.first < before:
            self.opened.popleft()
            self.first += 1

    def cut(self, offset: int, length: int) -> bytes:
        """Return a range of the plaintext.

        Raises:
            AuthenticationError: a segment that it needs is damaged, or missing; it is named.
        """
        parts = []
        for number in range(offset // SEGMENT, (offset + length - 1) // SEGMENT + 1):
            plain = self.opened[number - self.first] if self.first <= number < self.end else None
            if plain is None:
                raise AuthenticationError(f"age file: segment {number} is damaged, missing or not in its place")
            begin = number * SEGMENT
            parts.append(plain[max(offset - begin, 0) : offset + length - begin])
        found = b"".join(parts)
        if len(found) != length:
            raise AuthenticationError("age file: ends too early")
        return found


class RangeOpener:
    """Opens ranges of one file's plaintext."""

    def __init__(self, start: bytes, identities: Sequence[Identity]) -> None:
        """Authenticate the header.

        Args:
            start: the file's first bytes: header and nonce at least.
            identities: any of which may open it.

        Raises:
            NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
        """
        header = parse_header(start)
        self.payload_offset = header.length + NONCE
        if len(start) < self.payload_offset:
            raise FormatError("age file: ends in its nonce")
        self._cipher = payload_cipher(header.unwrap(identities), start[header.length : self.payload_offset])

    def ciphertext_range(self, offset: int, length: int, total_plaintext: int) -> tuple[int, int]:
        """Return offset and length, in the stored file, of the segments that cover a range of the plaintext."""
        return stored_range(self.payload_offset, offset, length, total_plaintext)

    def open(self, ciphertext: bytes, offset: int, length: int, total_plaintext: int) -> bytes:
        """Return a range of the plaintext from the segments that `ciphertext_range` named.

        Raises:
            AuthenticationError: a segment was altered, moved or is incomplete; nothing is returned.
        """
        begin = self.payload_offset + offset // SEGMENT * _STORED
        return self.segments(ciphertext, begin, total_plaintext).cut(offset, length)

    def segments(self, stored: bytes, begin: int, total_plaintext: int) -> Segments:
        """Return the segments in what stands in the file from `begin` on, one by one; what precedes the payload is passed over."""
        first = max(begin - self.payload_offset, 0) // _STORED
        found = Segments(first)
        skipped = max(self.payload_offset - begin, 0)
        _open_segments(found, self._cipher, memoryview(stored)[skipped:], total_plaintext)
        return found


class SegmentStream:
    """The plaintext of a whole age file by ascending ranges; what is damaged costs only the ranges that touch it."""

    def __init__(self, reader: Readable, identities: Sequence[Identity], total_plaintext: int) -> None:
        """Authenticate the header.

        Args:
            reader: the file.
            identities: any of which may open it.
            total_plaintext: how much plaintext it should hold; which segment is the last follows from it.

        Raises:
            NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
        """
        self._reader = reader
        self._total = total_plaintext
        _, self._cipher, self._rest = _read_start(reader, identities)
        self._segments = Segments()

    def take(self, offset: int, length: int) -> bytes:
        """Return a range that doesn't begin before the last one's beginning.

        Raises:
            AuthenticationError: a segment that it needs is damaged, or missing. Later ranges may be sound.
            IntegrityError, StoreError: whatever the reader raises.
        """
        self._segments.drop(offset // SEGMENT)
        if not self._segments.opened:
            self._skip(offset // SEGMENT - self._segments.first)
        while self._segments.end * SEGMENT < offset + length:
            block = self._read(_BLOCK)
            if not block:
                break
            _open_segments(self._segments, self._cipher, block, self._total)
        return self._segments.cut(offset, length)

    def _skip(self, segments: int) -> None:
        for _ in range(segments):
            if not self._read(_STORED):
                return
            self._segments.first += 1

    def _read(self, size: int) -> bytes:
        data = _fill(self._reader, self._rest, size)
        self._rest = data[size:]
        return data[:size]


class StreamOpener:
    """A whole age file as a stream of its authenticated plaintext."""

    def __init__(self, reader: Readable, identities: Sequence[Identity]) -> None:
        """Authenticate the header.

        Raises:
            NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
        """
        self._reader = reader
        self.header_length, self._cipher, self._stored = _read_start(reader, identities)
        self._segment = 0
        self._plain = memoryview(b"")
        self._ended = False
        self._failure: AuthenticationError | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of plaintext (at most some segments' worth), b"" at the end.

        Raises:
            AuthenticationError: the file was altered or cut off; what came before is its true beginning.
        """
        while not self._plain:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            self._plain = memoryview(self._open_block())
        taken = bytes(self._plain if size < 0 else self._plain[:size])
        self._plain = self._plain[len(taken) :]
        return taken

    def _open_block(self) -> bytes:
        """Open some segments. What fails among them is kept until those before it have been read."""
        # One byte beyond the block tells that its last segment isn't the file's.
        self._stored = _fill(self._reader, self._stored, _BLOCK + 1)
        self._ended = len(self._stored) <= _BLOCK
        view = memoryview(self._stored)[:_BLOCK]
        opened = []
        for at in range(0, len(view) or 1, _STORED):
            try:
                opened.append(self._open_next(view[at : at + _STORED], last=self._ended and at + _STORED >= len(view)))
            except AuthenticationError as exc:
                self._failure = exc
            if self._failure is not None:
                break
        self._stored = bytes(self._stored[_BLOCK:])
        return b"".join(opened)

    def _open_next(self, segment: memoryview, *, last: bool) -> bytes:
        number = self._segment
        self._segment += 1
        if last and number > 0 and len(segment) == TAG:
            raise AuthenticationError("age file: its last segment is empty")
        try:
            return _open_segment(self._cipher, segment, number, final=last)
        except AuthenticationError:
            if len(segment) < _STORED and last:
                raise
            # Genuine, but in the wrong place: its bytes are the file's, the file is not whole.
            plain = _open_segment(self._cipher, segment, number, final=not last)
            self._failure = AuthenticationError(
                f"age file: cut off after segment {number}"
                if last
                else f"age file: bytes after its last segment {number}"
            )
            return plain


def open_stream(reader: Readable, identities: Sequence[Identity]) -> StreamOpener:
    """Return the plaintext stream of the age file in `reader`.

    Raises:
        NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
    """
    return StreamOpener(reader, identities)


def stored_range(payload_offset: int, offset: int, length: int, total_plaintext: int) -> tuple[int, int]:
    """Return offset and length, in the stored file, of the segments that cover a range of the plaintext.

    Args:
        payload_offset: where the first segment begins: after header and nonce.
        offset: of the range.
        length: of the range, not 0.
        total_plaintext: how much plaintext the file holds.
    """
    assert length > 0
    assert offset + length <= total_plaintext
    first, last = offset // SEGMENT, (offset + length - 1) // SEGMENT
    end = min((last + 1) * _STORED, total_plaintext + TAG * -(-total_plaintext // SEGMENT))
    return payload_offset + first * _STORED, end - first * _STORED


def plaintext_size(stored_size: int, header_length: int) -> int:
    """Return how much plaintext an age file of that size holds.

    Raises:
        FormatError: no file has that size.
    """
    payload = stored_size - header_length - NONCE
    segments = -(-payload // _STORED)
    plain = payload - TAG * segments
    if payload < TAG or plain < 0 or (segments > 1 and plain <= (segments - 1) * SEGMENT):
        raise FormatError(f"age file: {stored_size} bytes is no possible size")
    return plain


def _read_start(reader: Readable, identities: Sequence[Identity]) -> tuple[int, ChaCha20Poly1305, bytes]:
    """Read and authenticate a header. Returns its length, the payload's cipher, and what was read beyond the nonce."""
    start = _fill(reader, b"", 1)
    while b"\n---" not in start and len(start) < _HEADER_AT_MOST:
        more = _fill(reader, b"", 1)
        if not more:
            break
        start += more
    start = _fill(reader, start, len(start) + 128)
    header = parse_header(start)
    begin = header.length + NONCE
    start = _fill(reader, start, begin)
    if len(start) < begin:
        raise FormatError("age file: ends in its nonce")
    return header.length, payload_cipher(header.unwrap(identities), start[header.length : begin]), start[begin:]


def _fill(reader: Readable, data: bytes, size: int) -> bytes:
    """Read until there are so many bytes, or no more."""
    parts, total = [data], len(data)
    while total < size and (more := reader.read(max(size - total, 1 << 16))):
        parts.append(more)
        total += len(more)
    return b"".join(parts)


def _open_segments(found: Segments, cipher: ChaCha20Poly1305, stored: bytes | memoryview, total_plaintext: int) -> None:
    """Add stored segments to those before them; one that isn't genuine as None."""
    view = memoryview(stored)
    final = max(total_plaintext - 1, 0) // SEGMENT
    for at in range(0, len(stored), _STORED):
        try:
            plain = _open_segment(cipher, view[at : at + _STORED], found.end, final=found.end == final)
        except AuthenticationError:
            plain = None
        found.opened.append(plain)


def _open_segment(cipher: ChaCha20Poly1305, segment: memoryview, number: int, *, final: bool) -> bytes:
    try:
        return cipher.decrypt(segment_nonce(number, final=final), segment, None)
    except InvalidTag as exc:
        raise AuthenticationError(f"age file: segment {number} is damaged or not in its place") from exc
