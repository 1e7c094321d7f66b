"""Tasks that are the steps of one session, one after the other; complete = a row in the session's private state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import luigi
from luigi.parameter import ParameterVisibility

from vaultik.errors import LocalIndexError, TaskFailedError
from vaultik.targets.sqlite import SQLiteTarget
from vaultik.tasks import runtime
from vaultik.tasks.build import build
from vaultik.tasks.process import Record
from vaultik.tasks.run import Watcher
from vaultik.tasks.visible import VisibleTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.maintain.steps import StepSession

sessions: dict[str, Any] = {}
"""What this process (or its parent) began, by run id."""


class StepTask(VisibleTask):
    """One step."""

    run_id = luigi.Parameter(description="identity of this run, new each time")
    step: ClassVar[str]
    after: ClassVar[type[StepTask] | None] = None

    @property
    def session(self) -> Any:
        """The session that it is a step of."""
        return sessions[self.run_id]

    def requires(self) -> list[luigi.Task]:
        return [self.after(run_id=self.run_id)] if self.after is not None else []

    def output(self) -> SQLiteTarget:
        return SQLiteTarget(self.session.db, "SELECT 1 FROM steps WHERE name = ?", (self.step,))


class StepsRoot(VisibleTask):
    """What the stock `luigi` command names: all steps of a session on a store."""

    bucket = luigi.Parameter(default="", description="bucket of the store", visibility=ParameterVisibility.PRIVATE)
    prefix = luigi.Parameter(default="", description="prefix in the bucket", visibility=ParameterVisibility.PRIVATE)
    endpoint = luigi.Parameter(
        default="", description="S3 endpoint, or file:///dir", visibility=ParameterVisibility.PRIVATE
    )
    region = luigi.Parameter(default="", description="region of the bucket", visibility=ParameterVisibility.PRIVATE)
    signers = luigi.Parameter(
        default="", description="allowed_signers file: whose signature counts", visibility=ParameterVisibility.PRIVATE
    )
    run_id: luigi.Parameter
    """Each root's own: a process may run one of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.run_id not in sessions:
            sessions[self.run_id] = self.begin()

    def begin(self) -> StepSession:
        """Begin the session of a run that the luigi command asks for."""
        raise NotImplementedError

    def complete(self) -> bool:
        done: bool = self.requires().complete()
        return done

    def run(self) -> None:
        """Nothing is left to do: the steps are what it stands for."""


def build_steps(session: StepSession, task: StepTask, watch: Callable[[dict[str, Any]], None]) -> None:
    """Build a step with all before it.

    Args:
        session: whose.
        task: the step.
        watch: told of every progress event, from a thread that ends before this returns.

    Raises:
        TaskFailedError: what a step raised.
    """
    record = Record()
    watcher = Watcher(record, watch)
    session.emit = record.add
    runtime.take_record(record)
    try:
        watcher.start()
        build([task])
        watcher.stop()
        if watcher.errors:
            first = watcher.errors[0]
            raise TaskFailedError(first["error"], first["hint"], first["exit_code"])
        if not task.complete():
            raise LocalIndexError(
                f"{task.task_family} ended without a result", hint="try again; what is listed is whole"
            )
    finally:
        watcher.stop()
        runtime.take_record(None)
        record.close()
