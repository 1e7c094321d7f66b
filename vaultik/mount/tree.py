"""One copied snapshot, asked what a kernel asks: names, attributes, which frame holds the bytes at an offset.

Every rule of FORMAT.md holds in the copy (`snapshot.read`). Several threads may ask; SQLite gets one question at a time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.model import BlobId, ChunkId
from vaultik.mount.held import Frame
from vaultik.snapshot.fetch import WantedBlob, WantedChunk
from vaultik.snapshot.read import get_meta
from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SECTOR = 512
_COLUMNS = "id, name, type, mode, uid, gid, size, mtime_ns, ctime_ns, link_target, rdev, hardlink, marks"
_CHUNK = "c.id, c.hash, c.size, c.frame_offset, c.frame_length, c.offset"
_REMEMBERED = 1024
_CHUNKS_OF_A_FRAME = 4096
"""A frame of 1 MiB has far fewer; a stranger's may say otherwise."""
_SCHEMA = "CREATE INDEX entries_by_hardlink ON entries (hardlink) WHERE hardlink IS NOT NULL"


class Node(NamedTuple):
    """An entry's row."""

    id: int
    name: bytes
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    link_target: bytes | None
    rdev: int | None
    hardlink: int | None
    marks: int

    @property
    def content(self) -> int:
        """The entry that carries this one's content and xattrs."""
        return self.hardlink or self.id


class Piece(NamedTuple):
    """A chunk of a file, and where it is stored."""

    at: int
    """In the file. Bytes."""
    chunk: WantedChunk
    frame: Frame


