"""Seal to age recipients with pyrage (C2SP age.md, v1, binary): recipients, streams, lengths.

Invariant: what `seal` reports is what was written, or it raises. pyrage forgets a write error in its
last buffer and would report success with bytes missing, so reader and writer are wrapped: the first
exception of either is kept and raised again, and the length is held against the format's formula.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyrage

from vaultik.errors import FormatError
from vaultik.recipients import check_recipient

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Readable", "Sealed", "Writable", "check_recipient", "header_length", "seal", "sealed_size"]

SEGMENT = 64 * 1024
NONCE = 16
TAG = 16
_VERSION = b"age-encryption.org/v1\n"
_HEADER_START = 1 << 16


class Readable(Protocol):
    """Something with a file's `read`."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


class Writable(Protocol):
    """Something with a file's `write`."""

    def write(self, data: bytes, /) -> int | None:
        """Write bytes; the number of those taken, as a raw file does."""
        ...


class Sealed(NamedTuple):
    """A finished age file."""

    size_bytes: int
    header_length: int
    plaintext_bytes: int
    sha256: bytes


def seal(reader: Readable, writer: Writable, recipients: Sequence[str]) -> Sealed:
    """Encrypt a stream to all recipients as one age file.

    Args:
        reader: the plaintext.
        writer: takes the file.
        recipients: X25519 recipients, at least one.

    Raises:
        Exception: whatever the reader or the writer raised first, as it was.
        OSError: the file is not as long as its plaintext demands.
        RecipientError: a recipient can't be used.
    """
    assert recipients
    source, target = _Source(reader), _Target(writer)
    keys = [pyrage.x25519.Recipient.from_str(check_recipient(text)) for text in recipients]
    try:
        pyrage.encrypt_io(source, target, keys)
    except Exception:
        if source.failure is None and target.failure is None:
            raise
    failure = source.failure or target.failure
    if failure is not None:
        raise failure
    length = header_length(target.start)
    if target.size != sealed_size(length, source.size):
        raise OSError(f"age file: {target.size} bytes were written instead of {sealed_size(length, source.size)}")
    return Sealed(target.size, length, source.size, target.digest.digest())


def sealed_size(header_length: int, plaintext: int) -> int:
    """Return the length of an age file: header, nonce, and a tag for each segment of 64 KiB, at least one."""
    return header_length + NONCE + plaintext + TAG * max(1, -(-plaintext // SEGMENT))


def header_length(start: bytes) -> int:
    """Return the length of the header that a file's first bytes hold, its last newline included.

    Raises:
        FormatError: no age v1 header, or more of it than the bytes given.
    """
    mac = start.find(b"\n--- ")
    end = start.find(b"\n", mac + 1)
    if not start.startswith(_VERSION) or mac < 0 or end < 0:
        raise FormatError("age file: no whole header")
    return end + 1


class _Source:
    """Counts what is read, and keeps the first exception."""

    def __init__(self, reader: Readable) -> None:
        self._reader = reader
        self.size = 0
        self.failure: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._reader.read(size)
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        self.size += len(data)
        return data


class _Target:
    """Writes all of what it is given, counts and hashes it, and keeps the first exception."""

    def __init__(self, writer: Writable) -> None:
        self._writer = writer
        self.size = 0
        self.digest = hashlib.sha256()
        self.start = b""
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            if self.failure is not None:
                raise self.failure
            at = 0
            while at < len(data):
                taken = self._writer.write(data[at:] if at else data)
                at += len(data) - at if taken is None else taken
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        self.size += len(data)
        self.digest.update(data)
        if len(self.start) < _HEADER_START:
            self.start += data[: _HEADER_START - len(self.start)]
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""
