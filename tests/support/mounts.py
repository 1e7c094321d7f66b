"""Snapshots that are really mounted, by the command line."""

import contextlib
import os
import signal
import subprocess

import pytest

NO_FUSE = None
try:
    os.close(os.open("/dev/fuse", os.O_RDWR))
except OSError as exc:
    NO_FUSE = f"THIS MACHINE HAS NO FUSE ({exc}): NOTHING IS MOUNTED HERE, ONLY WHAT LIES BELOW THE KERNEL IS TESTED"
NEEDS_FUSE = pytest.mark.skipif(NO_FUSE is not None, reason=NO_FUSE or "")
"""The one place where it is said that mounts can't be tested."""


class Mounted:
    """A mount, and the process behind it."""

    def __init__(self, site, at, *arguments, **kwargs):
        at.mkdir(exist_ok=True)
        self.at = at
        self.process = subprocess.Popen(
            site.command("mount", *site.where, at, *arguments),
            env=site.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            # Whoever runs the tests may have said nohup, which a mount obeys.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
            **kwargs,
        )
        self.announced = self.process.stdout.readline()
        if not self.announced:
            raise AssertionError(f"it was not mounted: {self.process.communicate()[1]}")

    def end(self, number=signal.SIGTERM):
        """Have it ended by a signal. Returns what it said on standard error."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        """Wait until it has ended by itself, and look whether nothing is left of it."""
        said = self.process.communicate(timeout=60)[1]
        assert self.process.returncode == 0, said
        assert not is_mounted(self.at)
        assert "Traceback" not in said
        return said


def is_mounted(at):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == str(at) for line in mounts)


@contextlib.contextmanager
def mounted(site, at, *arguments, **kwargs):
    """Mount for the block, which may unmount it itself."""
    mount = Mounted(site, at, *arguments, **kwargs)
    try:
        yield mount
        if mount.process.poll() is None:
            mount.end()
    finally:
        if mount.process.poll() is None:
            mount.process.kill()
            mount.process.communicate()
        if is_mounted(at):
            subprocess.run(["umount", "-l", at], check=False)
