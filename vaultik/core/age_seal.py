"""Seal to age recipients (C2SP age.md, v1, binary), segment by segment as the plaintext comes.

Written with `cryptography`, which is several times faster at it than pyrage and lets other threads work meanwhile.
Invariant: what `seal` reports is what was written, or it raises.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.age import NONCE, SEGMENT, segment_nonce
from vaultik.core.age_header import new_header, payload_cipher

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from vaultik.core.age import Writable

_BLOCK = 16 * SEGMENT


class Sealed(NamedTuple):
    """A finished age file."""

    size_bytes: int
    header_length: int
    sha256: bytes


def seal(pieces: Iterable[bytes], writer: Writable, recipients: Sequence[str]) -> Sealed:
    """Encrypt a stream to all recipients as one age file.

    Args:
        pieces: the plaintext, in pieces of any size.
        writer: takes the file.
        recipients: X25519 recipients, at least one.

    Raises:
        Exception: whatever the pieces or the writer raised, as it was.
        RecipientError: a recipient can't be used.
    """
    header, file_key = new_header(recipients)
    nonce = os.urandom(NONCE)
    out = _Output(writer)
    out.write(header + nonce)
    payload = _Payload(payload_cipher(file_key, nonce), out)
    for piece in pieces:
        payload.add(piece)
    payload.finish()
    return Sealed(out.size, len(header), out.digest.digest())


class _Payload:
    """Plaintext on its way into segments; what is left over waits, for the last one is sealed as such."""

    def __init__(self, cipher: ChaCha20Poly1305, out: _Output) -> None:
        self._cipher = cipher
        self._out = out
        self._waiting = bytearray()
        self._segments = 0

    def add(self, piece: bytes) -> None:
        self._waiting += piece
        if len(self._waiting) > _BLOCK:
            whole = (len(self._waiting) - 1) // SEGMENT * SEGMENT
            with memoryview(self._waiting) as view, view[:whole] as plain:
                self._seal(plain, last=False)
            del self._waiting[:whole]

    def finish(self) -> None:
        with memoryview(self._waiting) as plain:
            self._seal(plain, last=True)

    def _seal(self, plain: memoryview, *, last: bool) -> None:
        sealed = []
        for at in range(0, len(plain) or 1, SEGMENT):
            is_final = last and at + SEGMENT >= len(plain)
            nonce = segment_nonce(self._segments, final=is_final)
            sealed.append(self._cipher.encrypt(nonce, plain[at : at + SEGMENT], None))
            self._segments += 1
        self._out.write(b"".join(sealed))


class _Output:
    """Writes all of what it is given, counts and hashes it."""

    def __init__(self, writer: Writable) -> None:
        self._writer = writer
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            taken = self._writer.write(left)
            left = left[len(left) if taken is None else taken :]
        self.size += len(data)
        self.digest.update(data)
