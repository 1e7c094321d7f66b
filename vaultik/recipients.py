"""Recipients as text: which kind one is, and what is wrong with it. Only X25519 ones can be sealed to."""

from __future__ import annotations

import pyrage

from vaultik.errors import RecipientError
from vaultik.shown import may_be_secret

_SHOWN = 8
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKSUM_CHARS = 6
_OTHER_KINDS = (
    ("ssh-", "an SSH key"),
    ("age1pq1", "a post-quantum recipient"),
    ("age1tag", "a hardware tag"),
)


def check_recipient(text: str) -> str:
    """Return an X25519 recipient as age writes it.

    Raises:
        RecipientError: it isn't one. An identity is named as such; of nothing more than a beginning is shown.
    """
    text = text.strip()
    if text.upper().startswith("AGE-SECRET-KEY-"):
        raise RecipientError(
            "a recipient is expected and an identity (a secret key) was given",
            hint="an identity must not be on this host: give its recipient (age1...), and make a new pair if this one leaked",
        )
    try:
        return str(pyrage.x25519.Recipient.from_str(text))
    except (pyrage.RecipientError, UnicodeEncodeError) as exc:
        # Only now: one in a thousand X25519 recipients begins like another kind.
        kind = next((kind for start, kind in _OTHER_KINDS if text.startswith(start)), None)
        if kind is not None:
            raise RecipientError(
                f"recipient {text[:_SHOWN]}...: {kind}, which is not supported",
                hint="use an X25519 one: vaultik keygen",
            ) from exc
        raise RecipientError(
            f"{_shown(text)}: not an age recipient", hint="one looks like age1ql3z7h..., 62 characters"
        ) from exc


def public_key(recipient: str) -> bytes:
    """Return the public key of an X25519 recipient, 32 bytes.

    Raises:
        RecipientError: it isn't one.
    """
    return bech32_payload(check_recipient(recipient))


def bech32_payload(text: str) -> bytes:
    """Return the bytes of a Bech32 text (BIP 173) whose checksum pyrage has accepted."""
    data = text.strip().lower().rpartition("1")[2][:-_CHECKSUM_CHARS]
    number = 0
    for char in data:
        number = number << 5 | _CHARSET.index(char)
    return (number >> (len(data) * 5) % 8).to_bytes(len(data) * 5 // 8, "big")


def _shown(text: str) -> str:
    if may_be_secret(text) and not text.lower().startswith("age1"):
        return "a recipient (not shown: it may be a secret)"
    return f"recipient {text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}"
