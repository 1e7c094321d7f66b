"""What tasks can't carry in their parameters: the run's session, set in the parent before any fork."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from vaultik.errors import VaultikError
from vaultik.index import runs
from vaultik.index.db import map_error

if TYPE_CHECKING:
    from vaultik.backup.session import Session
    from vaultik.tasks.process import Record

_session: Session | None = None
_record: Record | None = None
_workers = 1


def activate(session: Session, record: Record, workers: int = 1) -> None:
    """Make a run the one that this process and its children work on."""
    global _session, _record, _workers
    _session, _record, _workers = session, record, workers


def set_workers(workers: int) -> None:
    """Say how many processes will share the work: the spool's bound follows it."""
    global _workers  # noqa: PLW0603 - as above
    _workers = workers


def deactivate() -> None:
    """Forget the run."""
    global _session, _record  # noqa: PLW0603 - as above
    _session = _record = None


def take_record(record: Record | None) -> None:
    """Keep failures in a record, for a graph that has no backup session."""
    global _record  # noqa: PLW0603 - as above
    _record = record


def session() -> Session:
    """Return the run's session."""
    assert _session is not None, "a task was run outside a run"
    return _session


def workers() -> int:
    """Return how many processes share the work."""
    return _workers


def cores_per_worker() -> int:
    """Return how many cores each of those processes may use."""
    return max(len(os.sched_getaffinity(0)) // _workers, 1)


def is_active(run_id: str) -> bool:
    """Tell whether a run is the one this process works on."""
    return _session is not None and _session.run_id == run_id


def begin_under_luigi(config: str, host: str, run_id: str) -> None:
    """Begin a run for the stock `luigi` command, which knows only the root task."""
    from vaultik.tasks import luigi_command  # noqa: PLC0415 - only this way in needs it

    luigi_command.begin(config, host, run_id)


def note_failure(exception: BaseException) -> None:
    """Keep a task's error for the message and exit code of the run."""
    if isinstance(exception, sqlite3.Error) and _session is not None:
        exception = map_error(exception, _session.config.index_path)
    known = isinstance(exception, VaultikError)
    text = str(exception) if known else f"{type(exception).__name__}: {exception}"
    if _record is not None and isinstance(exception, VaultikError):
        _record.add(error=text, hint=exception.hint, exit_code=exception.exit_code)
    elif _record is not None:
        _record.add(error=text, hint=None, exit_code=1)
    if _session is not None:
        # For `vaultik status`; where the index is what failed, the message has to do.
        with contextlib.suppress(sqlite3.Error, OSError, VaultikError):
            runs.set_error(_session.index(), _session.run_id, text, time.time())
