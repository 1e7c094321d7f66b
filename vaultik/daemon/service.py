"""The daemon's loop: watch, decide, run, and heed signals.

SIGTERM and SIGINT end it, and the run that is going on, within ten seconds: 0 after SIGTERM, since it stopped as it was
asked to, 130 after SIGINT. SIGHUP reads the config again, SIGUSR1 starts a run now. Invariant: what a run that
failed was to look at is looked at by the next one; a run that was not full never answers a doubt.
"""

from __future__ import annotations

import select
import signal
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from vaultik import interrupts
from vaultik.config import load_config
from vaultik.daemon.child import Outcome, RunProcess
from vaultik.daemon.diary import Diary
from vaultik.daemon.schedule import Intervals, Known, Moment, Rest, Run, Wait, decide, pause_after, restored
from vaultik.daemon.signals import SignalQueue
from vaultik.daemon.watch import Watcher
from vaultik.errors import ConfigError, LocalIndexError, VaultikError
from vaultik.index.status import read_status
from vaultik.linux import boottime
from vaultik.shown import plural

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from vaultik.backup.changes import Changes
    from vaultik.config import Config
    from vaultik.daemon.pid_file import PidFile
    from vaultik.daemon.sd_notify import ServiceManager

SIGINT_CODE = 130

_STOP_S = 8.0
"""How long a run may take to end by itself, of the ten seconds in which the daemon has to be gone."""
_NAP_S = 30.0
"""The longest wait: poll counts no time asleep, the schedule does."""
_FIRST = "the first run since the start"
_OTHER_CONFIG = "the config changed"
_WATCHED = (
    "source_dirs",
    "exclude",
    "exclude_caches",
    "exclude_if_present",
    "exclude_nodump",
    "one_file_system",
    "spool_dir",
    "s3",
)
"""What decides where watches are."""


class _Going(NamedTuple):
    """A run that is going on."""

    process: RunProcess
    begun: Moment
    changes: Changes | None
    doubt: str | None
    watcher: Watcher


