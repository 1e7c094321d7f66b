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
from vaultik.maintain import plan as plans
from vaultik.maintain import verify_report
from vaultik.maintain.prune import PruneSession
from vaultik.maintain.request import COUNTED, parse_request
from vaultik.maintain.verify import VerifySession
from vaultik.maintain.verify_request import parse_verify_request
from vaultik.niceness import give_way
from vaultik.restore.asked import Asked
from vaultik.restore.report import problem_lines, summary
from vaultik.restore.session import RestoreSession
from vaultik.secrets import identity_files, is_given, load_identities
from vaultik.shown import printable
from vaultik.snapshot.find import when
from vaultik.store.open import open_store
from vaultik.tasks import process, runtime
from vaultik.tasks.build import PoliteWorker
from vaultik.tasks.luigid import Remote, reason
from vaultik.told import Attendance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from vaultik.maintain.plan import Plan, Tally
    from vaultik.restore.report import RestoreReport
    from vaultik.tasks.prune import Prune
    from vaultik.tasks.restore import Restore
    from vaultik.tasks.verify import Verify

_OK = 0
_FAILED = 1
_SIGINT_CODE = 130
_SIGTERM_CODE = 143
_signal_code = 0
_luigid_lost: str | None = None


def begin(config_path: str, host: str, run_id: str) -> None:
    """Begin a run in this process and arm the exit code. A run that is going on already ends it quietly."""
    _prepare()
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
        attendance = Attendance(session, lambda line: _say(line, None))
        session.begin()
        attendance.begin()
        give_way(config.nice, config.ionice)
    except IndexLockedError:
        sys.exit(_OK)
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        if attendance is not None:
            attendance.end(exc.exit_code, str(exc))
        sys.exit(exc.exit_code)
    except KeyboardInterrupt as exc:
        if attendance is not None:
            attendance.__exit__(type(exc), exc, None)
        _note_signal(type(exc), exc, None)
        _leave(_signal_code)
    session.close()
    runtime.activate(session, record, workers=_workers_of_command())
    atexit.register(_end, session, attendance, record, os.getpid())


def _prepare() -> None:
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
    _say("terminated" if terminated else "interrupted", "what is done is kept; the next run goes on")


def _is_news(record: logging.LogRecord) -> bool:
    """Keep Luigi from printing tracebacks of errors that are told in a line."""
    exc = record.exc_info and record.exc_info[1]
    if isinstance(exc, RPCError):
        global _luigid_lost  # noqa: PLW0603 - there is one luigid
        _luigid_lost = reason(exc)
        return False
    # Each second, and if it comes back it is no news.
    return not isinstance(exc, VaultikError) and record.msg != "Failed pinging scheduler"


def _require(task: luigi.Task, *names: str) -> None:
    """Check that parameters were given; Luigi's own way to say so is a traceback.

    Raises:
        ConfigError: one wasn't.
    """
    for name in names:
        if not getattr(task, name):
            raise ConfigError(f"{task.task_family}: no {name}", hint=f"pass --{name}")


def begin_restore(task: Restore) -> RestoreSession:
    """Begin a restore for the stock `luigi` command, and arm its exit code."""
    _prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        _require(task, "bucket", "target")
        session = RestoreSession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            load_identities(None),
            Asked(
                Path(task.target),
                task.snapshot,
                task.host or None,
                force=task.force,
                delete=task.delete,
                checksum=task.checksum,
                identities=identity_files(None),
            ),
            emit=record.add,
        )
        session.begin()
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    session.close()
    atexit.register(_end_restore, session, record, os.getpid())
    return session


def begin_prune(task: Prune) -> PruneSession:
    """Begin a prune for the stock `luigi` command, and arm its exit code. Nobody is asked."""
    _prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        _require(task, "bucket")
        request = parse_request(
            {kind: getattr(task, f"keep_{kind}") for kind in (*COUNTED, "within")},
            grace=task.grace or None,
            exclusive=task.exclusive,
            drop=task.drop.split(",") if task.drop else (),
            forget=task.forget_source.split(",") if task.forget_source else (),
            allow_shrink=task.allow_shrink,
        )
        session = PruneSession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            load_identities(None),
            request,
            emit=record.add,
        )
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    atexit.register(_end_prune, task, session, record, os.getpid())
    return session


