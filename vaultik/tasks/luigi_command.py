"""The way in through the stock `luigi` command: lock, session, and an exit code that tells the truth.

Luigi's own exit codes can't say "some files were unreadable", and its lock ends in success. So the
run is begun here, in the parent, and at the end of the process the receipt gives the code.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import luigi
import luigi.configuration
import luigi.interface
from luigi.rpc import RPCError

from vaultik import interrupts
from vaultik.backup.session import Session
from vaultik.config import load_config
from vaultik.errors import ConfigError, IndexLockedError, IntegrityError, VaultikError
from vaultik.index import runs
from vaultik.index.lock import RunLock
from vaultik.niceness import give_way
from vaultik.restore.asked import Asked
from vaultik.restore.kept import parse_kept
from vaultik.restore.report import problem_lines, summary
from vaultik.restore.session import RestoreSession
from vaultik.secrets import identity_files, identity_warnings, load_identities
from vaultik.shown import printable
from vaultik.signing import load_signers
from vaultik.store.open import open_store
from vaultik.tasks import process, runtime
from vaultik.tasks.build import PoliteWorker
from vaultik.tasks.luigid import Remote, reason
from vaultik.tasks.several import check_lists
from vaultik.told import Attendance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.restore.report import RestoreReport
    from vaultik.tasks.restore import Restore

OK = 0
FAILED = 1
_SIGINT_CODE = 130
_SIGTERM_CODE = 143
_signal_code = 0
_luigid_lost: str | None = None


def begin(config_path: str, host: str, run_id: str) -> None:
    """Begin a run in this process and arm the exit code. A run that is going on already ends it quietly."""
    prepare()
    record = process.Record()
    attendance = None
    try:
        if not config_path:
            raise ConfigError(
                "Backup: no config", hint="set config= in the [Backup] section of luigi.cfg, or pass --config PATH"
            )
        config = load_config(Path(config_path))
        session = Session(config, host=host, run_id=run_id, emit=record.add)
        # Held until the process and its children are gone.
        RunLock(config.index_path)
        attendance = Attendance(session, lambda line: say(line, None))
        session.begin()
        attendance.begin()
        give_way(config.nice, config.ionice)
    except IndexLockedError:
        sys.exit(OK)
    except VaultikError as exc:
        say(str(exc), exc.hint)
        if attendance is not None:
            attendance.end(exc.exit_code, str(exc))
        sys.exit(exc.exit_code)
    except KeyboardInterrupt as exc:
        if attendance is not None:
            attendance.__exit__(type(exc), exc, None)
        _note_signal(type(exc), exc, None)
        leave(_signal_code)
    session.close()
    runtime.activate(session, record, workers=_workers_of_command())
    atexit.register(_end, session, attendance, record, os.getpid())


def prepare() -> None:
    """Make this process the first one of a run, with signals and messages as vaultik has them."""
    process.note_first_process()
    interrupts.install()
    sys.excepthook = _note_signal
    # Luigi makes its worker after the root task: ours, which looks for signals where they do no harm.
    factory: Any = luigi.interface._WorkerSchedulerFactory  # noqa: SLF001 - it has no other way in
    factory.create_worker = _create_worker
    factory.create_remote_scheduler = _create_remote_scheduler
    interrupts.defer_from_now_on()
    logging.getLogger("luigi-interface").addFilter(_is_news)
    # Whichever luigi.cfg was found: a worker that outlives a killed parent would hold the lock for ever.
    luigi.configuration.get_config().set("worker", "task_process_context", "vaultik.tasks.process.worker_process")


def _create_worker(_factory: Any, scheduler: Any, worker_processes: int, assistant: bool = False) -> PoliteWorker:  # noqa: FBT001, FBT002 - Luigi's signature
    return PoliteWorker(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)


def _create_remote_scheduler(_factory: Any, url: str) -> Remote:
    return Remote(url, attempts=2)


def _note_signal(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """Tell in a line that a signal ended the command, and keep its code for the end of the process."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
        return
    interrupts.acknowledge()
    global _signal_code  # noqa: PLW0603 - signals are the process's
    terminated = issubclass(kind, interrupts.Terminated)
    _signal_code = _SIGTERM_CODE if terminated else _SIGINT_CODE
    say("terminated" if terminated else "interrupted", "what is done is kept; the next run goes on")


def _is_news(record: logging.LogRecord) -> bool:
    """Keep Luigi from printing tracebacks of errors that are told in a line."""
    exc = record.exc_info and record.exc_info[1]
    if isinstance(exc, RPCError):
        global _luigid_lost  # noqa: PLW0603 - there is one luigid
        _luigid_lost = reason(exc)
        return False
    # Each second, and if it comes back it is no news.
    return not isinstance(exc, VaultikError) and record.msg != "Failed pinging scheduler"


