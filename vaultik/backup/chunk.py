"""ChunkFile: stream one bundle once, from its files to a finished age file in the spool.

    read, cut -> hash, claim (*) -> group into frames -> compress (*) -> encrypt, write

Each arrow is a bounded, ordered stream; (*) on threads where there are more cores than processes; where not,
handing small files from thread to thread would cost a third more. The bytes hashed are the bytes sealed. Only what
nobody has claimed before is compressed; a bundle with nothing new leaves no file. One transaction at the end
records places, contents and attributes; a kill before it costs the bundle's pass, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from vaultik import interrupts
from vaultik.backup import spool
from vaultik.backup.ordered import map_ordered
from vaultik.backup.record import record_slices
from vaultik.core import chunk_table
from vaultik.core.age_seal import Sealed, seal
from vaultik.core.frames import FrameEncoder
from vaultik.index import bundles, chunks
from vaultik.index.chunks import Place
from vaultik.index.db import transaction
from vaultik.model import ChunkId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from vaultik.backup.pieces import RawChunk, Reader
    from vaultik.index.bundles import Slice

FRAME_BYTES = 1 << 20
"""Chunks below this size share a frame of up to about this much plaintext (FORMAT.md, "Blob")."""

_BATCH_CHUNKS = 2048
_AHEAD = 4


class NewChunk(NamedTuple):
    """A chunk that this bundle has to seal."""

    chunk: int
    hash: ChunkId
    data: bytes


class Frame(NamedTuple):
    """A compressed frame and what is in it."""

    data: bytes
    chunks: list[tuple[int, ChunkId, int]]
    """Row id, hash and size of each chunk, in order."""


class BundleSealer:
    """One pass over one bundle."""

    def __init__(
        self,
        index: sqlite3.Connection,
        claims: sqlite3.Connection,
        bundle: int,
        *,
        run: int,
        read: Callable[[Sequence[Slice]], Reader],
        level: int,
        recipients: Sequence[str],
        spool_dir: Path,
        threads: int = 1,
        progress: Callable[[int, int, int], None] = lambda _files, _read, _new: None,
    ) -> None:
        """Prepare the pass.

        Args:
            index: for reading and the final transaction.
            claims: a second connection, for the claims of threads.
            bundle: the bundle's id.
            run: row id of the run that problems are noted for.
            read: makes what the bundle's slices are read by.
            level: zstd level.
            recipients: whom to seal to.
            spool_dir: where the age file goes.
            threads: how many cores this pass may use.
            progress: told of files read, bytes read and new bytes as they come.
        """
        self._index = index
        self._claims = claims
        self._claim_lock = threading.Lock()
        self._bundle = bundle
        self._run = run
        self._recipients = recipients
        self._spool_dir = spool_dir
        self._level = level
        self._threads = threads
        self._progress = progress
        self._encoders = threading.local()
        self._slices = bundles.get_slices(index, bundle)
        self._reader = read(self._slices)
        self._contents: list[list[tuple[int, int]]] = [[] for _ in self._slices]
        self._places: list[Place] = []
        self._table: list[tuple[ChunkId, int]] = []
        self._plaintext_bytes = 0
        self._bytes_read = 0
        self._bytes_new = 0

    def run(self) -> None:
        """Stream the bundle and record it.

        Raises:
            LocalIndexError: the spool failed; nothing is recorded.
            RecipientError: a recipient can't be used.
        """
        chunks.release_claims(self._index, self._bundle)
        path = spool.part_path(self._spool_dir, self._bundle)
        try:
            with interrupts.deferred(), self._pool() as threads:
                sealed = self._seal(path, self._frames(threads))
        finally:
            self._reader.close()
        if self._reader.is_void:
            with spool.spool_errors(self._spool_dir):
                path.unlink(missing_ok=True)
        with transaction(self._index):
            self._record(None if self._reader.is_void else sealed)

    def _pool(self) -> AbstractContextManager[ThreadPoolExecutor | None]:
        return ThreadPoolExecutor(self._threads) if self._threads > 1 else contextlib.nullcontext()

    def _seal(self, path: Path, frames: Iterator[Frame]) -> Sealed | None:
        first = next(frames, None)
        with spool.spool_errors(self._spool_dir):
            path.unlink(missing_ok=True)
            if first is None:
                return None
            with spool.create(path) as file:
                return seal(self._plaintext(chain([first], frames)), file, self._recipients)

    def _plaintext(self, frames: Iterable[Frame]) -> Iterator[bytes]:
        """Yield the blob's plaintext and note where every chunk stands in it."""
        for frame in frames:
            offset = 0
            for chunk, digest, size in frame.chunks:
                self._places.append(Place(self._plaintext_bytes, len(frame.data), offset, chunk))
                self._table.append((digest, size))
                offset += size
            self._plaintext_bytes += len(frame.data)
            yield frame.data
        yield chunk_table.tail(self._plaintext_bytes, self._table)

    def _frames(self, threads: ThreadPoolExecutor | None) -> Iterator[Frame]:
        claimed = map_ordered(threads, self._hash_and_claim, _batches(self._reader.chunks()), _AHEAD)
        return map_ordered(threads, self._encode, self._groups(claimed), _AHEAD)

    def _hash_and_claim(self, batch: list[RawChunk]) -> list[tuple[RawChunk, NewChunk | int]]:
        digests = [ChunkId(hashlib.sha256(raw.data).digest()) for raw in batch]
        with self._claim_lock:
            claims = chunks.claim(
                self._claims, self._bundle, [(d, len(r.data)) for d, r in zip(digests, batch, strict=True)]
            )
        return [
            (raw, NewChunk(claim.chunk, digest, raw.data) if claim.is_new else claim.chunk)
            for raw, digest, claim in zip(batch, digests, claims, strict=True)
        ]

    def _groups(self, claimed: Iterable[list[tuple[RawChunk, NewChunk | int]]]) -> Iterator[list[NewChunk]]:
        """Note every file's chunks, and yield the new ones in groups that make one frame each."""
        group: list[NewChunk] = []
        group_bytes = 0
        for batch in claimed:
            interrupts.check()
            read, new = self._bytes_read, self._bytes_new
            for raw, found in batch:
                self._bytes_read += len(raw.data)
                if isinstance(found, int):
                    self._contents[raw.piece].append((raw.offset, found))
                    continue
                self._contents[raw.piece].append((raw.offset, found.chunk))
                self._bytes_new += len(raw.data)
                if group and group_bytes + len(found.data) > FRAME_BYTES:
                    yield group
                    group, group_bytes = [], 0
                group.append(found)
                group_bytes += len(found.data)
            self._progress(0, self._bytes_read - read, self._bytes_new - new)
        if group:
            yield group

    def _encode(self, group: list[NewChunk]) -> Frame:
        encoder: FrameEncoder | None = getattr(self._encoders, "encoder", None)
        if encoder is None:
            encoder = self._encoders.encoder = FrameEncoder(self._level)
        data = encoder.encode(group[0].data if len(group) == 1 else b"".join(new.data for new in group))
        return Frame(data, [(new.chunk, new.hash, len(new.data)) for new in group])

    def _record(self, sealed: Sealed | None) -> None:
        index, bundle = self._index, self._bundle
        if self._reader.is_void:
            # What others found claimed is read again by mending.
            chunks.release_claims(index, bundle)
        else:
            chunks.place_chunks(index, self._places)
        pieces = [part.piece for part in self._slices]
        bundles.set_chunked(
            index,
            bundle,
            sealed=(sealed.size_bytes, sealed.header_length, sealed.sha256) if sealed else None,
            recipients=self._recipients,
            files=sum(1 for piece in pieces if piece.start == 0),
            bytes_read=self._bytes_read,
            bytes_new=0 if self._reader.is_void else self._bytes_new,
        )
        record_slices(index, self._run, bundle, zip(self._slices, self._reader.outcomes, self._contents, strict=True))
        self._progress(sum(1 for piece in pieces if not piece.cut & bundles.Cut.STOP), 0, 0)


def _batches(raw: Iterable[RawChunk]) -> Iterator[list[RawChunk]]:
    """Group chunks into about a frame's worth: one claim transaction each."""
    batch: list[RawChunk] = []
    size = 0
    for chunk in raw:
        batch.append(chunk)
        size += len(chunk.data)
        if size >= FRAME_BYTES or len(batch) == _BATCH_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
