"""One run in a process of its own: the daemon stays small, and no run can take it down.

The child tells what comes of it through a pipe, a line of JSON each: notices and what commands say as they
come, and one result at the end. One that ends without a result has crashed. What it and the programs that it starts print comes through
another pipe, for the daemon's log. It dies with its parent.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from vaultik import interrupts, linux
from vaultik.errors import IndexLockedError, VaultikError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vaultik.backup.changes import Changes
    from vaultik.config import Config
    from vaultik.tasks.run import BackupResult

_DONE = (0, 3)
_BLOCK = 1 << 16
_BLOCKS = 64
_LONGEST = 1 << 22
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class Outcome(NamedTuple):
    """What came of a run."""

    exit_code: int
    snapshot: str | None = None
    full: bool = False
    """Everything was looked at, asked for or not."""
    seconds: float = 0.0
    counts: dict[str, int] | None = None
    unreadable: int = 0
    warnings: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None
    busy: bool = False
    """Another run held the lock: nothing was tried."""

    @property
    def is_done(self) -> bool:
        """A snapshot was written."""
        return self.exit_code in _DONE


class RunProcess:
    """A run that is going on."""

    def __init__(self, config: Config, changes: Changes | None, workers: int | None, *, close: tuple[int, ...]) -> None:
        """Begin.

        Args:
            config: what and where to.
            changes: where to look; None for everything.
            workers: Luigi processes; None for as many as the work merits.
            close: descriptors of the parent that the child must not keep.

        Raises:
            OSError: the system has no room for another process.
        """
        self.full = changes is None
        self._told, told = _Pipe.open()
        self._printed, printed = _Pipe.open()
        self._result: dict[str, Any] | None = None
        parent = os.getpid()
        # A signal between the fork and the child's own handlers would be taken as the parent's.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    _begin(parent, printed, (*close, *self.descriptors))
                    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                    _run(told, config, changes, workers)
                finally:
                    os._exit(1)
        except OSError:
            self._told.close()
            self._printed.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(told)
            os.close(printed)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What becomes readable when the child tells something, or has ended."""
        return tuple(pipe.fd for pipe in (self._told, self._printed) if not pipe.is_over)

    def read(self, note: Callable[[str], None]) -> Outcome | None:
        """Take in what came; call it when a descriptor is readable.

        Args:
            note: takes the run's notices, and lines that were printed.

        Returns:
            What came of the run once it has ended, None while it goes on.
        """
        for line in self._told.lines():
            event = json.loads(line)
            if "line" in event:
                note(event["line"])
            else:
                self._result = event
        outcome = self._end() if self._told.is_over else None
        # All that was printed before the end is there by now.
        for line in self._printed.lines(last=outcome is not None):
            note(line.decode("utf-8", "backslashreplace"))
        return outcome

    def end(self, number: int, patience_s: float, note: Callable[[str], None]) -> Outcome:
        """Send a signal and wait for the end, which comes by SIGKILL when patience does.

        Args:
            number: SIGTERM or SIGINT.
            patience_s: how long the run may take to get to a safe point.
            note: as for `read`.
        """
        os.kill(self.pid, number)
        deadline = linux.boottime() + patience_s
        while (outcome := self.read(note)) is None:
            rest_s = deadline - linux.boottime()
            if rest_s <= 0:
                os.kill(self.pid, signal.SIGKILL)
            select.select(self.descriptors, (), (), max(rest_s, 0.1))
        return outcome

    def _end(self) -> Outcome:
        _, status = os.waitpid(self.pid, 0)
        if self._result is not None:
            return Outcome(**self._result | {"warnings": tuple(self._result.get("warnings", ()))})
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code} and no word"
        return Outcome(1, error=f"the run's process ended {how}", hint="out of memory? the system's log tells")


class _Pipe:
    """The reading end of a pipe, line by line, without waiting."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.is_over = False
        self._rest = b""

    @classmethod
    def open(cls) -> tuple[_Pipe, int]:
        """Return a new pipe and its writing end."""
        read_fd, write_fd = os.pipe()
        return cls(read_fd), write_fd

    def lines(self, *, last: bool = False) -> list[bytes]:
        """Return lines that came, a bounded number of bytes; what has no end is cut where it grows too long.

        Args:
            last: read no more after this, though a program that was left behind may hold the other end for ever.
        """
        with suppress(BlockingIOError):
            for _ in range(0 if self.is_over else _BLOCKS):
                block = os.read(self.fd, _BLOCK)
                self._rest += block
                if not block:
                    self.close()
                    break
        if last:
            self.close()
        *lines, self._rest = self._rest.split(b"\n")
        if self._rest and (self.is_over or len(self._rest) > _LONGEST):
            lines.append(self._rest)
            self._rest = b""
        return lines

    def close(self) -> None:
        """Read no more."""
        if not self.is_over:
            self.is_over = True
            os.close(self.fd)


def _begin(parent: int, printed: int, close: tuple[int, ...]) -> None:
    """Make a process of its own of what the fork left: signals, group, descriptors."""
    linux.die_with_parent(parent)
    # Not the terminal's Ctrl-C, and not the daemon's children: the daemon says when to end.
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        # Not SIG_IGN, which what the run starts would inherit.
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.install()
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.close(printed)
    for fd in close:
        os.close(fd)
    # What the daemon holds in memory stays shared with it.
    gc.freeze()


def _run(fd: int, config: Config, changes: Changes | None, workers: int | None) -> NoReturn:
    begun = time.monotonic()
    try:
        # Luigi is what the daemon itself does without.
        from vaultik.tasks.run import run_backup  # noqa: PLC0415
        from vaultik.tasks.settings import host_name  # noqa: PLC0415

        result = run_backup(
            config,
            host=host_name(),
            workers=workers,
            changes=changes,
            watch=functools.partial(_tell_lines, fd),
        )
        _tell(fd, **_told(result, time.monotonic() - begun))
        os._exit(result.run.exit_code or 0)
    except KeyboardInterrupt as exc:
        interrupts.acknowledge()
        code = 143 if isinstance(exc, interrupts.Terminated) else 130
        _tell(fd, exit_code=code, error="ended by a signal, at a safe point")
        os._exit(code)
    except VaultikError as exc:
        busy = isinstance(exc, IndexLockedError)
        _tell(fd, exit_code=exc.exit_code, error=str(exc), hint=exc.hint, busy=busy)
        os._exit(exc.exit_code)
    except Exception as exc:  # noqa: BLE001 - the daemon's log says it
        _tell(
            fd,
            exit_code=1,
            error=f"{type(exc).__name__}: {exc}",
            hint="this is a bug; `vaultik --debug backup` shows where",
        )
        os._exit(1)


def _told(result: BackupResult, seconds: float) -> dict[str, Any]:
    kinds = [problem.kind for problem in result.problems]
    return {
        "exit_code": result.run.exit_code,
        "snapshot": result.run.snapshot,
        "full": result.run.full,
        "seconds": seconds,
        "counts": result.run.counts,
        "unreadable": kinds.count("unreadable"),
        "warnings": [problem.reason for problem in result.problems if problem.kind == "warning"],
    }


def _tell_lines(fd: int, event: Mapping[str, Any]) -> None:
    line = event.get("notice", event.get("output"))
    if line is not None:
        _tell(fd, line=line)


def _tell(fd: int, **event: Any) -> None:
    rest = json.dumps(event).encode() + b"\n"
    # The daemon may have died; what the run does counts more than who hears of it.
    with suppress(OSError):
        while rest:
            rest = rest[os.write(fd, rest) :]
