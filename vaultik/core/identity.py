"""age identities of kind X25519: parse files of them, plain or under a passphrase, make new ones, never show one.

Invariant: no error text, repr or traceback of this module holds a part of an identity.
"""

from __future__ import annotations

import base64
import binascii

import pyrage
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vaultik.errors import IdentityError
from vaultik.recipients import bech32_payload

_PREFIX = "AGE-SECRET-KEY-1"
_AGE = b"age-encryption.org/"
_ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_ARMOR_END = b"-----END AGE ENCRYPTED FILE-----"
_PASSPHRASE = b"age-encryption.org/v1\n-> scrypt "


class Identity:
    """An X25519 identity."""

    def __init__(self, text: str) -> None:
        """Take an identity's text.

        Raises:
            IdentityError: it isn't one.
        """
        try:
            self.recipient = str(pyrage.x25519.Identity.from_str(text).to_public())
        except (pyrage.IdentityError, UnicodeEncodeError):
            raise IdentityError(
                "identity: malformed", hint=f"one is a line of 74 characters that begins with {_PREFIX}"
            ) from None
        self._key = X25519PrivateKey.from_private_bytes(bech32_payload(text))
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"

    def exchange(self, share: bytes) -> bytes:
        """Return the X25519 shared secret with an ephemeral share, 32 bytes.

        Raises:
            ValueError: a point of low order.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey  # noqa: PLC0415 - beside its use

        return self._key.exchange(X25519PublicKey.from_public_bytes(share))


def generate() -> tuple[str, str]:
    """Return a new identity and its recipient, as text."""
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def is_encrypted(data: bytes) -> bool:
    """Tell whether an identity file is itself an age file, binary or armored."""
    return data.lstrip().startswith((_AGE, _ARMOR))


def takes_passphrase(data: bytes) -> bool:
    """Tell whether an encrypted identity file opens with a passphrase, as `age -p` makes it, and not with another key."""
    data = data.strip()
    if data.startswith(_ARMOR):
        try:
            data = base64.b64decode(data.removeprefix(_ARMOR).removesuffix(_ARMOR_END))
        except binascii.Error:
            return False
    return data.startswith(_PASSPHRASE)


def open_identities(data: bytes, passphrase: str) -> bytes:
    """Return the identity file that a passphrase opens.

    Raises:
        IdentityError: it doesn't, or the file is damaged; which, nothing tells.
    """
    try:
        return bytes(pyrage.passphrase.decrypt(data, passphrase))
    except pyrage.DecryptError:
        raise IdentityError(
            "identity: that is not its passphrase, or it is damaged", hint="age -d FILE tries it by hand"
        ) from None


def parse_identities(text: str) -> list[Identity]:
    """Return the identities of an identity file: one per line, comments and blank lines aside.

    Raises:
        IdentityError: a line is none, or there is no identity at all.
    """
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("age1"):
            raise IdentityError(
                f"identity: line {number} is a recipient",
                hint="opening a backup takes the identity (AGE-SECRET-KEY-1...)",
            )
        if not line.upper().startswith(_PREFIX):
            raise IdentityError(
                f"identity: line {number} is no X25519 identity",
                hint="backups are sealed to X25519 recipients, which no SSH key and no plugin opens; "
                "an identity file that one of these opens: --identity <(age -d -i KEY FILE)",
            )
        try:
            found.append(Identity(line))
        except IdentityError as exc:
            raise IdentityError(f"identity: line {number} is malformed", hint=exc.hint) from None
    if not found:
        raise IdentityError("identity: none in it", hint="vaultik keygen -o FILE makes one")
    return found
