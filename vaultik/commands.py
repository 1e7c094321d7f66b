"""Run a command that somebody configured: its output, what it says, how it ended; and end it for certain.

A command has a process group of its own, no standard input and no secret of vaultik's in its environment.
The group dies with the process that began it, also by SIGKILL. What it says goes, line by line, to whoever asked.
Signals that come meanwhile end the whole group before they are raised.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from vaultik import interrupts
from vaultik.errors import CommandError
from vaultik.shown import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_BLOCK = 1 << 16
_TICK_S = 0.2
_GRACE_S = 2.0
"""How long a group has between SIGTERM and SIGKILL."""
_LONGEST_LINE = 1000
_MOST_LINES = 1000
_NOT_FOUND = 127

_OURS = re.compile(r"VAULTIK_|AWS_.*(KEY|TOKEN|SECRET|CREDENTIALS)|(NOTIFY_SOCKET|WATCHDOG_|LISTEN_)")
"""What is vaultik's own: the bucket's credential by any of boto3's ways, and its ways to speak to systemd."""

# Leads the group: it begins the command, ends as that does, and kills them all if who began it dies. Setting that in
# the command itself would reach neither its children nor what runs as somebody else.
_LEADER = """
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: os.killpg(0, signal.SIGKILL))
for asked in (signal.SIGTERM, signal.SIGINT):
    signal.signal(asked, lambda *_: None)
ctypes.CDLL(None).prctl(1, int(signal.SIGUSR1))
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
command = os.fork()
if command == 0:
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as exc:
        sys.stderr.write(f"{sys.argv[2]}: {exc.strerror}\\n")
        sys.stderr.flush()
        os._exit(127)
for fd in range(3):
    os.dup2(os.open(os.devnull, os.O_RDWR), fd)
code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
if code < 0:
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def environment(facts: Mapping[str, str]) -> dict[str, str]:
    """Return what a command gets to know: this process's environment without vaultik's secrets, and facts."""
    passed_on = {name: text for name, text in os.environ.items() if not _OURS.match(name)}
    return passed_on | {f"VAULTIK_{name}": text.replace("\0", "") for name, text in facts.items()}


class RunningCommand:
    """A command under way. To be closed in any case; `with` does it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        facts: Mapping[str, str],
        timeout_s: float,
        say: Callable[[str], None],
        has_output: bool,
    ) -> None:
        """Begin it.

        Args:
            command: program and arguments.
            facts: become VAULTIK_* in its environment.
            timeout_s: how long it may last.
            say: takes each line that it says.
            has_output: its standard output is read by `read`; else that is said as well.
        """
        self._say = say
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._rest = b""
        self._is_over = False
        self._lines = 0
        self._selector = selectors.DefaultSelector()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LEADER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if has_output else subprocess.STDOUT,
            cwd="/",
            env=environment(facts),
            start_new_session=True,
        )
        self._said = self._process.stderr if has_output else self._process.stdout
        self._output = self._process.stdout if has_output else None
        for pipe in (self._said, self._output):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it hasn't."""
        self.close()

    def read(self) -> bytes:
        """Return the next piece of its output, b"" at the end.

        Raises:
            CommandError: its time is over.
        """
        assert self._output is not None
        while self._output in self._selector.get_map():
            for pipe in self._ready():
                data = self._take(pipe)
                if pipe is self._output and data:
                    return data
        return b""

    def finish(self) -> None:
        """Wait for its end. What it left in the background doesn't count.

        Raises:
            CommandError: it failed, or its time is over.
        """
        while self._process.poll() is None:
            for pipe in self._ready():
                self._take(pipe)
        for pipe in self._ready(0):
            while self._take(pipe):
                pass
        self._say_lines(b"\n" if self._rest else b"")
        self._is_over = True
        code = self._process.returncode
        if code < 0:
            raise CommandError(f"killed by {signal.Signals(-code).name}")
        if code:
            hint = "is the program there? its whole path helps where PATH is short" if code == _NOT_FOUND else None
            raise CommandError(f"exit code {code}", hint=hint)

    def close(self) -> None:
        """End the whole group, unless the command has ended by itself, and let go of the pipes."""
        with interrupts.deferred():
            # Before anything is asked to end: what still writes does so by that alone, whoever it runs as.
            self._selector.close()
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
            if not self._is_over:
                self._is_over = True
                self._end_group()

    def _ready(self, timeout_s: float = _TICK_S) -> Iterator[object]:
        """Yield the pipes that have something to read, after looking for signals and at the time.

        Raises:
            CommandError: the time is over.
        """
        interrupts.check()
        if time.monotonic() > self._deadline:
            raise CommandError(f"not done after {self._timeout_s:g} s", hint="its timeout allows no more")
        if not self._selector.get_map():
            time.sleep(timeout_s / 10)
            return
        for key, _ in self._selector.select(timeout_s):
            yield key.fileobj

    def _take(self, pipe: object) -> bytes:
        """Return what a pipe has to read, after passing on what was said; closed, it is watched no more."""
        try:
            data = os.read(pipe.fileno(), _BLOCK)  # type: ignore[attr-defined]
        except BlockingIOError:
            return b""
        if not data:
            self._selector.unregister(pipe)  # type: ignore[arg-type]
        elif pipe is self._said:
            self._say_lines(data)
        return data

    def _say_lines(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._lines += 1
            if self._lines <= _MOST_LINES:
                self._say(printable(line[:_LONGEST_LINE].decode(errors="backslashreplace").rstrip("\r")))
            elif self._lines == _MOST_LINES + 1:
                self._say(f"... and more: {_MOST_LINES} lines are enough")

    def _end_group(self) -> None:
        """End every process of the group: asked first, then forced."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        # Also what outlived the first of them.
        self._signal(signal.SIGKILL)
        self._process.wait()
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            # It runs as somebody else. With the pipes closed it ends by what it writes next, if it writes.
            self._say("a process of it belongs to another user and could not be ended")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
