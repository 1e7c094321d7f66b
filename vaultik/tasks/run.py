"""Run one backup from config to receipt: lock, session, scan here, the rest in worker processes."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.backup.session import Session
from vaultik.errors import LocalIndexError, TaskFailedError, VaultikError
from vaultik.index import bundles, runs
from vaultik.index.db import mapped
from vaultik.index.lock import RunLock
from vaultik.niceness import give_way
from vaultik.tasks import runtime
from vaultik.tasks.backup import Backup, ScanSource, new_run_id
from vaultik.tasks.build import build
from vaultik.tasks.luigid import viewed_by
from vaultik.tasks.process import Record
from vaultik.tasks.settings import leave_out_current_directory, luigid_url
from vaultik.told import Attendance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultik.backup.changes import Changes
    from vaultik.config import Config
    from vaultik.index.runs import Problem, Run
    from vaultik.model import BlobId
    from vaultik.tasks.luigid import View

_POLL_S = 0.1


class BackupResult(NamedTuple):
    """The receipt of a finished run."""

    run: Run
    problems: list[Problem]


def run_backup(
    config: Config,
    *,
    host: str,
    workers: int | None = None,
    adopt: bool = False,
    heal: Sequence[BlobId] = (),
    changes: Changes | None = None,
    stdin: str | None = None,
    watch: Callable[[dict[str, Any]], None] = lambda _event: None,
) -> BackupResult:
    """Back up once. A central luigid that luigi.cfg names is shown what goes on; if it can't be, a notice says so.

    Args:
        config: what and where to.
        host: name under which the snapshot says where it comes from.
        workers: Luigi processes; None for as many as the work merits.
        adopt: take over an index that belongs to a config file which was moved.
        heal: blobs that are damaged in the store, or missing: what they hold is stored anew.
        changes: what changed since the last run, if a watcher can tell; None has everything looked at.
        stdin: name that standard input gets in the snapshot, None if it isn't read.
        watch: told of every progress event, notice and line of a command (`output`), from a thread while the
            graph is built, before and after it from this one.

    Raises:
        IndexLockedError: a run of this index is going on; nobody is told of this one.
        CommandError: a hook before it failed.
        VaultikError: the run failed; what is stored already is not lost, the next run goes on.
    """
    leave_out_current_directory()
    url = luigid_url()
    record = Record()
    watcher = Watcher(record, watch)
    # Before the lock: a config that can't be used leaves nothing behind.
    session = Session(config, host=host, run_id=new_run_id(), changes=changes, emit=record.add, stdin=stdin)
    lock = RunLock(config.index_path)
    try:
        with Attendance(session, lambda line: watch({"output": line})) as attendance:
            try:
                with viewed_by(url, lambda text: record.write({"notice": text})) as view:
                    session.begin(adopt=adopt, heal=heal)
                    attendance.begin()
                    give_way(config.nice, config.ionice)
                    runtime.activate(session, record)
                    watcher.start()
                    _build(session, workers, view)
            finally:
                watcher.stop()
            return _result(session, watcher.errors)
    except Exception as exc:
        _note_error(session, exc)
        raise
    finally:
        runtime.deactivate()
        session.end()
        record.close()
        lock.release()


def _build(session: Session, workers: int | None, view: View | None) -> None:
    # The scan alone first: it says how many processes the rest is worth.
    build([ScanSource(host=session.host, run_id=session.run_id)], view=view)
    with mapped(session.config.index_path):
        run = runs.find_run(session.index(), session.run_id)
        if run is None or not run.scanned:
            return
        waiting = bundles.count_bundles(session.index(), session.run)
    merited = workers or session.config.workers or (2 if waiting > 1 else 1)
    runtime.set_workers(merited)
    session.close()
    build([Backup(host=session.host, run_id=session.run_id)], workers=merited, view=view)


def _result(session: Session, errors: list[dict[str, Any]]) -> BackupResult:
    with mapped(session.config.index_path):
        run = runs.find_run(session.index(), session.run_id)
        problems = runs.get_problems(session.index(), session.run)
    if run is not None and run.exit_code is not None:
        return BackupResult(run, problems)
    if errors:
        raise TaskFailedError(errors[0]["error"], errors[0]["hint"], errors[0]["exit_code"])
    raise LocalIndexError(
        "the run ended without a receipt", hint="a worker was killed? the next run goes on from what is done"
    )


def _note_error(session: Session, exc: Exception) -> None:
    """Leave in the index why the run failed, for `vaultik status`; where that can't be, the error itself says more."""
    if session.run:
        with contextlib.suppress(sqlite3.Error, OSError, VaultikError):
            text = str(exc) if isinstance(exc, VaultikError) else f"{type(exc).__name__}: {exc}"
            runs.set_error(session.index(), session.run_id, text, time.time())


class Watcher:
    """Passes on what the run's processes record, while they do."""

    def __init__(self, record: Record, watch: Callable[[dict[str, Any]], None]) -> None:
        self._record = record
        self._watch = watch
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress")
        self.errors: list[dict[str, Any]] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Pass on what is left, and end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(_POLL_S):
            self._pass_on()
        self._pass_on()

    def _pass_on(self) -> None:
        for event in self._record.take():
            if "error" in event:
                self.errors.append(event)
            else:
                self._watch(event)
