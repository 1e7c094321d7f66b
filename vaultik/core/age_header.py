"""The header of an age v1 file (C2SP age.md): make one, parse and authenticate one, unwrap its file key.

    header    "age-encryption.org/v1" LF, recipient stanzas, "--- " MAC LF
    stanza    "-> " kind and arguments LF, base64 of the body in lines of 64 columns, the last one shorter

A reader strict to the letter: what isn't canonical is refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vaultik.core.age import TAG
from vaultik.errors import AuthenticationError, FormatError, NoMatchingIdentityError, RecipientError
from vaultik.recipients import public_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultik.core.identity import Identity

_VERSION = b"age-encryption.org/v1"
_FILE_KEY = 16
_COLUMNS = 64
_X25519 = b"age-encryption.org/v1/X25519"
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
        if not hmac.compare_digest(_mac(key, self.authenticated), self.mac):
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


def new_header(recipients: Sequence[str]) -> tuple[bytes, bytes]:
    """Return the header of a new file and its file key, 16 bytes.

    Args:
        recipients: X25519 recipients, at least one.

    Raises:
        RecipientError: a recipient can't be used.
    """
    assert recipients
    file_key = os.urandom(_FILE_KEY)
    text = b"\n".join([_VERSION, *(_wrap_x25519(file_key, recipient) for recipient in recipients), b"---"])
    return text + b" " + _unpadded_base64(_mac(file_key, text)) + b"\n", file_key


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


def _wrap_x25519(file_key: bytes, recipient: str) -> bytes:
    """Return the stanza that gives the file key to a recipient."""
    public = public_key(recipient)
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    try:
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as exc:
        raise RecipientError("recipient: a point of low order, nothing sealed to it would be secret") from exc
    body = ChaCha20Poly1305(_hkdf(secret, share + public, _X25519)).encrypt(bytes(12), file_key, None)
    return b"-> X25519 %s\n%s" % (_unpadded_base64(share), _unpadded_base64(body))


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
    key = _hkdf(secret, share + identity.public, _X25519)
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
    except InvalidTag:
        return None


def payload_cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    """Return the cipher of a file's segments."""
    return ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))


def _mac(file_key: bytes, authenticated: bytes) -> bytes:
    return hmac.digest(_hkdf(file_key, b"", b"header"), authenticated, "sha256")


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869)."""
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


def _unpadded_base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _base64(text: bytes) -> bytes:
    """Decode canonical base64 without padding."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise FormatError("age header: malformed base64") from exc
    if b"=" in text or _unpadded_base64(data) != text:
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
