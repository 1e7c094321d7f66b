"""Open age v1 files (C2SP age.md), whole or by ranges, releasing nothing that isn't authenticated.

    file      header | nonce (16) | segment 0 | segment 1 | ... | last segment
    header    "age-encryption.org/v1" LF, recipient stanzas, "--- " MAC LF
    segment   up to 64 KiB of plaintext, ChaCha20-Poly1305 with a 16-byte tag,
              nonce: 11-byte big endian counter, then 1 for the last segment, else 0

A segment stands for itself, so a range of the plaintext needs only the segments that cover it. The
last one alone carries the final flag: a file cut at a segment's end does not open as a whole one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vaultik.core.age import NONCE, SEGMENT, TAG, Readable
from vaultik.errors import AuthenticationError, FormatError, NoMatchingIdentityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultik.core.identity import Identity

_VERSION = b"age-encryption.org/v1"
_STORED = SEGMENT + TAG
_BLOCK = 16 * _STORED
_HEADER_AT_MOST = 1 << 16
_FILE_KEY = 16
_COLUMNS = 64
_ARGUMENT = re.compile(rb"[\x21-\x7e]+")


class Stanza(NamedTuple):
    """One recipient's wrap of the file key."""

    arguments: list[bytes]
    body: bytes


class Header(NamedTuple):
    """A parsed header."""

    stanzas: list[Stanza]
    mac: bytes
    authenticated: bytes
    """Everything that the MAC covers: up to and including `---`."""
    length: int

    def unwrap(self, identities: Sequence[Identity]) -> bytes:
        """Return the file key, 16 bytes, its header authenticated.

        Raises:
            NoMatchingIdentityError: no identity opens any stanza.
            AuthenticationError: the MAC is wrong.
            FormatError: a stanza is malformed.
        """
        key = self._find_key(identities)
        if not hmac.compare_digest(hmac.digest(_hkdf(key, b"", b"header"), self.authenticated, "sha256"), self.mac):
            raise AuthenticationError("age header: wrong MAC")
        return key

    def _find_key(self, identities: Sequence[Identity]) -> bytes:
        if any(stanza.arguments[0] == b"scrypt" for stanza in self.stanzas) and len(self.stanzas) > 1:
            raise FormatError("age header: a passphrase stanza beside others")
        for stanza in self.stanzas:
            if stanza.arguments[0] != b"X25519":
                continue
            for identity in identities:
                key = _unwrap_x25519(stanza, identity)
                if key is not None:
                    return key
        raise NoMatchingIdentityError(
            "the identity opens none of the object's recipients",
            hint="give the identity whose recipient the backup was made for",
        )


