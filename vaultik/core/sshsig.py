"""SSHSIG signatures by ed25519 keys (OpenSSH's PROTOCOL.sshsig), and the files of keys that go with them.

`ssh-keygen -Y verify` checks by hand what is signed here. A signature is kept as the base64 of its bytes, in one line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from vaultik.errors import ConfigError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAGIC = b"SSHSIG"
_VERSION = 1
_KIND = b"ssh-ed25519"
_HASH = b"sha512"
_KEY_BYTES = 32
_OPTION = re.compile(r'([a-z-]+)(?:="((?:[^"\\]|\\.)*)")?(?:,|$)')


class SigningKey:
    """A private key that signs. It is never shown."""

    def __init__(self, text: bytes) -> None:
        """Take an OpenSSH private key.

        Raises:
            ConfigError: it is none, not an ed25519 one, or takes a passphrase.
        """
        hint = "vaultik keygen --signing -o FILE makes one; a host's is /etc/ssh/ssh_host_ed25519_key"
        try:
            key = load_ssh_private_key(text, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError("not an OpenSSH private key without a passphrase", hint=hint) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("not an ed25519 key", hint=hint)
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return f"SigningKey({public_line(self.public)})"

    def sign(self, namespace: str, message: Iterable[bytes]) -> bytes:
        """Return the signature of a message, that comes in pieces, as one line of base64."""
        signature = _string(_KIND) + _string(self._key.sign(_signed(namespace, message)))
        public = _string(_KIND) + _string(self.public)
        head = _MAGIC + struct.pack(">I", _VERSION)
        parts = (public, namespace.encode(), b"", _HASH, signature)
        return base64.b64encode(head + b"".join(map(_string, parts)))


class Signer(NamedTuple):
    """A line of an allowed_signers file."""

    principals: tuple[str, ...]
    """Patterns of names, some with a `!` before them."""
    public: bytes
    namespaces: tuple[str, ...] | None
    """Patterns of what it may sign, None for everything."""

    def is_of(self, name: str, namespace: str) -> bool:
        """Tell whether the key speaks for a name, in a namespace."""
        return _fits(name, self.principals) and (self.namespaces is None or _fits(namespace, self.namespaces))


def generate_signing_key() -> tuple[bytes, bytes]:
    """Return a new private key as OpenSSH writes it, and its public one, 32 bytes."""
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return text, key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def public_line(public: bytes) -> str:
    """Return a public key as authorized_keys and allowed_signers files have it."""
    return f"{_KIND.decode()} {base64.b64encode(_string(_KIND) + _string(public)).decode()}"


def parse_signers(text: str) -> list[Signer]:
    """Return the ed25519 keys of an allowed_signers file (ssh-keygen(1)); keys of other kinds sign nothing here.

    Raises:
        ConfigError: a line is none, has an option that can't be heeded, or there is no ed25519 key at all.
    """
    found = []
    # As OpenSSH reads lines: what else Python takes for their end, or for a space, is a part of them.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        try:
            signer = _parse_line(line)
        except ValueError as exc:
            raise ConfigError(
                f"line {number}: {exc}",
                hint='a line is `HOST ssh-ed25519 AAAA...`, or `* namespaces="..." ssh-ed25519 ...`',
            ) from None
        if signer is not None:
            found.append(signer)
    if not found:
        raise ConfigError("no ssh-ed25519 key in it", hint="vaultik keygen --signing prints the line of a new key")
    return found


def check(
    signatures: Sequence[bytes], namespace: str, message: Iterable[bytes], signers: Sequence[Signer], name: str
) -> Signer:
    """Return which of some signers signed a message in a name.

    Args:
        signatures: base64 lines; those that say nothing to us are passed over.
        namespace: what kind of message it is.
        message: in pieces; read once.
        signers: whom we believe.
        name: in which they must have signed it.

    Raises:
        SignatureError: none did.
    """
    believed = {signer.public: signer for signer in signers if signer.is_of(name, namespace)}
    signed = _signed(namespace, message)
    for line in signatures:
        public, signature = _parse(line, namespace)
        if public in believed and _is_right(public, signature, signed):
            return believed[public]
    if not signatures:
        raise SignatureError("it isn't signed")
    raise SignatureError(f"not signed by anybody who may sign for {name!r}")


def _parse_line(line: str) -> Signer | None:
    principals, _, rest = line.partition(" ")
    rest = rest.strip()
    options = ""
    if not rest.startswith(("ssh-", "ecdsa-", "sk-")):
        options, rest = _split_options(rest)
    namespaces = _namespaces(options)
    kind, _, rest = rest.partition(" ")
    if kind != _KIND.decode():
        if not kind.startswith(("ssh-", "ecdsa-", "sk-")):
            raise ValueError("no key in it")
        return None
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
    except (IndexError, binascii.Error):
        raise ValueError("its key is not base64") from None
    parts = _strings(blob, 2)
    if parts is None or parts[0] != _KIND or len(parts[1]) != _KEY_BYTES or blob != b"".join(map(_string, parts)):
        raise ValueError("its key is no ed25519 key")
    return Signer(tuple(principals.strip('"').split(",")), parts[1], namespaces)


def _split_options(text: str) -> tuple[str, str]:
    """Split options from what follows: at the first space outside of quotes."""
    quoted = False
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == " " and not quoted:
            return text[:at], text[at:].strip()
    raise ValueError("no key in it")


def _namespaces(options: str) -> tuple[str, ...] | None:
    namespaces = None
    at = 0
    while at < len(options):
        shape = _OPTION.match(options, at)
        if shape is None:
            raise ValueError("its options can't be read")
        if shape[1] != "namespaces" or shape[2] is None:
            # Whoever wrote it meant a limit; to pass over it would be to believe more than he did.
            raise ValueError(f"option {shape[1]!r} is not supported")
        if namespaces is not None:
            raise ValueError("namespaces twice")
        namespaces = tuple(shape[2].split(","))
        at = shape.end()
    return namespaces


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern list of OpenSSH's fits: one fits, and none with a `!` before it."""
    fits = False
    for pattern in patterns:
        if _matches(name, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            fits = True
    return fits


def _matches(name: str, pattern: str) -> bool:
    return (
        re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), name, re.DOTALL) is not None
    )


def _signed(namespace: str, message: Iterable[bytes]) -> bytes:
    """Return what is really signed: the namespace and the digest of the message."""
    digest = hashlib.sha512()
    for piece in message:
        digest.update(piece)
    return _MAGIC + b"".join(map(_string, (namespace.encode(), b"", _HASH, digest.digest())))


def _parse(line: bytes, namespace: str) -> tuple[bytes, bytes]:
    """Return public key and signature of a line; empty ones if it is none of our kind."""
    nothing = b"", b""
    try:
        data = base64.b64decode(line, validate=True)
    except binascii.Error:
        return nothing
    head = _MAGIC + struct.pack(">I", _VERSION)
    parts = _strings(data[len(head) :], 5) if data.startswith(head) else None
    if parts is None:
        return nothing
    public, named, _reserved, hashed, signature = parts
    keys, signatures = _strings(public, 2), _strings(signature, 2)
    if named != namespace.encode() or hashed != _HASH or keys is None or signatures is None:
        return nothing
    return (keys[1], signatures[1]) if keys[0] == signatures[0] == _KIND else nothing


def _is_right(public: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes, count: int) -> list[bytes] | None:
    """Return so many strings, if that is all there is."""
    found, at = [], 0
    for _ in range(count):
        if at + 4 > len(data):
            return None
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found if at == len(data) else None
