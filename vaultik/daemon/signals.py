"""Signals as something to wait for: the loop reads their numbers, no handler runs in the middle of anything."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_ENDING = (signal.SIGTERM, signal.SIGINT)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_MOST = 4096


class SignalQueue:
    """The signals that this process got since it last looked, while the block lasts. Main thread only.

    SIGTERM and SIGINT mean what they meant before until `take_ending` is called: nobody looks while the daemon begins.
    """

    def __enter__(self) -> Self:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in _OTHERS:
            signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def take_ending(self) -> None:
        """Take SIGTERM and SIGINT too, from now on."""
        for number in _ENDING:
            signal.signal(number, _do_nothing)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._read_fd)
        os.close(self._write_fd)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a child doesn't need."""
        return self._read_fd, self._write_fd

    def fileno(self) -> int:
        """Return what becomes readable when a signal comes."""
        return self._read_fd

    def take(self) -> list[int]:
        """Return the numbers of the signals that came since the last time, each once, in order."""
        with suppress(BlockingIOError):
            return list(dict.fromkeys(os.read(self._read_fd, _MOST)))
        return []


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Let the signal be known by its number in the pipe."""