def parse_header(start: bytes) -> Header:
    """Parse the header that a file begins with.

    Args:
        start: the file's first bytes, at least the whole header.

    Raises:
        FormatError: it isn't one, to the letter of the specification.
    """
    reader = _Lines(start)
    if reader.line() != _VERSION:
        raise FormatError("age file: not age v1")
    stanzas = []
    while not (line := reader.line()).startswith(b"---"):
        stanzas.append(_parse_stanza(line, reader))
    if not stanzas or not line.startswith(b"--- "):
        raise FormatError("age header: malformed end")
    mac = _base64(line[4:])
    if len(mac) != 32:  # noqa: PLR2004 - HMAC-SHA256
        raise FormatError("age header: malformed MAC")
    return Header(stanzas, mac, start[: reader.line_start + 3], reader.at)


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
        self._cipher = _payload_cipher(header.unwrap(identities), start[header.length : self.payload_offset])

    def ciphertext_range(self, offset: int, length: int, total_plaintext: int) -> tuple[int, int]:
        """Return offset and length, in the stored file, of the segments that cover a range of the plaintext."""
        assert length > 0
        assert offset + length <= total_plaintext
        first, last = offset // SEGMENT, (offset + length - 1) // SEGMENT
        end = min((last + 1) * _STORED, total_plaintext + TAG * -(-total_plaintext // SEGMENT))
        return self.payload_offset + first * _STORED, end - first * _STORED

    def open(self, ciphertext: bytes, offset: int, length: int, total_plaintext: int) -> bytes:
        """Return a range of the plaintext from the segments that `ciphertext_range` named.

        Raises:
            AuthenticationError: a segment was altered, moved or is incomplete; nothing is returned.
        """
        first = offset // SEGMENT
        final = (total_plaintext - 1) // SEGMENT
        plain = b"".join(
            _open_segment(self._cipher, memoryview(ciphertext)[at : at + _STORED], first + n, final=first + n == final)
            for n, at in enumerate(range(0, len(ciphertext), _STORED))
        )
        found = plain[offset - first * SEGMENT :][:length]
        if len(found) != length:
            raise AuthenticationError("age file: ends too early")
        return found


class StreamOpener:
    """A whole age file as a stream of its authenticated plaintext."""

    def __init__(self, reader: Readable, identities: Sequence[Identity]) -> None:
        """Authenticate the header.

        Raises:
            NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
        """
        self._reader = reader
        start = self._fill(b"", 1)
        while b"\n---" not in start and len(start) < _HEADER_AT_MOST:
            more = self._fill(b"", 1)
            if not more:
                break
            start += more
        start = self._fill(start, len(start) + 128)
        header = parse_header(start)
        self.header_length = header.length
        start = self._fill(start, header.length + NONCE)
        if len(start) < header.length + NONCE:
            raise FormatError("age file: ends in its nonce")
        self._cipher = _payload_cipher(header.unwrap(identities), start[header.length : header.length + NONCE])
        self._stored = start[header.length + NONCE :]
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
        self._stored = self._fill(self._stored, _BLOCK + 1)
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

    def _fill(self, data: bytes, size: int) -> bytes:
        parts, total = [data], len(data)
        while total < size and (more := self._reader.read(max(size - total, 1 << 16))):
            parts.append(more)
            total += len(more)
        return b"".join(parts)


def open_stream(reader: Readable, identities: Sequence[Identity]) -> StreamOpener:
    """Return the plaintext stream of the age file in `reader`.

    Raises:
        NoMatchingIdentityError, AuthenticationError, FormatError: as `Header.unwrap`.
    """
    return StreamOpener(reader, identities)


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


def _open_segment(cipher: ChaCha20Poly1305, segment: memoryview, number: int, *, final: bool) -> bytes:
    try:
        return cipher.decrypt(number.to_bytes(11, "big") + (b"\1" if final else b"\0"), segment, None)
    except InvalidTag as exc:
        raise AuthenticationError(f"age file: segment {number} is damaged or not in its place") from exc


def _payload_cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))


def _unwrap_x25519(stanza: Stanza, identity: Identity) -> bytes | None:
    """Return the file key, None if the stanza is for somebody else."""
    if len(stanza.arguments) != 2 or len(stanza.body) != _FILE_KEY + TAG:  # noqa: PLR2004 - kind and share
        raise FormatError("age header: malformed X25519 stanza")
    share = _base64(stanza.arguments[1])
    if len(share) != 32:  # noqa: PLR2004 - a curve point
        raise FormatError("age header: malformed X25519 share")
    try:
        secret = identity.exchange(share)
    except ValueError as exc:
        raise FormatError("age header: X25519 share of low order") from exc
    key = _hkdf(secret, share + identity.public, b"age-encryption.org/v1/X25519")
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    except InvalidTag:
        return None


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt or None, info).derive(secret)


def _parse_stanza(line: bytes, reader: _Lines) -> Stanza:
    if not line.startswith(b"-> "):
        raise FormatError("age header: a line that begins no stanza")
    arguments = line[3:].split(b" ")
    if not all(_ARGUMENT.fullmatch(argument) for argument in arguments):
        raise FormatError("age header: malformed stanza")
    body = b""
    while True:
        row = reader.line()
        if len(row) > _COLUMNS:
            raise FormatError("age header: a stanza's line is too long")
        body += _base64(row)
        if len(row) < _COLUMNS:
            return Stanza(arguments, body)


def _base64(text: bytes) -> bytes:
    """Decode canonical base64 without padding."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise FormatError("age header: malformed base64") from exc
    if b"=" in text or base64.b64encode(data).rstrip(b"=") != text:
        raise FormatError("age header: base64 that is not canonical")
    return data


class _Lines:
    """The lines of a header, each ended by one LF."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.line_start = 0

    def line(self) -> bytes:
        end = self._data.find(b"\n", self.at)
        if end < 0:
            raise FormatError("age header: ends too early")
        self.line_start, self.at = self.at, end + 1
        return self._data[self.line_start : end]
