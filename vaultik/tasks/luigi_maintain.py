"""The stock `luigi` command's way into what looks after a store: a session, and an exit code that tells the truth."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.errors import IntegrityError, VaultikError
from vaultik.maintain import plan as plans
from vaultik.maintain import verify_report
from vaultik.maintain.prune import PruneSession
from vaultik.maintain.request import COUNTED, parse_request
from vaultik.maintain.verify import VerifySession
from vaultik.maintain.verify_request import parse_verify_request
from vaultik.secrets import is_given
from vaultik.snapshot.find import when
from vaultik.store.open import open_store
from vaultik.tasks import process, runtime
from vaultik.tasks.luigi_command import FAILED, OK, identities, leave, prepare, require, say, say_errors, signers_of

if TYPE_CHECKING:
    from vaultik.maintain.plan import Plan, Tally
    from vaultik.tasks.prune import Prune
    from vaultik.tasks.verify import Verify


def begin_prune(task: Prune) -> PruneSession:
    """Begin a prune for the stock `luigi` command, and arm its exit code. Nobody is asked."""
    prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        require(task, "bucket")
        request = parse_request(
            {kind: getattr(task, f"keep_{kind}") for kind in (*COUNTED, "within")},
            grace=task.grace or None,
            exclusive=task.exclusive,
            drop=task.drop.split(",") if task.drop else (),
            forget=task.forget_source.split(",") if task.forget_source else (),
            allow_shrink=task.allow_shrink,
            signers=signers_of(task),
            extend_lock=task.extend_lock or None,
        )
        session = PruneSession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            identities(),
            request,
            emit=record.add,
        )
    except VaultikError as exc:
        say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    atexit.register(_end_prune, task, session, record, os.getpid())
    return session


def _end_prune(task: Prune, session: PruneSession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the state, and leave with the prune's code."""
    if os.getpid() != owner:
        return
    code = FAILED
    try:
        if task.complete():
            _say_freed(session.read_plan(), plans.total(session.freed()), deletes=not task.dry_run)
            code = OK
        else:
            code = say_errors(record.take())
    finally:
        session.remove()
        leave(code)


def begin_verify(task: Verify) -> VerifySession:
    """Begin a verification for the stock `luigi` command, and arm its exit code."""
    prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        require(task, "bucket")
        request = parse_verify_request(
            task.snapshot.split(",") if task.snapshot else (),
            host=task.host or None,
            deep=task.deep,
            sample=task.sample or None,
            state=Path(task.state) if task.state else None,
            accept=task.accept,
            signers=signers_of(task),
        )
        session = VerifySession(
            lambda: open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None),
            identities() if is_given(None) else [],
            request,
            emit=record.add,
        )
    except VaultikError as exc:
        say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    atexit.register(_end_verify, task, session, record, os.getpid())
    return session


def _end_verify(task: Verify, session: VerifySession, record: process.Record, owner: int) -> None:
    """Say what came of it, remove the working state, and leave with the verification's code."""
    if os.getpid() != owner:
        return
    code = FAILED
    try:
        if task.complete():
            report = session.report()
            for line in verify_report.lines(report):
                say(line, None)
            print(verify_report.summary(report))  # noqa: T201 - there is no cli above the luigi command
            code = IntegrityError.exit_code if report.problems else OK
        else:
            code = say_errors(record.take())
    finally:
        session.remove()
        leave(code)


def _say_freed(plan: Plan, freed: Tally, *, deletes: bool) -> None:
    held = sum(share.bytes for share in plan.held)
    what = f"freed {freed.bytes:,}" if deletes else f"would free {plan.total.bytes:,}"
    objects = (freed if deletes else plan.total).objects
    until = f", until {when(plan.held_until)}" if plan.held_until is not None else ""
    print(f"vaultik: {what} bytes in {objects:,} objects; {held:,} bytes are still held{until}")  # noqa: T201 - there is no cli above the luigi command
