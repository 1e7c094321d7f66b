"""What the daemon says of itself: lines in the log, a line for systemd, a row in the index for `vaultik status`.

It writes little: the row only when something changed, at most once a second, and a count that changed alone, but for
the first change after none, at most every half minute. No path of a backed-up file is in any of it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from vaultik.errors import VaultikError
from vaultik.index.status import write_daemon
from vaultik.shown import human_bytes, human_duration, plural

if TYPE_CHECKING:
    import logging

    from vaultik.config import Config
    from vaultik.daemon.child import Outcome
    from vaultik.daemon.sd_notify import ServiceManager

_MINUTE_S = 60
_SOON_S = 1.0
_LATER_S = 30.0
_COUNTS = ("dirty", "watching", "next_look", "next_full_scan")


class Diary:
    """Where it all goes."""

    def __init__(self, config: Config, log: logging.Logger, manager: ServiceManager) -> None:
        """Say where to.

        Args:
            config: its index holds the row, its file is named.
            log: for people.
            manager: for systemd.
        """
        self.log = log
        self._config = config
        self._manager = manager
        self._written: dict[str, Any] = {}
        self._written_at = float("-inf")
        self._snapshot: str | None = None
        self.last_error: str | None = None

    def note(self, text: str) -> None:
        """Log something that is good to know."""
        self.log.warning("%s", text)

    def begun(self, *, full: bool, why: str) -> None:
        """A run begins."""
        self.log.info("%s (%s)", "full scan" if full else "run over what changed", why)

    def ended(self, outcome: Outcome) -> None:
        """A run ended, and not in a failure."""
        self.last_error = None
        self._snapshot = outcome.snapshot
        counts = outcome.counts or {}
        self.log.info(
            "snapshot %s in %s: %s seen, %s read, %s new, %s stored",
            outcome.snapshot,
            f"{outcome.seconds:.1f} s" if outcome.seconds < _MINUTE_S else human_duration(outcome.seconds),
            plural(counts.get("files", 0), "file"),
            human_bytes(counts.get("bytes_read", 0)),
            human_bytes(counts.get("bytes_new", 0)),
            human_bytes(counts.get("bytes_stored", 0)),
        )
        for text in outcome.warnings:
            self.log.warning("%s", text)
        if outcome.unreadable:
            self.log.warning(
                "%s could not be read; `vaultik status %s` names them",
                plural(outcome.unreadable, "file"),
                self._config.path,
            )

    def failed(self, outcome: Outcome, failures: int, pause: float) -> None:
        """A run failed."""
        self.last_error = outcome.error
        times = "" if failures == 1 else f" {failures:,} times in a row"
        self.log.error("run failed%s: %s; again in %s", times, outcome.error, human_duration(pause))
        if outcome.hint:
            self.log.error("  hint: %s", outcome.hint)

    def refused(self, exc: VaultikError | OSError) -> None:
        """A changed config can't be used."""
        self.log.error("config not reloaded, the one before stays in force: %s", exc)
        if isinstance(exc, VaultikError) and exc.hint:
            self.log.error("  hint: %s", exc.hint)

    def busy(self, pause: float) -> None:
        """Another process was found to be backing up."""
        self.log.info("another run is going on; again in %s", human_duration(pause))

    def status(self, **known: Any) -> float:
        """Note what is known now, if that is new.

        Args:
            **known: running, dirty, watching, doubt, failures, next_look and next_full_scan (by the wall clock; None
                if it isn't known).

        Returns:
            In how many seconds to come again: what is new may have to wait.
        """
        self._manager.status(self._line(known))
        row = {"pid": os.getpid(), "last_error": self.last_error, **known}
        pause = _LATER_S if _news(row) == _news(self._written) else _SOON_S
        rest = self._written_at + pause - time.monotonic()
        if row == self._written or rest > 0:
            return _LATER_S if row == self._written else rest
        self._written_at = time.monotonic()
        if write_daemon(self._config.index_path, row | {"noted": time.time()}):
            self._written = row
        return _LATER_S

    def stopped(self) -> None:
        """The daemon ends."""
        write_daemon(self._config.index_path, self._written | {"pid": None, "running": False, "noted": time.time()})

    def _line(self, known: dict[str, Any]) -> str:
        parts = [plural(known["watching"], "directory", "directories") + " watched", f"{known['dirty']:,} dirty"]
        if known["running"]:
            parts.insert(0, "backing up")
        elif known["next_look"]:
            parts.insert(0, f"next look {time.strftime('%H:%M:%S', time.localtime(known['next_look']))}")
        if known["failures"]:
            parts.insert(0, f"failed {plural(known['failures'], 'time')}: {self.last_error}")
        if self._snapshot:
            parts.append(f"last snapshot {self._snapshot}")
        return "; ".join(parts)


def _news(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of a row is worth writing soon."""
    return {key: row[key] for key in row if key not in _COUNTS} | {"dirty": bool(row.get("dirty"))}
