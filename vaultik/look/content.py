"""What tells one content, and one set of extended attributes, from another: digests of what a snapshot's rows say of them.

Two files of equal digests have equal bytes. Two of different ones may have equal bytes all the same: if they were cut by other
parameters, or if what is a hole in the one is stored zeros in the other.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

_BYTES = 16


def content_digest(chunks: Iterable[tuple[int, bytes]], size: int) -> bytes:
    """Return the digest of a file's content: its chunks' offsets and hashes, in order, and its size. 16 bytes."""
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    for offset, chunk in chunks:
        digest.update(offset.to_bytes(8, "big") + chunk)
    return digest.digest()[:_BYTES]


def find_content(copy: sqlite3.Connection, leader: int, size: int, schema: str = "main") -> bytes:
    """Return the digest of the content of one file.

    Args:
        copy: the copied snapshot.
        leader: id of the entry that carries it (`coalesce(hardlink, id)`).
        size: the file's.
        schema: where the copy is attached.
    """
    query = (
        f"SELECT ec.offset, c.hash FROM {schema}.entry_chunks AS ec JOIN {schema}.chunks AS c ON c.id = ec.chunk"
        " WHERE ec.entry = ? ORDER BY ec.offset"
    )
    return content_digest(copy.execute(query, (leader,)), size)


def find_xattrs(copy: sqlite3.Connection, leader: int, schema: str = "main") -> bytes:
    """Return the digest of an entry's extended attributes; empty if it has none."""
    rows = copy.execute(f"SELECT name, value FROM {schema}.xattrs WHERE entry = ? ORDER BY name", (leader,))
    return xattrs_digest(rows)


def xattrs_digest(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the digest of extended attributes, given by name; empty if there are none."""
    digest = hashlib.sha256()
    is_empty = True
    for part in _framed(rows):
        digest.update(part)
        is_empty = False
    return b"" if is_empty else digest.digest()[:_BYTES]


def _framed(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in rows:
        yield len(name).to_bytes(4, "big") + name + len(value).to_bytes(4, "big") + value
