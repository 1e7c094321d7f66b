"""A daemon of a site, in the foreground or the background, that never outlives its test."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.support import prefork

PATIENCE_S = 60
"""How long what has to happen may take on a machine that is busy with other things."""


def wait_until(condition, what):
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


class Daemon:
    """`vaultik backup CONFIG --daemon --foreground`, until its context ends."""

    def __init__(self, site, *arguments, before=(), **environment):
        """Prepare one.

        Args:
            site: whose.
            arguments: more of the command line.
            before: a command that runs it, as strace does.
            environment: more variables.
        """
        self.site = site
        self._before = before
        self._log = site.tmp / f"daemon-{time.monotonic_ns()}.log"
        self._arguments = arguments
        self._environment = environment
        self.process = None

    def __enter__(self):
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self._before,
                    *self.site.command("backup", self.site.config, "--daemon", "--foreground", *self._arguments),
                ],
                env=self.site.environment(**self._environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            # All of its group: what runs it, and itself.
            prefork.kill_group(self.process.pid)
        self.process.wait()

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        """The log so far."""
        return self._log.read_text()

    def count(self, pattern):
        return len(re.findall(pattern, self.said()))

    def wait_for(self, pattern, times=1):
        """Wait until the log has lines of that kind, as many as that; returns the last one's match."""
        wait_until(
            lambda: self.count(pattern) >= times or self.process.poll() is not None,
            lambda: f"the daemon says {pattern!r}:\n{self.said()}",
        )
        found = list(re.finditer(pattern, self.said()))
        assert len(found) >= times, f"the daemon ended before it said {pattern!r}:\n{self.said()}"
        return found[-1]

    def snapshots(self):
        """The ids of the snapshots that it says it wrote."""
        return re.findall(r"snapshot (\S+) in ", self.said())

    def wait_for_snapshot(self):
        """Wait for one more snapshot than there are now, and return its id."""
        return self.wait_for(r"snapshot (\S+) in ", len(self.snapshots()) + 1)[1]

    def send(self, number):
        self.process.send_signal(number)

    def end(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.send(number)
        return self.process.wait(PATIENCE_S)

    def runs(self):
        """The processes of the run that is going on, workers of it left out."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def is_alive(pid):
    """Tell whether a process lives; one that nobody has reaped yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def killed_after(find_pid):
    """Kill a process that is in the background when the block ends, whatever happened in it."""
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(find_pid(), signal.SIGKILL)
