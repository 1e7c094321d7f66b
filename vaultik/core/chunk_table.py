"""The chunk table at the end of a blob: what it holds, if all metadata were lost (FORMAT.md, "Blob").

skippable frame, little endian
0      4     magic 0x184D2A5E
4      4     length of what follows: 8 + 36 n
8      4     version: 1
12     36 n  per chunk, in order: id (32), length (4)
end-4  4     length of the whole frame: 16 + 36 n
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vaultik.core.frames import MAGIC_CHUNK_TABLE, skippable_frame
from vaultik.core.padding import padding_frame
from vaultik.errors import FormatError
from vaultik.model import ChunkId

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
_ROW = struct.Struct("<32sI")
_U32 = struct.Struct("<I")
_FIXED = 16


def encode(chunks: Sequence[tuple[ChunkId, int]]) -> bytes:
    """Return the table of `chunks` (id, length in bytes) as a whole frame."""
    rows = b"".join(_ROW.pack(chunk, size) for chunk, size in chunks)
    return skippable_frame(MAGIC_CHUNK_TABLE, _U32.pack(VERSION) + rows + _U32.pack(len(rows) + _FIXED))


def decode(frame: bytes) -> list[tuple[ChunkId, int]]:
    """Return the rows of a table.

    Raises:
        FormatError: not one whole table of a known version.
    """
    rows, rest = divmod(len(frame) - _FIXED, _ROW.size)
    if rows < 0 or rest or frame[:8] != struct.pack("<II", MAGIC_CHUNK_TABLE, len(frame) - 8):
        raise FormatError("chunk table: not a whole one")
    (version,) = _U32.unpack_from(frame, 8)
    if version != VERSION:
        raise FormatError(f"chunk table: version {version}, this vaultik knows {VERSION}")
    if _U32.unpack_from(frame, len(frame) - 4) != (len(frame),):
        raise FormatError("chunk table: its own length is wrong")
    return [(ChunkId(chunk), size) for chunk, size in _ROW.iter_unpack(frame[12:-4])]


def tail(data_length: int, chunks: Sequence[tuple[ChunkId, int]]) -> bytes:
    """Return what follows a blob's data frames: the padding that makes the whole a Padme size, and the table."""
    table = encode(chunks)
    return padding_frame(data_length + len(table)) + table