def require(task: luigi.Task, *names: str) -> None:
    """Check that parameters were given; Luigi's own way to say so is a traceback.

    Raises:
        ConfigError: one wasn't.
    """
    for name in names:
        if not getattr(task, name):
            raise ConfigError(f"{task.task_family}: no {name}", hint=f"pass --{name}")


def identities() -> list[Identity]:
    """Return the caller's identities, and say so when others may read them. Nobody is asked for a passphrase.

    Raises:
        IdentityError: there is none, or it can't be read.
    """
    for text in identity_warnings(None):
        say(text, None)
    return load_identities(None)


def signers_of(task: Any) -> list[Signer] | None:
    """Return whom a task's `signers` lets sign, None if that doesn't matter."""
    return load_signers(Path(task.signers)) if task.signers else None


def begin_restore(task: Restore) -> RestoreSession:
    """Begin a restore for the stock `luigi` command, and arm its exit code."""
    prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        require(task, "bucket", "target")
        check_lists(task)
        session = RestoreSession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            identities(),
            Asked(
                Path(task.target),
                task.snapshot,
                task.host or None,
                task.include,
                task.exclude,
                force=task.force,
                delete=task.delete,
                checksum=task.checksum,
                identities=identity_files(None),
                signers=signers_of(task),
                keeps=parse_kept(
                    task.map_owner, task.map_group, task.without, numeric=task.numeric_ids, no_owner=task.no_owner
                ),
                salvage=task.salvage,
            ),
            emit=record.add,
        )
        session.begin()
    except VaultikError as exc:
        say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    session.close()
    atexit.register(_end_restore, session, record, os.getpid())
    return session


def _end_restore(session: RestoreSession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the state if it is complete, and leave with the restore's code."""
    if os.getpid() != owner:
        return
    code = FAILED
    try:
        if session.is_finished():
            report = session.report()
            code = _say_report(report, session.target)
            session.end(report)
        else:
            code = say_errors(record.take())
            session.abandon()
    except VaultikError as exc:
        say(str(exc), exc.hint)
        code = exc.exit_code
    leave(code)


def _say_report(report: RestoreReport, target: Path) -> int:
    """Say what came of a restore, as the command does. Returns its exit code."""
    for line in problem_lines(report, target):
        say(line.text, line.hint)
    print(summary(report, target))  # noqa: T201 - there is no cli above the luigi command
    return IntegrityError.exit_code if report.damaged else FAILED if report.failed else OK


def say_errors(events: Sequence[dict[str, Any]]) -> int:
    """Name what tasks raised, or why they weren't run. Returns the first one's exit code."""
    errors = [event for event in events if "error" in event]
    for event in errors:
        say(event["error"], event["hint"])
    if errors:
        return int(errors[0]["exit_code"])
    if _luigid_lost:
        say(f"luigid: {_luigid_lost}", "the luigi command needs it, or --local-scheduler; `vaultik` goes on without")
    elif not _signal_code:
        say(
            "Luigi ended before everything was done",
            "luigid forgot the tasks or was paused, or a worker was killed? the next run goes on",
        )
    return FAILED


def leave(code: int) -> NoReturn:
    """End the process here, by the signal's code if there was one: Luigi would end it with a code that knows less."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_signal_code or code)


def _workers_of_command() -> int:
    return int(luigi.interface.core().workers)


def _end(session: Session, attendance: Attendance, record: process.Record, owner: int) -> None:
    """Say what went wrong, tell whom it concerns, and leave with the receipt's code; nothing can run after this."""
    if os.getpid() != owner:
        return
    code, events = FAILED, record.take()
    for event in events:
        if "output" in event:
            say(event["output"], None)
    try:
        code = _say_receipt(session)
    except VaultikError as exc:
        say(str(exc), exc.hint)
    if code == FAILED:
        code = _signal_code or say_errors(events)
    try:
        attendance.end(code, next((event["error"] for event in events if "error" in event), None))
    finally:
        session.close()
        leave(code)


def _say_receipt(session: Session) -> int:
    """Say what a run's receipt has of problems. Returns its exit code, that of a failure if there is none."""
    run = runs.find_run(session.index(), session.run_id)
    if run is None or run.exit_code is None:
        return FAILED
    for problem in runs.get_problems(session.index(), session.run):
        if problem.kind == runs.UNREADABLE:
            say(f"{os.fsdecode(problem.path)}: {problem.reason}", None)
        elif problem.kind == runs.WARNING:
            say(problem.reason, None)
    return run.exit_code


def say(message: str, hint: str | None) -> None:
    """Print a line and its hint on standard error."""
    print(f"vaultik: {printable(message)}", file=sys.stderr)  # noqa: T201 - there is no cli above the luigi command
    if hint:
        print(f"  hint: {printable(hint)}", file=sys.stderr)  # noqa: T201 - as above
