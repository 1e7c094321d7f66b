"""Luigi's processes, as vaultik needs them: tied to their parent, told of by one shared record.

Luigi forks a process per task when there is more than one worker, hides exceptions from its caller,
and has no way to carry numbers back. The record is an anonymous file in memory, made before the
fork and appended to by all: a line of JSON each. It is read by the process that made it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultik import linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EVERY_S = 0.1
_FORGET_BYTES = 1 << 20
_first_process = os.getpid()
_record: Record | None = None


class Lines:
    """Lines that any of several processes adds and one reads, in the order they came; adding never waits."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("vaultik-record", os.MFD_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)
        self._forgotten = 0
        self.rewind()

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event, atomically."""
        os.write(self._fd, json.dumps(event).encode() + b"\n")

    def rewind(self) -> None:
        """Take everything once more."""
        self._read_to = 0
        self._rest = b""

    def take(self) -> list[dict[str, Any]]:
        """Return the events that came since the last time."""
        events: list[dict[str, Any]] = []
        while block := os.pread(self._fd, 1 << 16, self._read_to):
            self._read_to += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            events.extend(json.loads(line) for line in lines)
        return events

    def forget(self) -> None:
        """Give back the memory of what was taken, now and then: it can't be taken once more."""
        if self._read_to - self._forgotten >= _FORGET_BYTES:
            linux.punch_hole(self._fd, self._forgotten, self._read_to - self._forgotten)
            self._forgotten = self._read_to

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self._fd)


class Record(Lines):
    """What the processes of a run tell the first one."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: Counter[str] = Counter()
        self._pending_pid = os.getpid()
        self._written = 0.0
        global _record  # noqa: PLW0603 - one run at a time
        _record = self

    def add(self, **event: Any) -> None:
        """Append an event, atomically. Numbers are summed up and written a few times a second."""
        if self._pending_pid != os.getpid():
            # What the parent had still to write is the parent's.
            self._pending, self._pending_pid = Counter(), os.getpid()
        if all(isinstance(value, int) for value in event.values()):
            self._pending.update(event)
            if time.monotonic() - self._written < _EVERY_S:
                return
            event = {}
        self.flush()
        if event:
            self.write(event)

    def take(self) -> list[dict[str, Any]]:
        """Return the events that came since the last time; nobody needs them again."""
        events = super().take()
        self.forget()
        return events

    def flush(self) -> None:
        """Write the numbers that are summed up in this process."""
        if self._pending and self._pending_pid == os.getpid():
            self.write(self._pending)
            self._pending = Counter()

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event at once."""
        super().write(event)
        self._written = time.monotonic()


def note_first_process() -> None:
    """Remember the process whose children are workers."""
    global _first_process  # noqa: PLW0603 - one process, one answer
    _first_process = os.getpid()


@contextmanager
def worker_process(_task: Any) -> Iterator[None]:
    """Luigi's task_process_context: a forked worker dies with its parent, so that no orphan goes on sealing."""
    if os.getpid() == _first_process:
        # One worker: the task runs in here.
        with _flushed():
            yield
        return
    # The parent decides what a signal means; a worker just ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    linux.die_with_parent(_first_process)
    with _flushed():
        yield


@contextmanager
def _flushed() -> Iterator[None]:
    """Let nothing that a task counted be left in its process."""
    try:
        yield
    finally:
        if _record is not None:
            _record.flush()
