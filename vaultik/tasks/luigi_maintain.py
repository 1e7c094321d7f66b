"""The stock `luigi` command's way into what looks after a store: a session, and an exit code that tells the truth."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
    from collections.abc import Callable

    from vaultik.maintain.steps import StepSession
    from vaultik.store.base import Store
    from vaultik.tasks.prune import Prune
    from vaultik.tasks.steps import StepsRoot
    from vaultik.tasks.verify import Verify

S = TypeVar("S", bound="StepSession")


def begin_prune(task: Prune) -> PruneSession:
    """Begin a prune for the stock `luigi` command, and arm its exit code. Nobody is asked."""

    def make(emit: Callable[..., None]) -> PruneSession:
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
        return PruneSession(functools.partial(_store, task), identities(), request, emit)

    return _begin(task, make, lambda session: _say_freed(session, deletes=not task.dry_run))


def begin_verify(task: Verify) -> VerifySession:
    """Begin a verification for the stock `luigi` command, and arm its exit code."""

    def make(emit: Callable[..., None]) -> VerifySession:
        request = parse_verify_request(
            task.snapshot.split(",") if task.snapshot else (),
            host=task.host or None,
            deep=task.deep,
            sample=task.sample or None,
            state=Path(task.state) if task.state else None,
            accept=task.accept,
            signers=signers_of(task),
        )
        return VerifySession(functools.partial(_store, task), identities() if is_given(None) else [], request, emit)

    return _begin(task, make, _say_verified)


def _store(task: StepsRoot) -> Store:
    return open_store(task.endpoint or None, task.bucket, task.prefix, region=task.region or None)


def _begin(task: StepsRoot, make: Callable[[Callable[..., None]], S], say_outcome: Callable[[S], int]) -> S:
    """Begin a session; at the end of the process `say_outcome` gives the exit code of one that is complete."""
    prepare()
    record = process.Record()
    runtime.take_record(record)
    try:
        require(task, "bucket")
        session = make(record.add)
    except VaultikError as exc:
        say(str(exc), exc.hint)
        sys.exit(exc.exit_code)
    atexit.register(_end, task, session, record, os.getpid(), say_outcome)
    return session


def _end(task: StepsRoot, session: S, record: process.Record, owner: int, say_outcome: Callable[[S], int]) -> None:
    """Say what came of it, remove the working state, and leave with the session's code."""
    if os.getpid() != owner:
        return
    code = FAILED
    try:
        code = say_outcome(session) if task.complete() else say_errors(record.take())
    finally:
        session.remove()
        leave(code)


def _say_verified(session: VerifySession) -> int:
    report = session.report()
    for line in verify_report.lines(report):
        say(line, None)
    print(verify_report.summary(report))  # noqa: T201 - there is no cli above the luigi command
    return IntegrityError.exit_code if report.problems else OK


def _say_freed(session: PruneSession, *, deletes: bool) -> int:
    plan, freed, extended = session.read_plan(), plans.total(session.freed()), session.extended()
    held = sum(share.bytes for share in plan.held)
    what = f"freed {freed.bytes:,}" if deletes else f"would free {plan.total.bytes:,}"
    objects = (freed if deletes else plan.total).objects
    until = f", until {when(plan.held_until)}" if plan.held_until is not None else ""
    locked = f"; {extended:,} objects are locked for longer" if extended is not None else ""
    print(f"vaultik: {what} bytes in {objects:,} objects; {held:,} bytes are still held{until}{locked}")  # noqa: T201 - there is no cli above the luigi command
    return OK
