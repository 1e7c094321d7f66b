"""The command line without its half second of imports: a process that has done them forks itself for every call.

What is forked runs `vaultik.cli.main` as the command does, in a session of its own, so that all of it can be killed.
It is the command but for its argv in /proc, and for what Python does before it imports anything: `fits` tells.
"""

import atexit
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vaultik.cli
import vaultik.tasks
from vaultik.cli.main import main

_ROOT = Path(__file__).parents[2]
_LARGEST = 1 << 20
_AT_START = ("PYTHON", "LUIGI", "LC_", "LANG")
"""What Python and Luigi look at when they begin."""
_idle = []


def fits(environment):
    """Whether a command would be the same if it began in this process's environment."""
    return _at_start(environment) == _at_start(_environment())


def run_for(arguments, environment, seconds=None):
    """Let a command run for so long, then kill all of it.

    Args:
        arguments: after `vaultik`.
        environment: all of it.
        seconds: how long; None for as long as it takes.

    Returns:
        Its exit code, -9 if it was killed, and what it said on standard output and standard error.
    """
    forker = _idle.pop() if _idle else _Forker()
    with open(os.memfd_create("out"), "rb") as out, open(os.memfd_create("err"), "rb") as err:
        code = forker.run_for(arguments, environment, (out.fileno(), err.fileno()), seconds)
        _idle.append(forker)
        out.seek(0)
        err.seek(0)
        return code, *(stream.read().decode(errors="surrogateescape") for stream in (out, err))


def kill_group(group):
    """SIGKILL a group of processes, and wait until each has let go of what it held."""
    os.killpg(group, signal.SIGKILL)
    while any(_holds_on(path, group) for path in Path("/proc").glob("[0-9]*")):
        time.sleep(0.001)


def _holds_on(process, group):
    """Whether any of its threads has still to end: the first may be a zombie, and the others hold locks and files."""
    try:
        if _stat(process)[2] != str(group):
            return False
        states = [_stat(thread)[0] for thread in (process / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        # One has just ended: they are looked at once more.
        return process.exists()
    return not set(states) <= {"Z", "X"}


def _stat(process):
    """Its state, its parent and its group."""
    return (process / "stat").read_text().rpartition(")")[2].split()[:3]


class _Forker:
    """A process that forks itself for one command after the other."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.support.prefork", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, env=_environment(), cwd=_ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        atexit.register(self._end)

    def run_for(self, arguments, environment, outputs, seconds):
        asked = json.dumps([[str(a) for a in arguments], environment]).encode()
        socket.send_fds(self._socket, [asked], outputs)
        pid = int(self._socket.recv(_LARGEST))
        if not select.select([self._socket], [], [], seconds)[0]:
            kill_group(pid)
        return int(self._socket.recv(_LARGEST))

    def _end(self):
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _environment():
    return {**os.environ, "PYTHONWARNINGS": "default"}


def _at_start(environment):
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}


def _serve(connection):
    for package in (vaultik.cli, vaultik.tasks):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    importlib.import_module("vaultik.store.s3")
    while True:
        asked, outputs, _, _ = socket.recv_fds(connection, _LARGEST, 2)
        if not asked:
            return
        waits, stands = os.pipe()
        if (pid := os.fork()) == 0:
            os.setsid()
            connection.close()
            os.close(waits)
            os.close(stands)
            _become(*json.loads(asked), outputs)
            main()
        os.close(stands)
        os.read(waits, 1)  # until it can be killed with all that it begins
        for descriptor in (waits, *outputs):
            os.close(descriptor)
        connection.send(str(pid).encode())
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(arguments, environment, outputs):
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["vaultik", *arguments]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
