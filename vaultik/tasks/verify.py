"""The graph of a verification, one step after the other; complete = a row in its private state.

Verify                      the root of the luigi command
  TraceDamage               which snapshots and files what is wrong belongs to
    ReadObjects             are their bytes what their names say
      LookAtStore           list, survey, settle what to read
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import luigi
from luigi.parameter import ParameterVisibility

from vaultik.maintain.verify import LOOK, READ, TRACE, VerifySession
from vaultik.shown import human_bytes, plural
from vaultik.tasks.backup import new_run_id
from vaultik.tasks.steps import StepsRoot, StepTask, build_steps, sessions
from vaultik.tasks.visible import Status, percent

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from vaultik.maintain.verify_report import VerifyReport


class LookAtStore(StepTask):
    """List and survey everything."""

    step = LOOK

    def run(self) -> None:
        with self.showing(self.session, lambda counts: Status(f"{plural(counts['done'], 'object')} looked at")):
            self.session.look()


class ReadObjects(StepTask):
    """Read what is to be read."""

    step, after = READ, LookAtStore

    def run(self) -> None:
        def describe(counts: Counter[str]) -> Status:
            done, of = counts["done"], counts["objects"]
            return Status(
                f"{done:,} of {plural(of, 'object')} read, {human_bytes(counts['done_bytes'])}", percent(done, of)
            )

        with self.showing(self.session, describe):
            self.session.read()


class TraceDamage(StepTask):
    """Find out whose what is wrong is."""

    step, after = TRACE, ReadObjects

    def run(self) -> None:
        with self.showing(self.session, lambda counts: Status(f"{plural(counts['done'], 'snapshot')} looked at")):
            self.session.trace()


class Verify(StepsRoot):
    """`luigi --module vaultik.tasks Verify --bucket B --prefix P --sample 5%`."""

    snapshot = luigi.Parameter(default="", description="snapshots to look at, commas between; all if none is named")
    host = luigi.Parameter(default="", description="which host, for the snapshot latest")
    deep = luigi.BoolParameter(default=False, description="look into every chunk")
    sample = luigi.Parameter(default="", description="read a part only: 5%, or 10GB")
    state = luigi.Parameter(
        default="", description="file that remembers what was read", visibility=ParameterVisibility.PRIVATE
    )
    accept = luigi.BoolParameter(default=False, description="snapshots that are gone were dropped on purpose")
    run_id = luigi.Parameter(default=new_run_id(), description="identity of this verification, new each time")

    def begin(self) -> VerifySession:
        from vaultik.tasks import luigi_maintain  # noqa: PLC0415 - only this way in needs it

        return luigi_maintain.begin_verify(self)

    def requires(self) -> luigi.Task:
        return TraceDamage(run_id=self.run_id)


def verify(session: VerifySession, *, watch: Callable[[dict[str, Any]], None] = lambda _event: None) -> VerifyReport:
    """Look, read, trace.

    Args:
        session: what and where; its working state is removed, its memory stays.
        watch: told of every progress event, from a thread that ends before this returns.

    Raises:
        SelectionError, NoMatchingIdentityError, StoreError, LocalIndexError: as the session's steps, by a TaskFailedError.
    """
    run_id = new_run_id()
    sessions[run_id] = session
    try:
        build_steps(session, TraceDamage(run_id=run_id), watch)
        return session.report()
    finally:
        del sessions[run_id]
        session.remove()