class Service:
    """A daemon, in a process that is one already."""

    def __init__(
        self,
        config: Config,
        log: logging.Logger,
        manager: ServiceManager,
        pid_file: PidFile,
        *,
        workers: int | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            config: what to back up, and when.
            log: for people.
            manager: systemd, or whoever listens as it does.
            pid_file: locked; released at the end.
            workers: Luigi processes of a run; None for as many as the work merits.
            ready: called once when the watches are placed.
        """
        self._config = config
        self._manager = manager
        self._pid_file = pid_file
        self._workers = workers
        self._ready = ready
        self._diary = Diary(config, log, manager)
        self._watcher: Watcher
        self._going: _Going | None = None
        self._signals: SignalQueue
        self._doubt: str | None = _FIRST
        self._answered: str | None = None
        self._looked: Moment | None = None
        self._ended: Moment | None = None
        self._full: Moment | None = None
        self._busy: Moment | None = None
        self._failures = 0
        self._asked = False
        self._next: tuple[float, float] | None = None

    def run(self) -> int:
        """Live until a signal says otherwise.

        Returns:
            The exit code of the process.
        """
        with ExitStack() as stack:
            self._signals = stack.enter_context(SignalQueue())
            stack.callback(self._pid_file.remove)
            self._pid_file.write()
            try:
                self._watcher = self._place(self._config)
                self._signals.take_ending()
            except KeyboardInterrupt as exc:
                interrupts.acknowledge()
                return 0 if isinstance(exc, interrupts.Terminated) else SIGINT_CODE
            stack.push(lambda *_: self._watcher.close())
            self._ended = self._last_end()
            self._manager.ready()
            self._ready()
            while (code := self._turn()) is None:
                pass
            return code

    def _last_end(self) -> Moment | None:
        """Return when a run ended last: a daemon that is started again and again runs no more often than one that isn't."""
        with suppress(LocalIndexError):
            if (last := read_status(self._config.index_path).attempt) is not None:
                return restored(last.finished or last.started, _now())
        return None

    def _place(self, config: Config) -> Watcher:
        begun = time.monotonic()
        watcher = Watcher(config, note=self._diary.note)
        watcher.start()
        directories = plural(watcher.watching, "directory", "directories")
        self._diary.log.info("watching %s after %.1f s", directories, time.monotonic() - begun)
        return watcher

    # -- the loop ---------------------------------------------------------------------------------

    def _turn(self) -> int | None:
        """Do what is due, wait for what comes, take it in. Returns an exit code when it is time to end."""
        wait_s = _NAP_S if self._going else self._step()
        wait_s = min(wait_s, self._tell())
        self._manager.turn()
        self._wait(min(wait_s, _NAP_S, self._manager.watchdog_s or _NAP_S))
        for number in self._signals.take():
            if number in (signal.SIGTERM, signal.SIGINT):
                return self._stop(number)
            if number == signal.SIGHUP:
                self._reload()
            if number == signal.SIGUSR1:
                self._asked = True
        return None

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self._watcher, select.POLLIN)
        for fd in self._going.process.descriptors if self._going else ():
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(seconds, 0.0) * 1000)}
        if self._watcher.fileno() in ready:
            self._watcher.read()
        if self._going and not ready.isdisjoint(self._going.process.descriptors):
            self._hear(self._going)

    def _step(self) -> float:
        """Begin a run if one is due. Returns how many seconds there is nothing to do."""
        now = _now()
        decision = decide(self._known(), now, Intervals.of(self._config))
        if isinstance(decision, Wait):
            self._note_next(decision.until, now)
            return decision.until - now.boot
        self._looked = now
        if isinstance(decision, Rest):
            self._diary.log.info("%s", decision.why)
        else:
            self._begin(decision, now)
        return 0.0

    def _known(self) -> Known:
        doubt = self._doubt or self._watcher.doubt
        self._answered = self._answered if doubt else None
        return Known(
            # Nothing tells whether the output of a command has changed.
            dirty=self._watcher.dirty + len(self._config.commands),
            doubt=doubt,
            answered=self._answered,
            looked=self._looked,
            ended=self._ended,
            full=self._full,
            failures=self._failures,
            busy=self._busy,
            asked=self._asked,
        )

    # -- runs -------------------------------------------------------------------------------------

    def _begin(self, due: Run, now: Moment) -> None:
        doubt = self._doubt or self._watcher.doubt
        # Before the run looks anywhere: what changes from now on is for the next one.
        changes = self._watcher.take()
        full = due.full or changes is None
        # One that is there again at once (too few watches) must not have everything scanned again at once.
        doubt = self._watcher.doubt or doubt
        self._diary.begun(full=full, why=due.why if due.full == full else doubt or due.why)
        self._asked, self._doubt, self._busy = False, None, None
        close = (self._pid_file.fd, *self._signals.descriptors)
        try:
            process = RunProcess(self._config, None if full else changes, self._workers, close=close)
        except OSError as exc:
            self._fail(Outcome(1, error=f"no process for a run: {exc.strerror}"), changes, doubt, full=full)
            return
        self._going = _Going(process, now, changes, doubt, self._watcher)

    def _hear(self, going: _Going) -> None:
        outcome = going.process.read(self._diary.note)
        if outcome is None:
            return
        self._going = None
        if outcome.is_done:
            self._done(going, outcome)
            return
        changes = going.changes if going.watcher is self._watcher else None
        self._fail(outcome, changes, going.doubt, full=going.process.full)

    def _done(self, going: _Going, outcome: Outcome) -> None:
        self._ended, self._failures = _now(), 0
        if outcome.full:
            self._full, self._answered = going.begun, going.doubt
        self._diary.ended(outcome)

    def _fail(self, outcome: Outcome, changes: Changes | None, doubt: str | None, *, full: bool) -> None:
        """Keep what the run was to look at for the next one."""
        if changes is not None:
            self._watcher.give_back(changes)
        if full:
            self._doubt = self._doubt or doubt or "the last full scan failed"
        intervals = Intervals.of(self._config)
        if outcome.busy:
            self._busy = _now()
            self._diary.busy(min(intervals.backup, 60.0))
            return
        self._ended = _now()
        self._failures += 1
        self._diary.failed(outcome, self._failures, pause_after(self._failures, intervals))

    # -- signals ----------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Read the config again; one that can't be used changes nothing."""
        self._manager.reloading()
        try:
            config = load_config(self._config.path)
            if config.index_path != self._config.index_path:
                raise ConfigError(f"{config.path}: index_path changed", hint="that needs a restart")
            moved = any(getattr(config, key) != getattr(self._config, key) for key in _WATCHED)
            watcher = self._place(config) if moved else self._watcher
        except (VaultikError, OSError) as exc:
            self._diary.refused(exc)
        else:
            if watcher is not self._watcher:
                self._watcher.close()
                self._watcher, self._doubt = watcher, _OTHER_CONFIG
            self._config = config
            self._diary.log.info("config read again")
            for warning in config.warnings:
                self._diary.note(warning)
        self._manager.ready()

    def _stop(self, number: int) -> int:
        """End, and with it the run that is going on: at a safe point, if it gets there in time."""
        self._manager.stopping()
        self._diary.log.info("ending on %s", signal.Signals(number).name)
        if self._going:
            outcome = self._going.process.end(number, _STOP_S, self._diary.note)
            self._diary.log.info("the run: %s; what is done is kept, the next start goes on", outcome.error or "done")
        self._diary.stopped()
        return SIGINT_CODE if number == signal.SIGINT else 0

    # -- what is told -----------------------------------------------------------------------------

    def _note_next(self, until: float, now: Moment) -> None:
        """Remember when something is due by the wall clock, without following its every tick."""
        if self._next is None or abs(self._next[0] - until) > 1:
            self._next = (until, now.wall + until - now.boot)

    def _tell(self) -> float:
        return self._diary.status(
            running=self._going is not None,
            dirty=self._watcher.dirty,
            watching=self._watcher.watching,
            doubt=self._doubt or self._watcher.doubt,
            failures=self._failures,
            next_look=self._next[1] if self._next and not self._going else None,
            next_full_scan=self._full.wall + self._config.full_scan_interval if self._full else None,
        )


def _now() -> Moment:
    return Moment(boottime(), time.time())
