"""Attend a run: tell of its beginning, run the hooks before it, and whatever comes of it, tell of its end.

The order is: ping, `before`; then the run; then `after_success` or `after_failure`, figures, ping. So a
hook after the run can still stop what one before it began, and who is pinged last knows that all is over.
A run that isn't begun, since another holds the lock, is not attended.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from vaultik import interrupts
from vaultik.commands import RunningCommand
from vaultik.errors import CommandError, VaultikError
from vaultik.index import runs
from vaultik.index.history import read_history
from vaultik.told.facts import Facts, for_hooks, summary

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from vaultik.backup.session import Session
    from vaultik.config.values import Command

_SIGINT_CODE = 130
_SIGTERM_CODE = 143
_HURRIED_S = 4.0
"""What hooks have in all after a signal, which somebody waits for the end of."""


class Attendance:
    """Attends one run; a context that covers it, and is told of its end by how the block ends."""

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            session: the run's.
            say: takes lines for the log: warnings, and what hooks say.
        """
        self._session = session
        self._config = session.config
        self._say = say
        self._begun = time.monotonic()
        self._until: float | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Tell what came of the run."""
        if exc is None:
            self.end(None, None)
        elif isinstance(exc, KeyboardInterrupt):
            interrupts.acknowledge()
            terminated = isinstance(exc, interrupts.Terminated)
            self.end(_SIGTERM_CODE if terminated else _SIGINT_CODE, "terminated" if terminated else "interrupted")
        else:
            self.end(getattr(exc, "exit_code", 1), str(exc))

    def begin(self) -> None:
        """Tell of the beginning, and run the hooks before it.

        Raises:
            CommandError: one of them failed; the run must not begin.
        """
        facts = self._facts()
        self._ping("start", facts)
        for number, command in enumerate(self._config.hooks.before):
            try:
                self._run(command, facts, "before")
            except (CommandError, OSError) as exc:
                hint = getattr(exc, "hint", None) or "nothing was backed up; what it said stands above"
                raise CommandError(f"hooks.before[{number}]: {exc}", hint=hint) from exc

    def end(self, code: int | None, error: str | None) -> None:
        """Tell of the end.

        Args:
            code: exit code of a run that failed; None where its receipt tells.
            error: why it failed.
        """
        if code in (_SIGINT_CODE, _SIGTERM_CODE):
            self._until = time.monotonic() + _HURRIED_S
        facts = self._final(code, error)
        event = "success" if facts.is_success else "failure"
        for number, command in enumerate(getattr(self._config.hooks, f"after_{event}")):
            try:
                if self._until is not None and time.monotonic() > self._until:
                    raise CommandError("not run: no time was left for it")
                self._run(command, facts, event)
            except (CommandError, OSError) as exc:
                self._say(f"hooks.after_{event}[{number}]: {exc}")
        self._write_metrics(facts)
        self._ping(event, facts)

    def _facts(self) -> Facts:
        return Facts(str(self._config.path), self._session.host, self._session.run_id)

    def _final(self, code: int | None, error: str | None) -> Facts:
        facts = self._facts()._replace(exit_code=code, error=error, seconds=time.monotonic() - self._begun)
        try:
            run = runs.find_run(self._session.index(), self._session.run_id)
        except (VaultikError, sqlite3.Error):
            run = None  # what is wrong with the index has been told
        if run is not None:
            facts = facts._replace(snapshot=run.snapshot, counts=run.counts)
            if code is None:
                facts = facts._replace(exit_code=run.exit_code)
        return facts if facts.exit_code is not None else facts._replace(exit_code=1)

    def _run(self, command: Command, facts: Facts, event: str) -> None:
        timeout_s = float(self._config.hooks.timeout)
        if self._until is not None:
            timeout_s = min(timeout_s, max(0.0, self._until - time.monotonic()))
        name = event if event == "before" else f"after_{event}"
        with (
            interrupts.deferred(),
            RunningCommand(
                command,
                facts=for_hooks(facts, event),
                timeout_s=timeout_s,
                say=lambda line: self._say(f"{name}: {line}"),
                has_output=False,
            ) as running,
        ):
            running.finish()

    def _ping(self, event: str, facts: Facts) -> None:
        if self._config.notify is None or event not in self._config.notify:
            return
        from vaultik.told.notify import ping  # noqa: PLC0415 - urllib3 is imported only where somebody is pinged

        reason = ping(self._config.notify[event], summary(facts), is_brief=self._until is not None)
        if reason is not None:
            self._say(f"notify: {event} could not be told: {reason}")

    def _write_metrics(self, facts: Facts) -> None:
        path = self._config.metrics_path
        if path is None:
            return
        from vaultik.told.metrics import write_metrics  # noqa: PLC0415 - as above

        try:
            write_metrics(path, facts, read_history(self._session.index()))
        except (OSError, VaultikError, sqlite3.Error) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            self._say(f"metrics_path {path}: {reason}; the figures there are those of an earlier run")
