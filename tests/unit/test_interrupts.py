"""A signal may come between any two instructions; these send one exactly where it would do harm."""

import signal
import subprocess
import sys
import textwrap

SIGNALLED_IN_BEGIN = """
    import os, signal, sqlite3, sys
    from vaultik import interrupts
    from vaultik.index.db import transaction

    class Connection(sqlite3.Connection):
        def execute(self, statement, *values):
            done = super().execute(statement, *values)
            if statement.startswith("BEGIN"):
                os.kill(os.getpid(), signal.SIGTERM)
            return done

    connection = sqlite3.connect(sys.argv[1], factory=Connection, isolation_level=None)
    connection.execute("CREATE TABLE t (a)")
    interrupts.install()
    try:
        with transaction(connection):
            connection.execute("INSERT INTO t VALUES (1)")
    except interrupts.Terminated:
        assert not connection.in_transaction
        assert sqlite3.connect(sys.argv[1]).execute("SELECT a FROM t").fetchall() == [(1,)]
        print("terminated")
"""

SIGNALLED_IN_AN_INNER_BLOCK = """
    import os, signal
    from vaultik import interrupts

    interrupts.install()
    said = []
    try:
        with interrupts.deferred():
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
            said.append("after the inner block")
            try:
                interrupts.check()
            except interrupts.Terminated:
                said.append("where it is looked for")
            said.append("to the end")
        said.append("never")
    except interrupts.Terminated:
        said.append("terminated")
    interrupts.acknowledge()
    print(", ".join(said))
"""

SIGNALLED_IN_A_DESTRUCTOR = """
    import os, signal, time
    from vaultik import interrupts

    class Thing:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("never said: the signal came before")

    interrupts.install()
    try:
        Thing()
        time.sleep(30)
    except interrupts.Terminated:
        print("terminated")
    interrupts.acknowledge()
"""

SIGNALLED_AS_THE_QUEUE_STARTS = """
    import atexit, multiprocessing.queues as queues, multiprocessing.util as util, os, signal

    class Finalize(queues.Finalize):
        def __init__(self, owner, callback, *args, **kwargs):
            super().__init__(owner, callback, *args, **kwargs)
            if callback is queues.Queue._finalize_join:
                # Where it is not imported as early as here, its part of the exit comes before the command's.
                atexit.unregister(util._exit_function)
                atexit.register(util._exit_function)
                os.kill(os.getpid(), signal.SIGTERM)

    queues.Finalize = Finalize
"""


def run_script(script, *args):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_signal_leaves_no_transaction_open(tmp_path):
    assert run_script(SIGNALLED_IN_BEGIN, tmp_path / "db") == "terminated\n"


def test_a_signal_waits_for_the_end_of_the_outermost_block_that_defers_it():
    said = run_script(SIGNALLED_IN_AN_INNER_BLOCK)
    assert said == "after the inner block, where it is looked for, to the end, terminated\n"


def test_a_signal_that_a_destructor_swallows_comes_again_and_nothing_is_said_of_it():
    assert run_script(SIGNALLED_IN_A_DESTRUCTOR) == "terminated\n"


def test_a_signal_in_luigis_own_code_cannot_keep_the_process_from_ending(local_site):
    local_site.source.mkdir()
    (local_site.source / "file").write_text("text")
    site = local_site.tmp / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(textwrap.dedent(SIGNALLED_AS_THE_QUEUE_STARTS))
    local_site.env["PYTHONPATH"] = str(site)
    process = local_site.begin_luigi("Backup", "--workers", "1")
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[0] == "vaultik: terminated"
