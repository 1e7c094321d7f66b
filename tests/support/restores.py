"""Restores that are killed, and what they leave behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

from tests.support import prefork


def leftovers(target):
    """Names of vaultik's own that are left below a target."""
    return [
        name for _, folders, files in os.walk(target) for name in (*folders, *files) if name.startswith(".vaultik-")
    ]


def killed_when(site, target, ready, *arguments, snapshot="latest"):
    """Begin a restore and SIGKILL all of it as soon as `ready` says so. Returns whether it was killed."""
    run = subprocess.Popen(
        site.command("restore", *site.where, snapshot, target, *arguments),
        env=site.environment(),
        start_new_session=True,
    )
    while run.poll() is None and not ready():
        time.sleep(0.002)
    if run.poll() is None:
        prefork.kill_group(run.pid)
    return run.wait() < 0


@contextlib.contextmanager
def stopped_when(site, target, ready):
    """Begin a restore, and SIGSTOP it as soon as `ready` says so; one that was through by then is begun anew."""
    for _ in range(50):
        run = subprocess.Popen(site.command("restore", *site.where, "latest", target), env=site.environment())
        try:
            while run.poll() is None and not ready():
                time.sleep(0.001)
            if run.poll() is None:
                os.kill(run.pid, signal.SIGSTOP)
                if ready():
                    yield run
                    return
        finally:
            run.kill()
            run.wait()
        shutil.rmtree(target)
    raise AssertionError("it was always through before it could be stopped")