def _end_prune(task: Prune, session: PruneSession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the state, and leave with the prune's code."""
    if os.getpid() != owner:
        return
    code = _FAILED
    try:
        if task.complete():
            _say_freed(session.read_plan(), plans.total(session.freed()), deletes=not task.dry_run)
            code = _OK
        else:
            code = _say_errors(record.take())
    finally:
        session.remove()
        _leave(code)


def begin_verify(task: Verify) -> VerifySession:
    """Begin a verification for the stock `luigi` command, and arm its exit code."""
    _prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        _require(task, "bucket")
        request = parse_verify_request(
            task.snapshot.split(",") if task.snapshot else (),
            host=task.host or None,
            deep=task.deep,
            sample=task.sample or None,
            state=Path(task.state) if task.state else None,
            accept=task.accept,
        )
        session = VerifySession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            load_identities(None) if is_given(None) else [],
            request,
            emit=record.add,
        )
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    atexit.register(_end_verify, task, session, record, os.getpid())
    return session


def _end_verify(task: Verify, session: VerifySession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the working state, and leave with the verification's code."""
    if os.getpid() != owner:
        return
    code = _FAILED
    try:
        if task.complete():
            report = session.report()
            for line in verify_report.lines(report):
                _say(line, None)
            print(verify_report.summary(report))  # noqa: T201 - there is no cli above the luigi command
            code = IntegrityError.exit_code if report.problems else _OK
        else:
            code = _say_errors(record.take())
    finally:
        session.remove()
        _leave(code)


def _say_freed(plan: Plan, freed: Tally, *, deletes: bool) -> None:
    held = sum(share.bytes for share in plan.held)
    what = f"freed {freed.bytes:,}" if deletes else f"would free {plan.total.bytes:,}"
    objects = (freed if deletes else plan.total).objects
    until = f", until {when(plan.held_until)}" if plan.held_until is not None else ""
    print(f"vaultik: {what} bytes in {objects:,} objects; {held:,} bytes are still held{until}")  # noqa: T201 - there is no cli above the luigi command


def _end_restore(session: RestoreSession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the state if it is complete, and leave with the restore's code."""
    if os.getpid() != owner:
        return
    code = _FAILED
    try:
        if session.is_finished():
            report = session.report()
            code = _say_report(report, session.target)
            session.end(report)
        else:
            code = _say_errors(record.take())
            session.abandon()
    except VaultikError as exc:
        _say(str(exc), exc.hint)
        code = exc.exit_code
    _leave(code)


def _say_report(report: RestoreReport, target: Path) -> int:
    """Say what came of a restore, as the command does. Returns its exit code."""
    for line in problem_lines(report, target):
        _say(line.text, line.hint)
    print(summary(report, target))  # noqa: T201 - there is no cli above the luigi command
    return IntegrityError.exit_code if report.damaged else _FAILED if report.failed else _OK


def _say_errors(events: Sequence[dict[str, Any]]) -> int:
    """Name what tasks raised, or why they weren't run. Returns the first one's exit code."""
    errors = [event for event in events if "error" in event]
    for event in errors:
        _say(event["error"], event["hint"])
    if errors:
        return int(errors[0]["exit_code"])
    if _luigid_lost:
        _say(f"luigid: {_luigid_lost}", "the luigi command needs it; vaultik backup goes on without it")
    elif not _signal_code:
        _say(
            "Luigi ended before everything was done",
            "luigid forgot the tasks or was paused, or a worker was killed? the next run goes on",
        )
    return _FAILED


def _leave(code: int) -> NoReturn:
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
    code, events = _FAILED, record.take()
    for event in events:
        if "output" in event:
            _say(event["output"], None)
    try:
        code = _say_receipt(session)
    except VaultikError as exc:
        _say(str(exc), exc.hint)
    if code == _FAILED:
        code = _signal_code or _say_errors(events)
    try:
        attendance.end(code, next((event["error"] for event in events if "error" in event), None))
    finally:
        session.close()
        _leave(code)


def _say_receipt(session: Session) -> int:
    """Say what a run's receipt has of problems. Returns its exit code, that of a failure if there is none."""
    run = runs.find_run(session.index(), session.run_id)
    if run is None or run.exit_code is None:
        return _FAILED
    for problem in runs.get_problems(session.index(), session.run):
        if problem.kind == runs.UNREADABLE:
            _say(f"{os.fsdecode(problem.path)}: {problem.reason}", None)
        elif problem.kind == runs.WARNING:
            _say(problem.reason, None)
    return run.exit_code


def _say(message: str, hint: str | None) -> None:
    print(f"vaultik: {printable(message)}", file=sys.stderr)  # noqa: T201 - there is no cli above the luigi command
    if hint:
        print(f"  hint: {printable(hint)}", file=sys.stderr)  # noqa: T201 - as above
