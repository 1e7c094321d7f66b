"""age files with a file key and a header that are always the same: what is fuzzed lies behind them."""

import base64

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from vaultik.core.age import NONCE, SEGMENT, TAG, segment_nonce
from vaultik.core.age_header import _hkdf, _mac, payload_cipher
from vaultik.core.identity import parse_identities

IDENTITY = "AGE-SECRET-KEY-10LRM9PSFEMKWX6PDMY0FNH30Q4T84FU7TZVTQK300QLJTPHJ6R3QMJMEZS"
"""A throwaway that opens nothing else."""
IDENTITIES = parse_identities(IDENTITY)
FILE_KEY = bytes(range(16))
STORED = SEGMENT + TAG
CIPHER = payload_cipher(FILE_KEY, bytes(NONCE))


def stanza(number, public=IDENTITIES[0].public):
    """A recipient's wrap of the file key; the ephemeral key is made of the number."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey  # noqa: PLC0415 - beside its use

    ephemeral = X25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)
    share = ephemeral.public_key().public_bytes_raw()
    secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    key = _hkdf(secret, share + public, b"age-encryption.org/v1/X25519")
    body = ChaCha20Poly1305(key).encrypt(bytes(12), FILE_KEY, None)
    return b"-> X25519 " + unpadded(share) + b"\n" + unpadded(body) + b"\n"


def header(*stanzas):
    """A header of these stanzas with the MAC that they need."""
    text = b"age-encryption.org/v1\n" + b"".join(stanzas) + b"---"
    return text + b" " + unpadded(_mac(FILE_KEY, text)) + b"\n"


def with_mac(data):
    """Bytes with the MAC that what stands before them needs, if there is a place for one."""
    text, dashes, _ = data.partition(b"---")
    return text + dashes + b" " + unpadded(_mac(FILE_KEY, text + dashes)) + b"\n" if dashes else data


def segments(plain):
    """The sealed segments of a plaintext."""
    pieces = [plain[at : at + SEGMENT] for at in range(0, len(plain) or 1, SEGMENT)]
    return [encrypt(piece, number, final=number == len(pieces) - 1) for number, piece in enumerate(pieces)]


def encrypt(piece, number, *, final):
    return CIPHER.encrypt(segment_nonce(number, final=final), piece, None)


def seal(plain):
    """A whole file."""
    return HEADER + bytes(NONCE) + b"".join(segments(plain))


def unpadded(data):
    return base64.b64encode(data).rstrip(b"=")


HEADER = header(stanza(0))
