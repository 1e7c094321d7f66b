"""A store's own time between its answers: the last one told, plus the time since by a clock that never jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.errors import StoreUnavailableError
from vaultik.linux import boottime

if TYPE_CHECKING:
    from collections.abc import Callable


class StoreClock:
    """Keeps the store's time going."""

    def __init__(self) -> None:
        self._told: tuple[float, float] | None = None

    def tell(self, seconds: float) -> None:
        """Take the time, in seconds since 1970, that an answer carried just now."""
        self._told = (seconds, boottime())

    def now(self, ask: Callable[[], None]) -> float:
        """Return the time; `ask` makes the store tell it if it never did.

        Raises:
            StoreUnavailableError: it doesn't tell.
        """
        if self._told is None:
            return self.ask(ask)
        seconds, at = self._told
        return seconds + boottime() - at

    def ask(self, ask: Callable[[], None]) -> float:
        """Make the store tell its time, and return it.

        Raises:
            StoreUnavailableError: it doesn't tell.
        """
        self._told = None
        ask()
        if self._told is None:
            raise StoreUnavailableError("the store's answers tell no time", hint="a proxy that strips the Date header?")
        seconds, at = self._told
        return seconds + boottime() - at
