"""Frames of blobs, decoded and checked, in a cache of bounded size that all readers share.

A frame is fetched once however many readers wait for it. Read-ahead goes by blobs, not by files: a blob holds files in the order
in which a backup walked over them, so that who reads one large file and who reads many small ones in turn look alike. Who goes
on in a blob where the last one stopped has what follows fetched meanwhile, twice as much each time up to 8 MiB.

Nothing leaves that hasn't its hash (`snapshot.fetch` checks each chunk); damage is kept for a while too, so that a kernel which
asks page by page doesn't ask the store as often.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import IntegrityError, StoreError, VaultikError
from vaultik.snapshot.fetch import BlobFetcher, WantedBlob, WantedChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.model import BlobId
    from vaultik.snapshot.fetch import Fetched, Opener

    Ahead = Callable[[int], Iterator["Frame"]]
    """Gives a blob's frames from an offset on."""

LEAST_AHEAD, MOST_AHEAD = 1 << 20, 8 << 20
_NEAR = 256 << 10
"""How far behind the last frame the next one may lie: what `snapshot.fetch` reads over."""
_FETCHERS = 64
_RUNS = 64
_THREADS = 2
_DAMAGE_S = 60.0
_DAMAGE_BYTES = 4096


class Frame(NamedTuple):
    """A frame of a blob, and the chunks that are wanted of it, by their offset."""

    blob: WantedBlob
    offset: int
    length: int
    chunks: tuple[WantedChunk, ...]

    @property
    def key(self) -> tuple[BlobId, int, int]:
        """What it is known by, whichever snapshot asks."""
        return self.blob.hash, self.offset, self.length


class _Held(NamedTuple):
    """What came of a frame."""

    chunks: dict[tuple[int, bytes], Fetched]
    """By offset and hash: row ids are a snapshot's own."""
    size: int
    until: float

    def find(self, chunk: WantedChunk) -> Fetched | None:
        """Return a chunk, or why it can't be had; None if it wasn't fetched, or that is long ago."""
        found = self.chunks.get((chunk.offset, chunk.hash))
        return None if found is None or (found.damage and time.monotonic() > self.until) else found


class _Run:
    """Somebody who goes on and on in a blob."""

    def __init__(self, end: int) -> None:
        self.begin = self.end = end
        """Who asks for what lies between these has come to what was read ahead, or to its end."""
        self.window = 0


