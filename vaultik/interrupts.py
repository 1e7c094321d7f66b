"""SIGINT and SIGTERM as exceptions, but not in the middle of what can't bear one.

Python raises a signal's exception between any two instructions of the main thread. Inside a callback
of compiled code, between a lock and its release, or around a fork, that does harm; such sections
defer it and look for it themselves. Inside a destructor it is lost; so it is raised again, and nothing
said of it, until somebody took note.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_AGAIN_S = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Luigi lets a KeyboardInterrupt through, and nothing else."""


_owner = 0
_pending = 0
_deferring = 0


def install() -> None:
    """Take both signals from now on; only the main thread may."""
    global _owner  # noqa: PLW0603 - signals are the process's
    _owner = os.getpid()
    signal.signal(signal.SIGTERM, _take)
    signal.signal(signal.SIGALRM, _take_again)
    # Left alone where a shell's & has made it ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _take)
    tell = sys.unraisablehook

    def tell_of_others(lost: sys.UnraisableHookArgs) -> None:
        if not (_pending and isinstance(lost.exc_value, KeyboardInterrupt)):
            tell(lost)

    sys.unraisablehook = tell_of_others


def take_hangup() -> None:
    """Take the end of the terminal as well, where that would end this process (nohup makes it ignored)."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _take)


def acknowledge() -> None:
    """Stop raising: the program is ending because of the signal."""
    global _pending  # noqa: PLW0603 - signals are the process's
    signal.setitimer(signal.ITIMER_REAL, 0)
    _pending = 0


def ignore() -> None:
    """Raise what has come, and take no signal any more: what was asked for is done, only the end is left.

    Outside the main thread, which alone may take signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    check()


@contextmanager
def deferred() -> Iterator[None]:
    """Raise no signal's exception inside the block but from `check`; what came meanwhile is raised at its end.

    Inside another such block it is left to the end of that one. Outside the main thread, where none is ever raised, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _deferring  # noqa: PLW0603 - as above
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if not _deferring:
        check()


def defer_from_now_on() -> None:
    """Raise no signal's exception any more but from `check` and where it is allowed."""
    global _deferring  # noqa: PLW0603 - as above
    _deferring += 1


@contextmanager
def allowed() -> Iterator[None]:
    """Raise at once inside the block, although it lies in one that defers."""
    global _deferring  # noqa: PLW0603 - as above
    outer, _deferring = _deferring, 0
    check()
    try:
        yield
    finally:
        _deferring = outer


def check() -> None:
    """Raise what has come and was deferred; never in a worker that was forked meanwhile."""
    if _pending and os.getpid() == _owner:
        raise Terminated if _pending == signal.SIGTERM else KeyboardInterrupt


def _take(number: int, _frame: FrameType | None) -> None:
    if os.getpid() != _owner:
        # A worker, forked just now: what a signal means is its parent's to say.
        os._exit(128 + number)
    global _pending  # noqa: PLW0603 - as above
    _pending = number
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    if not _deferring:
        check()


def _take_again(_number: int, _frame: FrameType | None) -> None:
    if not _deferring:
        check()
