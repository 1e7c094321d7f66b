"""The kernel's inotify through pyinotify's binding; the one door to it.

pyinotify's WatchManager and Notifier are not used: they hold a Python path and object per watch, take
only names that are UTF-8, and lose a whole batch of events with one that isn't. Names here are bytes, a
watch is placed on an open directory, whatever its path is meanwhile, and what is read is all that was
pending. One instance belongs to one process.
"""

from __future__ import annotations

import array
import errno
import fcntl
import functools
import os
import struct
import termios
import warnings
from typing import TYPE_CHECKING, NamedTuple

with warnings.catch_warnings():
    # Of asyncore, which pyinotify imports and nothing here uses.
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

APPEARED = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO
"""A name stands in the directory that did not before."""
WENT = pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM
"""A name is gone from the directory."""
ATTRIBUTES = pyinotify.IN_ATTRIB
"""Of the directory itself, or of what stands under a name in it: mode, owner, times, xattrs, number of links."""
WRITTEN = pyinotify.IN_MODIFY | pyinotify.IN_CLOSE_WRITE
ENTRIES = APPEARED | WENT | ATTRIBUTES | WRITTEN
"""Everything that changes what a backup holds."""
SELF = pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF
"""The directory itself was removed or renamed."""
ENDED = SELF | pyinotify.IN_UNMOUNT | pyinotify.IN_IGNORED
"""The watch is at its end, or not where it was. (The latter two come unasked.)"""
OVERFLOW = pyinotify.IN_Q_OVERFLOW
IS_DIRECTORY = pyinotify.IN_ISDIR

_HEADER = struct.Struct("iIII")
_BLOCK = 1 << 16


class Event(NamedTuple):
    """Something happened to a watched directory, or to `name` in it if that isn't empty."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """One inotify instance."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: EMFILE if this user may have no more of them, or this process no more descriptors.
        """
        self._binding = _binding()
        self.fd: int = self._binding.inotify_init()
        if self.fd < 0:
            raise self._error()
        os.set_inheritable(self.fd, False)  # noqa: FBT003 - so it is called
        os.set_blocking(self.fd, False)

    def add(self, directory: int, mask: int) -> int:
        """Watch an open directory. Returns the watch's number, the one it has if it is watched already.

        Raises:
            OSError: ENOSPC if this user may have no more watches, EACCES if it may not be read.
        """
        watch: int = self._binding.inotify_add_watch(self.fd, f"/proc/self/fd/{directory}", mask)
        if watch < 0:
            raise self._error()
        return watch

    def remove(self, watch: int) -> None:
        """Watch no longer; a watch that is gone already is no error."""
        self._binding.inotify_rm_watch(self.fd, watch)

    def read(self) -> Iterator[Event]:
        """Take the events that are pending now, in their order; what comes meanwhile is left for the next time."""
        pending = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, pending)
        left = pending[0]
        while left > 0:
            try:
                data = os.read(self.fd, _BLOCK)
            except BlockingIOError:
                return
            left -= len(data)
            yield from _parse(data)

    def close(self) -> None:
        """Close it; its watches go with it."""
        os.close(self.fd)

    def _error(self) -> OSError:
        number = self._binding.get_errno() or errno.EIO
        return OSError(number, os.strerror(number))


def limit(name: str) -> int:
    """Return one of the kernel's limits: max_user_watches, max_user_instances or max_queued_events."""
    return int(getattr(pyinotify, name).value)


@functools.cache
def _binding() -> Any:
    return pyinotify.INotifyWrapper.create()


def _parse(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        yield Event(watch, mask, data[at : at + length].rstrip(b"\0"))
        at += length