class FrameCache:
    """Gets chunks, and holds what it has got."""

    def __init__(
        self, store: Opener, identities: Sequence[Identity], limit_bytes: int, others_work: Callable[[], bool]
    ) -> None:
        """Hold nothing yet.

        Args:
            store: where blobs lie.
            identities: those that opened the snapshots.
            limit_bytes: of decoded frames; one that is larger is held alone. What is being fetched comes on top: a frame for
                each reader, and twice `MOST_AHEAD`.
            others_work: tells, after the store refused a blob, whether it still gives other objects.
        """
        self._store = store
        self._identities = identities
        self._limit = limit_bytes
        self._others_work = others_work
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[BlobId, int, int], _Held] = OrderedDict()
        self._coming: dict[tuple[BlobId, int, int], Future[None]] = {}
        self._fetchers: OrderedDict[BlobId, BlobFetcher] = OrderedDict()
        self._runs: deque[tuple[BlobId, _Run]] = deque(maxlen=_RUNS)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ahead")
        self.held_bytes = 0
        """Of the frames that are held."""

    def close(self) -> None:
        """Fetch nothing ahead any more, and hold nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._held.clear()
            self.held_bytes = 0

    def get(self, frame: Frame, chunk: WantedChunk, ahead: Ahead) -> bytes | memoryview:
        """Return a chunk's bytes.

        Args:
            frame: the one that holds it.
            chunk: one of its chunks.
            ahead: gives the blob's frames that may be wanted next.

        Raises:
            IntegrityError: it is missing or damaged.
            StoreError: the store failed, or refuses it.
        """
        found, is_new = self._find(frame, chunk)
        run = self._find_run(frame, is_new=is_new)
        if run is not None:
            self._fetch_ahead(frame.blob, run, ahead)
        if found is None:
            found = self._wait_or_fetch(frame, chunk)
        if found.damage is not None:
            raise StoreError(found.damage.reason) if found.damage.refused else IntegrityError(found.damage.reason)
        return found.data

    def _find(self, frame: Frame, chunk: WantedChunk) -> tuple[Fetched | None, bool]:
        """Return a chunk that is held, and whether its frame is neither held nor coming."""
        with self._lock:
            held = self._held.get(frame.key)
            found = held and held.find(chunk)
            if found:
                self._held.move_to_end(frame.key)
            return found or None, found is None and frame.key not in self._coming

    def _wait_or_fetch(self, frame: Frame, chunk: WantedChunk) -> Fetched:
        while True:
            with self._lock:
                held = self._held.get(frame.key)
                found = held.find(chunk) if held else None
                if found is not None:
                    return found
                coming = self._coming.get(frame.key)
                if coming is None:
                    self._coming[frame.key] = Future()
            if coming is None:
                return self._fetch(frame.blob, [frame])[frame.key].chunks[chunk.offset, chunk.hash]
            # Whoever fetches it: if that fails, or brings what another snapshot wants of it, it is asked for again, by this one.
            coming.exception()

    def _fetch(self, blob: WantedBlob, frames: Sequence[Frame]) -> dict[tuple[BlobId, int, int], _Held]:
        """Fetch frames that are noted as coming, ascending, and hold what comes. Whatever happens, nobody waits for them any more."""
        got = {}
        try:
            chunks = (chunk for frame in frames for chunk in frame.chunks)
            fetched = self._fetcher(blob).fetch(chunks, sum(frame.length for frame in frames))
            for place, group in groupby(fetched, key=lambda f: (f.chunk.frame_offset, f.chunk.frame_length)):
                key = (blob.hash, *place)
                got[key] = _held(group)
                self._hold(key, got[key])
        finally:
            with self._lock:
                ended = [self._coming.pop(frame.key) for frame in frames if frame.key in self._coming]
            for future in ended:
                future.set_result(None)
        return got

    def _hold(self, key: tuple[BlobId, int, int], held: _Held) -> None:
        with self._lock:
            old = self._held.pop(key, None)
            self._held[key] = held
            self.held_bytes += held.size - (old.size if old else 0)
            while self.held_bytes > self._limit and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self.held_bytes -= dropped.size
            future = self._coming.pop(key, None)
        if future is not None:
            future.set_result(None)

    def _fetcher(self, blob: WantedBlob) -> BlobFetcher:
        """Return what fetches from a blob: it knows the header, which needs no second request."""
        with self._lock:
            fetcher = self._fetchers.pop(blob.hash, None) or BlobFetcher(
                self._store, self._identities, blob, self._others_work
            )
            self._fetchers[blob.hash] = fetcher
            if len(self._fetchers) > _FETCHERS:
                self._fetchers.popitem(last=False)
        return fetcher

    def _find_run(self, frame: Frame, *, is_new: bool) -> _Run | None:
        """Return who comes to the end of what was read ahead with this frame, if somebody does; what is next is the caller's."""
        end = frame.offset + frame.length
        with self._lock:
            for place in self._runs:
                blob, run = place
                if blob == frame.blob.hash and run.begin <= frame.offset <= run.end + _NEAR:
                    self._runs.remove(place)
                    self._runs.append(place)
                    run.window = min(max(2 * run.window, LEAST_AHEAD), MOST_AHEAD, self._limit // 4)
                    run.begin = run.end = max(run.end, end)
                    return run
            if is_new:
                self._runs.append((frame.blob.hash, _Run(end)))
        return None

    def _fetch_ahead(self, blob: WantedBlob, run: _Run, ahead: Ahead) -> None:
        start = run.begin
        frames = list(_within(ahead(start), start + run.window))
        with self._lock:
            run.end = max((frame.offset + frame.length for frame in frames), default=start)
            wanted = [frame for frame in frames if frame.key not in self._held and frame.key not in self._coming]
            for frame in wanted:
                self._coming[frame.key] = Future()
        if wanted:
            self._threads.submit(self._fetch_quietly, blob, wanted)

    def _fetch_quietly(self, blob: WantedBlob, frames: Sequence[Frame]) -> None:
        try:
            self._fetch(blob, frames)
        except VaultikError:
            return  # who needs it asks again, and is told


def _within(frames: Iterator[Frame], end: int) -> Iterator[Frame]:
    for frame in frames:
        if frame.offset >= end:
            return
        yield frame


def _held(fetched: Iterable[Fetched]) -> _Held:
    chunks = {(f.chunk.offset, bytes(f.chunk.hash)): f for f in fetched}
    # A chunk is a part of the whole frame, which is what stays in memory.
    whole = {id(f.data.obj): memoryview(f.data.obj).nbytes for f in chunks.values() if isinstance(f.data, memoryview)}
    return _Held(chunks, sum(whole.values()) + _DAMAGE_BYTES * len(chunks), time.monotonic() + _DAMAGE_S)
