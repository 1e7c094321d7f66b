"""Blobs and the rows that say what is in them: every wanted chunk comes once, genuine or with what is wrong."""

import hashlib
import struct

from tests.fuzz.mutation import havoc, pack, unpack
from tests.fuzz.sealing import HEADER, IDENTITIES, seal
from tests.fuzz.targets import frames
from tests.support.memory_store import MemoryStore
from vaultik.core import chunk_table
from vaultik.core.frames import FrameEncoder
from vaultik.core.names import blob_key
from vaultik.errors import VaultikError
from vaultik.snapshot.fetch import BlobFetcher, WantedBlob, WantedChunk, all_of

DOCUMENTED = (VaultikError,)
_ROW = struct.Struct("<32sIQIQ")
_BLOB = struct.Struct("<qqB")
_LARGEST = 2 << 20
_MOST_ROWS = 200


def seeds():
    """What the row of the blob says beyond the truth; rows of chunks; the blob's plaintext."""
    found = []
    for sizes in ([100, 200, 300], [70_000], [1_200_000, 5], []):
        rows, plain = [], b""
        for number, size in enumerate(sizes):
            content = bytes((number + at) % 251 for at in range(size))
            both = FrameEncoder(1).encode(content * 2)
            rows += [
                _ROW.pack(hashlib.sha256(content).digest(), size, len(plain), len(both), offset) for offset in (0, size)
            ]
            plain += both
        plain += chunk_table.tail(len(plain), [])
        found += [pack([_BLOB.pack(0, 0, whole), b"".join(rows), plain]) for whole in (0, 1)]
    return found


def mutate(data, rng):
    parts = (unpack(data, 3) + [b"", b"", b""])[:3]
    match rng.randrange(6):
        case 0:
            parts[0] = havoc(parts[0], rng)
        case 1 | 2:
            parts[1] = havoc(parts[1], rng)
        case 3 if len(parts[1]) >= _ROW.size:
            at = rng.randrange(len(parts[1]) // _ROW.size) * _ROW.size
            row = list(_ROW.unpack_from(parts[1], at))
            field = rng.randrange(1, 5)
            row[field] = rng.choice(
                (0, 1, row[field] + 1, max(0, row[field] - 1), row[field] * 2, 1 << 20, (1 << 31) - 1)
            ) % (1 << 32)
            parts[1] = parts[1][:at] + _ROW.pack(*row) + parts[1][at + _ROW.size * rng.randrange(2) :]
        case _:
            parts[2] = frames.mutate(parts[2], rng)
    return pack(parts)


def target(data):
    facts, rows, plain = (unpack(data, 3) + [b"", b"", b""])[:3]
    size_more, header_more, whole = _BLOB.unpack(facts[: _BLOB.size].ljust(_BLOB.size, b"\0"))
    stored = seal(plain)
    name = hashlib.sha256(stored).digest()
    size = min(max(2, len(stored) + size_more), (1 << 63) - 1)
    header = min(max(1, len(HEADER) + header_more), 1 << 16, size - 1)
    chunks = sorted(_chunks(rows, size), key=lambda chunk: (chunk.frame_offset, chunk.offset))
    fetcher = BlobFetcher(
        MemoryStore(shared={blob_key(name): (stored, 0.0)}), IDENTITIES, WantedBlob(name, size, header)
    )
    reads = all_of(WantedBlob(name, size, header)) if whole % 2 else None
    found = list(fetcher.fetch(iter(chunks), reads))
    assert sorted(fetched.chunk.id for fetched in found) == sorted(chunk.id for chunk in chunks)
    for fetched in found:
        if fetched.damage is None:
            assert hashlib.sha256(fetched.data).digest() == fetched.chunk.hash
            assert len(fetched.data) <= fetched.chunk.size
        else:
            assert not fetched.data


def _chunks(rows, blob_size):
    """Rows as the rules of a snapshot DB let them through; sizes not quite so large."""
    for number, row in enumerate(
        _ROW.iter_unpack(rows[: len(rows) // _ROW.size * _ROW.size][: _MOST_ROWS * _ROW.size])
    ):
        digest, size, frame_offset, frame_length, offset = row
        inside = 1 <= size <= _LARGEST and 1 <= frame_length <= _LARGEST and frame_offset + frame_length <= blob_size
        if inside and (offset == 0 or offset + size <= 1 << 20):
            yield WantedChunk(number, digest, size, frame_offset, frame_length, offset)
