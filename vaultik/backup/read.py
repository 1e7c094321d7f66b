"""Read the pieces of a bundle from the source: open, fstat, read, fstat, cut into chunks.

It knows files and FastCDC, not what becomes of a chunk. Guarantees: no symlink is followed, nothing
but a regular file is read, never more than the fstat before reading promised; the bytes of a chunk
are handed out once, so that whatever is hashed is what is sealed.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import time
from typing import TYPE_CHECKING

from vaultik.backup import attributes
from vaultik.backup.pieces import Outcome, RawChunk
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.index import bundles, entries
from vaultik.index.bundles import Cut, Piece, Slice

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Iterator, Sequence

    from vaultik.core.chunker import Chunker

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LEASE_S = 50
"""Longer than the kernel lets the holder of a lease take (lease-break-time, 45 s)."""
_LEASE_POLL_S = 0.02
_RACY_NS = 2_000_000_000
"""A file written this shortly before the scan may change again within its file system's clock tick."""
_TICK_NS = 50_000_000
"""The kernel's own times are no coarser than this, and nobody can set a ctime."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)
"""What stands there is no regular file any more: nothing, or a symlink, a socket, a device."""


class BundleReader:
    """Reads the pieces of one bundle, one after the other."""

    def __init__(
        self, index: sqlite3.Connection, slices: Sequence[Slice], chunker: Chunker, *, started: float, largest: int
    ) -> None:
        """Prepare to read.

        Args:
            index: for names and boundaries.
            slices: what to read.
            chunker: where to cut.
            started: when the scan began, by this machine's clock.
            largest: bytes that are read of one file as a whole.
        """
        self._largest = largest
        self._index = index
        self._slices = slices
        self._chunker = chunker
        self._racy_ns = int(started * 1e9) - _RACY_NS
        self._root_fd = os.open(b"/", OPEN_DIRECTORY)
        self._cache = DirectoryCache(entries.ROOT, self._root_fd, self._lookup)
        self._buffer = bytearray()
        self._read_to = 0
        self.outcomes: list[Outcome] = []
        self.is_void = False

    def close(self) -> None:
        """Close every descriptor."""
        self._cache.close()
        os.close(self._root_fd)

    def chunks(self) -> Iterator[RawChunk]:
        """Yield the chunks of all pieces, in order; afterwards `outcomes` has one entry per piece."""
        for number, part in enumerate(self._slices):
            outcome = Outcome(None)
            try:
                fd = self._open(part.parent, part.name)
            except OSError as exc:
                reason = None if exc.errno in _GONE else exc.strerror or str(exc)
                self.outcomes.append(Outcome(None, reason=reason))
                continue
            try:
                outcome = yield from self._piece(number, part.piece, fd)
            except OSError as exc:
                outcome = Outcome(None, reason=exc.strerror or str(exc))
            finally:
                os.close(fd)
            self.outcomes.append(outcome)

    def _lookup(self, entry: int) -> tuple[int, bytes]:
        return entries.parent_and_name(self._index, entry)

    def _open(self, parent: int, name: bytes) -> int:
        directory = self._cache.open(parent)
        deadline = time.monotonic() + _LEASE_S
        flags = _OPEN_FILE | os.O_NOATIME
        while True:
            try:
                return os.open(name, flags, dir_fd=directory)
            except PermissionError:
                # O_NOATIME is the owner's and root's only.
                if not flags & os.O_NOATIME:
                    raise
                flags = _OPEN_FILE
            except BlockingIOError:
                # Under a lease (a file server's): trying to open it tells the holder to let go.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LEASE_POLL_S)

    def _piece(self, number: int, piece: Piece, fd: int) -> Generator[RawChunk, None, Outcome]:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return Outcome(None)
        # The row knows the mount from the scan.
        found = attributes.of_descriptor(fd, before, mount=0)
        if piece.stop is None and before.st_size > self._largest:
            return Outcome(found, grown=True)
        if piece.stop is None:
            yield from self._whole(number, fd, before)
            size = self._read_to
            short = size < before.st_size
        else:
            has_holes = _may_have_holes(before)
            start, stop = self._settle(piece, fd, has_holes=has_holes)
            self._read_to = start
            for begin, end in _data_ranges(fd, start, stop) if has_holes else [(start, stop)]:
                yield from self._range(number, fd, begin, end)
            size, short = before.st_size, False
        changed = short or _differs(before, os.fstat(fd))
        return Outcome(found._replace(size=size), changed=changed, again=self._is_racy(before))

    def _is_racy(self, before: os.stat_result) -> bool:
        """Tell whether the file may change once more without its times telling."""
        return before.st_mtime_ns >= self._racy_ns or before.st_ctime_ns >= time.time_ns() - _TICK_NS

    def _whole(self, number: int, fd: int, st: os.stat_result) -> Iterator[RawChunk]:
        """Read a file from its beginning to the size that its stat gives; `_read_to` is where it ended."""
        self._read_to = st.st_size
        ranges = data_ranges(fd, st.st_size) if _may_have_holes(st) else [(0, st.st_size)]
        for begin, end in ranges:
            reached = yield from self._range(number, fd, begin, end)
            if reached < end:
                self._read_to = reached
                return

    def _range(self, number: int, fd: int, begin: int, end: int) -> Generator[RawChunk, None, int]:
        """Read and cut [begin, end). Returns where the data ended."""
        if end - begin <= self._chunker.minimum:
            data = _read_fully(fd, begin, end - begin)
            if data:
                yield RawChunk(number, begin, data)
            return begin + len(data)
        # Twice the longest chunk: one more can always be cut before the rest has to be moved.
        size = min(end - begin, 2 * self._chunker.maximum)
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        filled, at = 0, begin
        while True:
            filled += _read_into(fd, view[filled : end - at], at + filled)
            final = at + filled >= end or filled < size
            used = 0
            for length in self._chunker.cut(view[:filled], final=final):
                yield RawChunk(number, at + used, bytes(view[used : used + length]))
                used += length
            at += used
            if final:
                return at
            filled -= used
            view[:filled] = bytes(view[used : used + filled])

    def _settle(self, piece: Piece, fd: int, *, has_holes: bool) -> tuple[int, int]:
        """Return where an extent really begins and ends."""
        assert piece.stop is not None
        settled = functools.partial(self._boundary, piece, fd=fd, has_holes=has_holes)
        start = settled(piece.start) if piece.cut & Cut.START else piece.start
        stop = settled(piece.stop) if piece.cut & Cut.STOP else piece.stop
        return start, stop

    def _boundary(self, piece: Piece, nominal: int, *, fd: int, has_holes: bool) -> int:
        assert piece.range_stop is not None
        known = bundles.find_boundary(self._index, piece.entry, nominal)
        if known is not None:
            return known
        longest = self._chunker.maximum
        begin = max(0, nominal - longest)
        # Not into the hole that followed when this was planned, filled or not: behind it is another range of the plan.
        end = min(nominal + longest, piece.range_stop)
        if has_holes:
            end = min(end, _data_end(fd, nominal))
        data = _read_fully(fd, begin, end - begin)
        cut = begin + self._chunker.first_cut_at_or_after(data, nominal - begin)
        return bundles.agree_boundary(self._index, piece.entry, nominal, max(cut, nominal))


def find_data_ranges(index: sqlite3.Connection, entry: int, size: int) -> list[tuple[int, int]] | None:
    """Return the data ranges of an entry's file as it is now; None if it can't be opened."""
    root = os.open(b"/", OPEN_DIRECTORY)
    cache = DirectoryCache(entries.ROOT, root, lambda at: entries.parent_and_name(index, at))
    try:
        parent, name = entries.parent_and_name(index, entry)
        fd = os.open(name, _OPEN_FILE, dir_fd=cache.open(parent))
    except OSError:
        return None
    finally:
        cache.close()
        os.close(root)
    try:
        return data_ranges(fd, size)
    finally:
        os.close(fd)


def _may_have_holes(st: os.stat_result) -> bool:
    """Tell whether it is worth asking: a file system may have to walk the whole file to find none."""
    return st.st_blocks * 512 < st.st_size


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """Return the (start, stop) of a file's data, ascending; what lies between is a hole."""
    return list(_data_ranges(fd, 0, size))


def _data_ranges(fd: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < stop:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole is left
                return
            if exc.errno != errno.EINVAL:  # EINVAL: the file system doesn't know holes
                raise
            yield at, stop
            return
        if begin >= stop:
            return
        at = min(_data_end(fd, begin), stop)
        if at > begin:
            yield begin, at
        else:
            return  # cut off meanwhile


def _data_end(fd: int, offset: int) -> int:
    """Return where the data at an offset ends: a hole, or the end of the file; the offset itself if there is none."""
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return offset


def _differs(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _read_fully(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    while 0 < len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    filled = 0
    while filled < len(view):
        got = os.preadv(fd, [view[filled:]], offset + filled)
        if got == 0:
            break
        filled += got
    return filled
