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
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultik import interrupts, linux

if TYPE_CHECKING:
    from collections.abc import Iterator

_first_process = os.getpid()


class Record:
    """Lines that any process of a run adds and the first one reads, in the order they came."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("vaultik-record", os.MFD_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)
        self._read_to = 0
        self._rest = b""

    def add(self, **event: Any) -> None:
        """Append an event, atomically."""
        os.write(self._fd, json.dumps(event).encode() + b"\n")

    def take(self) -> list[dict[str, Any]]:
        """Return the events that came since the last time."""
        events: list[dict[str, Any]] = []
        while block := os.pread(self._fd, 1 << 16, self._read_to):
            self._read_to += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            events.extend(json.loads(line) for line in lines)
        return events

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self._fd)


def note_first_process() -> None:
    """Remember the process whose children are workers."""
    global _first_process  # noqa: PLW0603 - one process, one answer
    _first_process = os.getpid()


@contextmanager
def worker_process(_task: Any) -> Iterator[None]:
    """Luigi's task_process_context: a forked worker dies with its parent, so that no orphan goes on sealing."""
    if os.getpid() == _first_process:
        # One worker: the task runs in here.
        with interrupts.allowed():
            yield
        return
    # The parent decides what a signal means; a worker just ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    linux.die_with_parent(_first_process)
    yield
