"""Frames of blobs, decoded and checked, in a cache of bounded size that all readers share.

A frame is fetched once however many readers wait for it. Read-ahead goes by blobs, not by files: a blob holds files in the order
in which a backup walked over them, so that who reads one large file and who reads many small ones in turn look alike. Who goes
on in a blob where the last one stopped has what follows fetched meanwhile, twice as much each time up to 8 MiB.

Nothing leaves that hasn't its hash (`snapshot.fetch` checks each chunk); damage is kept for a while too, so that a kernel which
asks page by page doesn't ask the store as often.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import TYPE_CHECKING

from vaultik.errors import IntegrityError, StoreError, VaultikError
from vaultik.mount.held import Frame, Held, Source, held_of
from vaultik.snapshot.fetch import BlobFetcher, Damage, WantedBlob, WantedChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.model import BlobId
    from vaultik.snapshot.fetch import Opener

LEAST_AHEAD, MOST_AHEAD = 1 << 20, 8 << 20
_NEAR = 256 << 10
"""How far behind the last frame the next one may lie: what `snapshot.fetch` reads over."""
_FETCHERS = 64
_RUNS = 64
_THREADS = 2
_FRAMES_AHEAD, _CHUNKS_AHEAD = 256, 1 << 16
"""So many at once: a stranger's blob may have a million frames of a byte in `MOST_AHEAD`."""


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
        self._held: OrderedDict[tuple[BlobId, int, int], Held] = OrderedDict()
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

    def get(self, frame: Frame, chunk: WantedChunk, source: Source) -> memoryview:
        """Return a chunk's bytes.

        Args:
            frame: the one that holds it.
            chunk: which.
            source: the snapshot, asked for what else is in the frame, and behind it.

        Raises:
            IntegrityError: it is missing or damaged.
            StoreError: the store failed, or refuses it.
        """
        found, is_new = self._find(frame, chunk)
        run = self._find_run(frame, is_new=is_new)
        if run is not None:
            self._fetch_ahead(frame, run, source)
        while found is None:
            found = self._wait_or_fetch(frame, chunk, source)
        if isinstance(found, Damage):
            raise StoreError(found.reason) if found.refused else IntegrityError(found.reason)
        return found

    def _find(self, frame: Frame, chunk: WantedChunk) -> tuple[memoryview | Damage | None, bool]:
        """Return what is known of a chunk, and whether its frame is neither held nor coming."""
        with self._lock:
            held = self._held.get(frame.key)
            found = held.find(chunk) if held else None
            if found is not None:
                self._held.move_to_end(frame.key)
            return found, found is None and frame.key not in self._coming

    def _wait_or_fetch(self, frame: Frame, chunk: WantedChunk, source: Source) -> memoryview | Damage | None:
        with self._lock:
            held = self._held.get(frame.key)
            found = held.find(chunk) if held else None
            coming = self._coming.get(frame.key)
            if found is None and coming is None:
                self._coming[frame.key] = Future()
        if found is not None:
            return found
        if coming is None:
            try:
                chunks = source.chunks(frame, chunk)
            except BaseException:
                self._end([frame])
                raise
            return self._fetch(frame.blob, {frame: chunks})[frame.key].find(chunk)
        # Whoever fetches it: if that fails, or brings what another snapshot wants of it, it is asked for again, by this one.
        coming.result()
        return None

    def _fetch(
        self, blob: WantedBlob, frames: dict[Frame, Sequence[WantedChunk]]
    ) -> dict[tuple[BlobId, int, int], Held]:
        """Fetch frames that are noted as coming, ascending, and hold what comes. Whatever happens, nobody waits for them any more."""
        got = {}
        try:
            chunks = (chunk for wanted in frames.values() for chunk in wanted)
            fetched = self._fetcher(blob).fetch(chunks)
            for place, group in groupby(fetched, key=lambda f: (f.chunk.frame_offset, f.chunk.frame_length)):
                key = (blob.hash, *place)
                got[key] = held_of(group)
                self._hold(key, got[key])
        finally:
            self._end(frames)
        if any(held.damaged for held in got.values()):
            with self._lock:
                # What it found out of the blob may be another way the next time.
                self._fetchers.pop(blob.hash, None)
        return got

    def _end(self, frames: Iterable[Frame]) -> None:
        """Let nobody wait any more for frames that are noted as coming."""
        with self._lock:
            ended = [self._coming.pop(frame.key) for frame in frames if frame.key in self._coming]
        for future in ended:
            future.set_result(None)

    def _hold(self, key: tuple[BlobId, int, int], held: Held) -> None:
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
        """Return what fetches from a blob; those that did last know the header."""
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
        with self._lock:
            for place in self._runs:
                blob, run = place
                if blob == frame.blob.hash and run.begin <= frame.offset <= run.end + _NEAR:
                    self._runs.remove(place)
                    self._runs.append(place)
                    run.window = min(max(2 * run.window, LEAST_AHEAD), MOST_AHEAD, self._limit // 4)
                    run.begin = run.end = max(run.end, frame.end)
                    return run
            if is_new:
                self._runs.append((frame.blob.hash, _Run(frame.end)))
        return None

    def _fetch_ahead(self, frame: Frame, run: _Run, source: Source) -> None:
        ahead = _within(source.iter_frames(frame, run.begin), run.begin + run.window)
        end, left, wanted = run.begin, _CHUNKS_AHEAD, {}
        for one in islice(ahead, _FRAMES_AHEAD):
            end = one.end
            if not self._is_known(one):
                # Asked for here, as the snapshot may be closed later; and before anybody waits for it, as this may fail.
                wanted[one] = source.chunks(one)
                left -= len(wanted[one])
            if left <= 0:
                break
        with self._lock:
            run.end = max(run.end, end)
            wanted = {one: chunks for one, chunks in wanted.items() if one.key not in self._coming}
            for one in wanted:
                self._coming[one.key] = Future()
        if wanted:
            try:
                self._threads.submit(self._fetch_quietly, frame.blob, wanted)
            except BaseException:
                self._end(wanted)
                raise

    def _is_known(self, frame: Frame) -> bool:
        with self._lock:
            return frame.key in self._held or frame.key in self._coming

    def _fetch_quietly(self, blob: WantedBlob, frames: dict[Frame, Sequence[WantedChunk]]) -> None:
        try:
            self._fetch(blob, frames)
        except VaultikError:
            return  # who needs it asks again, and is told


def _within(frames: Iterator[Frame], end: int) -> Iterator[Frame]:
    for frame in frames:
        if frame.offset >= end:
            return
        yield frame
