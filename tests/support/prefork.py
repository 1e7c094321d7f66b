"""The command line without its half second of imports: a process that has done them forks itself for every call.

What is forked runs `vaultik.cli.main` as the command does, in a session of its own, so that all of it can be killed.
Thousands of kills then fall into the work, and not into the interpreter's start.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from vaultik.cli.main import main

ROOT = Path(__file__).parents[2]
_NEEDED = ("backup", "prune", "restore")
_TASKS = ("run", "prune", "restore")


class Prefork:
    """Gives one process at a time."""

    def __init__(self, environment, aside):
        """`environment` is that of every command; what a command says on standard error goes into the file `aside`."""
        self._aside = aside
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.prefork", aside],
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()

    def run_for(self, arguments, seconds):
        """Let a command run for so long, then kill all of it. Returns its exit code, -9 if it was killed, and what it said."""
        self._process.stdin.write(json.dumps([str(a) for a in arguments]).encode() + b"\n")
        pid = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.killpg(pid, signal.SIGKILL)
        code = int(self._process.stdout.readline())
        return code, self._aside.read_text()


def _serve(aside):
    for name in _NEEDED:
        importlib.import_module(f"vaultik.cli.{name}")
    for name in _TASKS:
        importlib.import_module(f"vaultik.tasks.{name}")
    importlib.import_module("vaultik.store.s3")
    for line in sys.stdin.buffer:
        waits, stands = os.pipe()
        if (pid := os.fork()) == 0:
            os.setsid()
            os.close(stands)
            _run(json.loads(line), aside)
        os.close(stands)
        os.read(waits, 1)  # until it can be killed with all that it begins
        os.close(waits)
        _tell(pid)
        _tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _tell(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _run(arguments, aside):
    for descriptor, path in ((0, os.devnull), (1, os.devnull), (2, aside)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["vaultik", *arguments]
    main()


if __name__ == "__main__":
    _serve(sys.argv[1])
