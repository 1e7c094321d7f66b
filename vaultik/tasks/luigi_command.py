"""The way in through the stock `luigi` command: lock, session, and an exit code that tells the truth.

Luigi's own exit codes can't say "some files were unreadable", and its lock ends in success. So the
run is begun here, in the parent, and at the end of the process the receipt gives the code.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING

from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.errors import IndexLockedError, VaultikError
from vaultik.index import runs
from vaultik.index.lock import RunLock
from vaultik.tasks import process, runtime

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

_OK = 0
_FAILED = 1


def begin(config_path: Path, host: str, run_id: str) -> None:
    """Begin a run in this process and arm the exit code. A run that is going on already ends it quietly."""
    process.note_first_process()
    signal.signal(signal.SIGTERM, _interrupt)
    record = process.Record()
    try:
        config = load_config(config_path)
        # Held until the process and its children are gone.
        RunLock(config.index_path)
        session = Session(config, host=host, run_id=run_id, emit=record.add)
        session.begin()
    except IndexLockedError:
        sys.exit(_OK)
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    session.close()
    runtime.activate(session, record, workers=_workers_of_command())
    atexit.register(_end, session, record, os.getpid())


def _workers_of_command() -> int:
    import luigi.interface  # noqa: PLC0415 - only under the luigi command

    return int(luigi.interface.core().workers)


def _end(session: Session, record: process.Record, owner: int) -> None:
    """Say what went wrong and leave with the receipt's code; nothing can run after this."""
    if os.getpid() != owner:
        return
    code = _FAILED
    try:
        run = runs.find_run(session.index(), session.run_id)
        if run is not None and run.exit_code is not None:
            code = run.exit_code
            for problem in runs.get_problems(session.index(), session.run):
                if problem.kind == runs.UNREADABLE:
                    _say(f"{os.fsdecode(problem.path)}: {problem.reason}", None)
        session.close()
    except VaultikError as exc:
        _say(str(exc), exc.hint)
    errors = [event for event in record.take() if "error" in event]
    for event in errors if code == _FAILED else ():
        _say(event["error"], event["hint"])
        code = event["exit_code"]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say(message: str, hint: str | None) -> None:
    shown = message.encode("utf-8", "backslashreplace").decode()
    print(f"vaultik: {shown}", file=sys.stderr)  # noqa: T201 - there is no cli above the luigi command
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)  # noqa: T201 - as above


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