class SnapshotTree:
    """A copied snapshot."""

    def __init__(self, copy: Path) -> None:
        """Open a copy, which has no name any more from then on: whatever ends this process leaves nothing of it.

        Raises:
            sqlite3.Error: its disk is full.
        """
        with closing(sqlite3.connect(copy, isolation_level=None)) as own:
            own.execute("PRAGMA synchronous = OFF")
            own.execute(_SCHEMA)
        self._db = sqlite3.connect(
            f"{copy.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA cache_size = -8192")
        self.meta = get_meta(self._db)
        copy.unlink()
        self._lock = threading.Lock()
        self._directories: OrderedDict[tuple[bytes, ...], int] = OrderedDict()
        self._covered: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def find(self, names: Sequence[bytes]) -> Node | None:
        """Return the entry at a path of names below `/`; None if there is none."""
        if not names:
            return self.get(ROOT)
        parent = self._directory(tuple(names[:-1]))
        found = parent and self._rows(
            f"SELECT {_COLUMNS} FROM entries WHERE parent = ? AND name = ?", parent, names[-1]
        )
        return Node._make(found[0]) if found else None

    def get(self, entry: int) -> Node:
        """Return an entry by its id."""
        return Node._make(self._rows(f"SELECT {_COLUMNS} FROM entries WHERE id = ?", entry)[0])

    def children(self, directory: int) -> list[tuple[bytes, str, int]]:
        """Return name, type and content of what a directory holds, by name."""
        query = "SELECT name, type, coalesce(hardlink, id) FROM entries WHERE parent = ? ORDER BY name"
        return self._rows(query, directory)

    def links(self, node: Node) -> int:
        """Return how many names of the snapshot an entry that is no directory has."""
        if node.hardlink is None:
            return 1
        count: int = self._rows("SELECT count(*) FROM entries WHERE hardlink = ?", node.hardlink)[0][0]
        return count

    def covered_bytes(self, node: Node) -> int:
        """Return how much of a file isn't hole."""
        with self._lock:
            known = self._covered.get(node.content)
        if known is None:
            query = (
                "SELECT total(c.size) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ?"
            )
            known = int(self._rows(query, node.content)[0][0])
            self._remember(self._covered, node.content, known)
        return known

    def xattr_names(self, node: Node) -> list[bytes]:
        """Return the names of an entry's extended attributes, ACLs among them."""
        return [name for (name,) in self._rows("SELECT name FROM xattrs WHERE entry = ? ORDER BY name", node.content)]

    def find_xattr(self, node: Node, name: bytes) -> bytes | None:
        """Return an extended attribute."""
        found = self._rows("SELECT value FROM xattrs WHERE entry = ? AND name = ?", node.content, name)
        return found[0][0] if found else None

    def pieces(self, content: int, offset: int, end: int) -> list[Piece]:
        """Return the chunks that cover a range of a file, as far as any do; what lies between them is hole."""
        rows = self._rows(
            f"SELECT ec.offset, c.blob, b.hash, b.size, b.header_length, {_CHUNK} FROM entry_chunks AS ec"
            " JOIN chunks AS c ON c.id = ec.chunk JOIN blobs AS b ON b.id = c.blob WHERE ec.entry = ?1"
            " AND ec.offset >= coalesce((SELECT max(offset) FROM entry_chunks WHERE entry = ?1 AND offset <= ?2), 0)"
            " AND ec.offset < ?3 AND ec.offset + c.size > ?2 ORDER BY ec.offset",
            content,
            offset,
            end,
        )
        return [_piece(row) for row in rows]

    def find_data(self, content: int, offset: int) -> int | None:
        """Return the first offset, from one on, at which a file has data; None if there is none any more."""
        if self.pieces(content, offset, offset + 1):
            return offset
        found: int | None = self._rows(
            "SELECT min(offset) FROM entry_chunks WHERE entry = ? AND offset > ?", content, offset
        )[0][0]
        return found

    def get_hole(self, node: Node, offset: int) -> int:
        """Return the first offset, from one on, at which a file has a hole; its end counts as one."""
        if not (covering := self.pieces(node.content, offset, offset + 1)):
            return offset
        end: int = self._rows(
            "SELECT min(ec.offset + c.size) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ?1"
            " AND ec.offset >= ?2 AND NOT EXISTS (SELECT 1 FROM entry_chunks AS n WHERE n.entry = ?1 AND n.offset = ec.offset + c.size)",
            node.content,
            covering[0].at,
        )[0][0]
        return end

    def chunks(self, frame: Frame, chunk: WantedChunk | None = None) -> Sequence[WantedChunk]:
        """Return what the snapshot has in a frame, `chunk` in any case, by offset."""
        query = (
            f"SELECT {_CHUNK} FROM chunks AS c WHERE c.blob = ? AND c.frame_offset = ? AND c.frame_length = ?"
            " ORDER BY c.offset LIMIT ?"
        )
        found = [_chunk(row) for row in self._rows(query, frame.row, frame.offset, frame.length, _CHUNKS_OF_A_FRAME)]
        return found if chunk is None or chunk in found else [chunk]

    def iter_frames(self, blob: Frame, offset: int) -> Iterator[Frame]:
        """Yield the frames of a frame's blob that the snapshot needs something of, from an offset on."""
        query = (
            "SELECT frame_offset, frame_length FROM chunks WHERE blob = ? AND frame_offset >= ? ORDER BY 1, 2 LIMIT 1"
        )
        while found := self._rows(query, blob.row, offset):
            at, length = found[0]
            yield blob._replace(offset=at, length=length)
            offset = at + length

    def _directory(self, names: tuple[bytes, ...]) -> int | None:
        """Return the id of what lies at a path, from the deepest directory on the way on that is remembered."""
        with self._lock:
            depth = next((n for n in range(len(names), 0, -1) if names[:n] in self._directories), 0)
            at = self._directories[names[:depth]] if depth else ROOT
        for name in names[depth:]:
            found = self._rows("SELECT id FROM entries WHERE parent = ? AND name = ?", at, name)
            if not found:
                return None
            at = found[0][0]
        if names:
            self._remember(self._directories, names, at)
        return at

    def _remember(self, where: OrderedDict[Any, int], key: Any, value: int) -> None:
        with self._lock:
            where[key] = value
            if len(where) > _REMEMBERED:
                where.popitem(last=False)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


def _piece(row: Sequence[Any]) -> Piece:
    at, blob, digest, size, header_length, *columns = row
    chunk = _chunk(columns)
    of = WantedBlob(BlobId(digest), size, header_length)
    return Piece(at, chunk, Frame(of, blob, chunk.frame_offset, chunk.frame_length))


def _chunk(columns: Sequence[Any]) -> WantedChunk:
    number, digest, size, frame_offset, frame_length, offset = columns
    return WantedChunk(number, ChunkId(digest), size, frame_offset, frame_length, offset)
