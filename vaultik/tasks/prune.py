"""The graph of a prune, one step after the other; complete = a row in the prune's private state.

Prune                       the root of the luigi command
  DropOrphans               manifests without a DB
    FreeBlobs               what nobody kept refers to
      DropManifests         of dropped DBs
        DropSnapshots       the DBs
          ExtendLocks       on what is kept, if that is asked for
            PlanPrune       look at everything, decide or refuse
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import luigi

from vaultik.maintain.plan import Tally
from vaultik.maintain.prune import BLOBS, LOCKS, MANIFESTS, ORPHANS, PLAN, SNAPSHOTS, PruneSession
from vaultik.shown import human_bytes, plural
from vaultik.tasks.backup import new_run_id
from vaultik.tasks.steps import StepsRoot, StepTask, build_steps, sessions
from vaultik.tasks.visible import Status, percent

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from vaultik.maintain.plan import Plan


class _DeleteTask(StepTask):
    """A step that deletes."""

    def run(self) -> None:
        def describe(counts: Counter[str]) -> Status:
            done, of = counts["done"], counts["objects"]
            return Status(
                f"{done:,} of {plural(of, 'object')} deleted, {human_bytes(counts['done_bytes'])}", percent(done, of)
            )

        with self.showing(self.session, describe):
            self.session.delete(self.step)


class PlanPrune(StepTask):
    """List and read everything, decide what goes, or refuse."""

    step = PLAN

    def run(self) -> None:
        with self.showing(self.session, lambda counts: Status(f"{plural(counts['done'], 'object')} looked at")):
            self.session.plan()


class ExtendLocks(StepTask):
    """Lock what is kept for longer, before anything is deleted."""

    step, after = LOCKS, PlanPrune

    def run(self) -> None:
        with self.showing(self.session, lambda counts: Status(f"{plural(counts['done'], 'object')} locked")):
            self.session.extend_locks()


class DropSnapshots(_DeleteTask):
    """Delete the DBs of dropped snapshots."""

    step, after = SNAPSHOTS, ExtendLocks


class DropManifests(_DeleteTask):
    """Delete the manifests of dropped DBs."""

    step, after = MANIFESTS, DropSnapshots


class FreeBlobs(_DeleteTask):
    """Delete the blobs that nobody kept refers to."""

    step, after = BLOBS, DropManifests


class DropOrphans(_DeleteTask):
    """Delete old manifests without a DB."""

    step, after = ORPHANS, FreeBlobs


class Prune(StepsRoot):
    """`luigi --module vaultik.tasks Prune --bucket B --prefix P --keep-daily 7`."""

    keep_last = luigi.Parameter(default="", description="how many of the newest snapshots to keep, or unlimited")
    keep_hourly = luigi.Parameter(default="", description="of how many hours to keep one")
    keep_daily = luigi.Parameter(default="", description="of how many days")
    keep_weekly = luigi.Parameter(default="", description="of how many weeks")
    keep_monthly = luigi.Parameter(default="", description="of how many months")
    keep_yearly = luigi.Parameter(default="", description="of how many years")
    keep_within = luigi.Parameter(default="", description="all within that of the newest, as in 1y6m14d12h")
    grace = luigi.Parameter(default="", description="in place of 7d; see vaultik prune --help")
    exclusive = luigi.BoolParameter(default=False, description="no host is backing up to the prefix")
    drop = luigi.Parameter(default="", description="snapshots to give up, commas between")
    forget_source = luigi.Parameter(default="", description="sources to give up, commas between")
    allow_shrink = luigi.BoolParameter(default=False, description="a snapshot may be far smaller than the one before")
    extend_lock = luigi.Parameter(default="", description="lock what is kept until so long after its snapshot: 30d")
    dry_run = luigi.BoolParameter(default=False, description="plan only")
    run_id = luigi.Parameter(default=new_run_id(), description="identity of this prune, new each time")

    def begin(self) -> PruneSession:
        from vaultik.tasks import luigi_maintain  # noqa: PLC0415 - only this way in needs it

        return luigi_maintain.begin_prune(self)

    def requires(self) -> luigi.Task:
        return (PlanPrune if self.dry_run else DropOrphans)(run_id=self.run_id)


def prune(
    session: PruneSession,
    *,
    confirm: Callable[[Plan], bool],
    watch: Callable[[dict[str, Any]], None] = lambda _event: None,
) -> dict[str, Tally] | None:
    """Plan, ask, delete.

    Args:
        session: what and where; its state is removed.
        confirm: told of the plan; nothing is deleted unless it says True.
        watch: told of every progress event, from a thread that ends before `confirm` is asked and before this returns.

    Returns:
        What was deleted, by step, and under LOCKS how many objects were locked for longer; None if it was not confirmed.

    Raises:
        PruneRefusedError, SelectionError, StoreError: as `PruneSession.plan` and `delete`, by a TaskFailedError.
    """
    run_id = new_run_id()
    sessions[run_id] = session
    try:
        build_steps(session, PlanPrune(run_id=run_id), watch)
        if not confirm(session.read_plan()):
            return None
        build_steps(session, DropOrphans(run_id=run_id), watch)
        extended = session.extended()
        return session.freed() | ({} if extended is None else {LOCKS: Tally(extended, 0)})
    finally:
        del sessions[run_id]
        session.remove()
