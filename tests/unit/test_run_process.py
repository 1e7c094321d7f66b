"""A run in a process of its own: what it tells, what it prints, how it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

BEFORE = """
import json, os, select, signal, sys, time
from vaultik.daemon import child
def run(fd, config, changes, workers):
{body}
child._run = run
process = child.RunProcess(None, None, None, close=())
said, outcome = [], None
{end}
while outcome is None:
    select.select(process.descriptors, (), ())
    outcome = process.read(said.append)
print(json.dumps([outcome._asdict(), said]))
"""


def outcome_of(body, end=""):
    """Run that in the child's place: in a process without threads, since it forks."""
    script = BEFORE.format(body=textwrap.indent(textwrap.dedent(body), "    "), end=textwrap.dedent(end))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    outcome, said = json.loads(done.stdout)
    return outcome, said


def test_what_it_tells():
    outcome, said = outcome_of(
        """
        child._tell(fd, line="by the way")
        child._tell(fd, exit_code=3, snapshot="s", seconds=1.0, counts={"files": 2}, unreadable=1, warnings=["w" * 200_000])
        os._exit(3)
        """
    )
    assert said == ["by the way"]
    assert (outcome["exit_code"], outcome["snapshot"], outcome["unreadable"]) == (3, "s", 1)
    assert outcome["warnings"] == ["w" * 200_000]


def test_what_it_and_its_programs_print_goes_to_the_log():
    outcome, said = outcome_of(
        """
        os.write(2, b"of its own\\n")
        os.system("echo of a program; echo and its errors >&2; printf '\\\\377 no text, no end'")
        child._tell(fd, exit_code=0)
        os._exit(0)
        """
    )
    assert outcome["exit_code"] == 0
    assert said == ["of its own", "of a program", "and its errors", "\\xff no text, no end"]


def test_what_a_program_leaves_behind_keeps_nobody_waiting():
    outcome, _ = outcome_of(
        """
        pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "3600")
        child._tell(fd, exit_code=0, error=str(pid))
        os._exit(0)
        """,
    )
    os.kill(int(outcome["error"]), signal.SIGKILL)
    assert outcome["exit_code"] == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "by signal SIGSEGV"),
        ("os._exit(7)", "with code 7 and no word"),
        ("raise MemoryError", "with code 1 and no word"),
    ],
)
def test_one_that_crashes_is_a_failure(body, said):
    outcome, _ = outcome_of(body)
    assert outcome["exit_code"] == 1
    assert said in outcome["error"]


def test_one_that_does_not_heed_a_signal_is_killed():
    outcome, _ = outcome_of(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, b"begun\\n")
        time.sleep(3600)
        """,
        end="""
        while not said:
            process.read(said.append)
        outcome = process.end(signal.SIGTERM, 0.2, said.append)
        """,
    )
    assert "by signal SIGKILL" in outcome["error"]
