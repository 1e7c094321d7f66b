"""What a process opened for itself: nothing of it crosses a fork."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Let go of it."""
        ...


T = TypeVar("T", bound=Closable)


class Own:
    """Things by name, opened on first use in each process."""

    def __init__(self) -> None:
        self._pid = 0
        self._open: dict[str, Any] = {}

    def get(self, what: str, make: Callable[[], T]) -> T:
        """Return this process's one, made if there is none; a parent's is left alone."""
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), {}
        if what not in self._open:
            self._open[what] = make()
        return cast("T", self._open[what])

    def close(self) -> None:
        """Close what this process opened."""
        if self._pid == os.getpid():
            for opened in self._open.values():
                opened.close()
        self._open = {}
