"""How fast bytes may leave this host: one limit for all processes and threads of a run, by the time of day.

Theory: what is shared is a single time, at which all that was let through so far will have been due at the
limit's rate. Who wants to send adds its own share to it, in one step under a lock, and then waits for the
time, holding nothing. The time may lag half a second behind the clock, so that what is lost by waiting
for disks and answers is caught up with, and no more than that ever comes in a burst.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from vaultik import interrupts

if TYPE_CHECKING:
    from vaultik.config.values import UploadLimit

_CATCH_UP_S = 0.5
_TICK_S = 0.2
_BLOCK = 1 << 14
_LEAST = 1 << 10
_DUE = struct.Struct("d")


class Pace:
    """A limit, made before the processes that share it are forked."""

    def __init__(self, limit: UploadLimit) -> None:
        """Make it."""
        self._limit = limit
        self._due = mmap.mmap(-1, _DUE.size)
        # A record lock, which goes with the process that holds it; threads of one process need another.
        self._lock_fd = os.memfd_create("vaultik-pace", os.MFD_CLOEXEC)
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        """Return when so many more bytes may have been sent; signals end the wait."""
        rate = self._rate()
        if rate is None:
            return
        due = self._add(size_bytes / rate)
        # Another time of day may have begun meanwhile: then what was still due by this one isn't any more.
        while (left_s := due - time.monotonic()) > 0 and self._rate() == rate:
            interrupts.check()
            time.sleep(min(left_s, _TICK_S))

    def most(self) -> int:
        """Return how many bytes may be taken together without a long silence: some servers break off then."""
        rate = self._rate()
        return _BLOCK if rate is None else min(_BLOCK, max(_LEAST, int(rate * _TICK_S)))

    def close(self) -> None:
        """Let go of what is shared, in this process."""
        self._due.close()
        os.close(self._lock_fd)

    def _rate(self) -> int | None:
        now = time.localtime()
        return self._limit.rate_at(now.tm_hour * 60 + now.tm_min)

    def _add(self, seconds: float) -> float:
        """Add to the time that all has been due by. Returns when the caller's part is."""
        with interrupts.deferred(), self._lock:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            try:
                (due,) = _DUE.unpack_from(self._due)
                now = time.monotonic()
                due = max(due or now, now - _CATCH_UP_S) + seconds
                _DUE.pack_into(self._due, 0, due)
            finally:
                fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)
        return float(due)


class PacedBody:
    """A body that a connection reads no faster than it may send."""

    def __init__(self, body: Any, pace: Pace) -> None:
        self._body = io.BytesIO(body) if isinstance(body, bytes | bytearray) else body
        self._pace = pace

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that is left when negative) when they may be sent; b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        data: bytes = self._body.read(min(size, self._pace.most()))
        self._pace.take(len(data))
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place, for another try."""
        return int(self._body.seek(offset, whence))

    def tell(self) -> int:
        """Return the place."""
        return int(self._body.tell())
