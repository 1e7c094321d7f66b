"""Run a graph in this process with Luigi's own scheduler, tuned as measured for waves of small tasks."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import re
import time
from typing import TYPE_CHECKING, Any

import luigi
from luigi.scheduler import Scheduler
from luigi.task_register import Register
from luigi.worker import Worker

from vaultik import interrupts
from vaultik.tasks.luigid import ShownScheduler
from vaultik.tasks.process import note_first_process
from vaultik.tasks.settings import leave_out_current_directory
from vaultik.tasks.visible import VisibleTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luigi.scheduler import SimpleTaskState

    from vaultik.tasks.luigid import View

_DONE = "DONE"
_SHOW_EVERY_S = 2.0
_RAISED = re.compile(r"^  File .*\n(?:    .*\n)*([\w.]+)", re.MULTILINE)


class PoliteWorker(Worker):
    """Luigi's worker, heeding signals where they do no harm: in a task's own code, and between two steps of its own.

    It also asks the root now and then how far all is, forgets what is done with, and lets no traceback go to a scheduler.
    """

    _due = 0.0
    _shown = 0

    def _create_task_process(self, task: luigi.Task) -> Any:
        process = super()._create_task_process(task)
        if not process.use_multiprocessing:
            # Luigi's code around the task's starts a thread: left half done, the process would never end.
            process._run_get_new_deps = interrupts.allowed()(process._run_get_new_deps)  # noqa: SLF001 - as narrow as it gets
        return process

    def _get_work(self) -> Any:
        interrupts.check()
        return super()._get_work()

    def _handle_next_task(self) -> None:
        interrupts.check()
        super()._handle_next_task()
        known = len(self._scheduled_tasks)
        if known != self._shown or time.monotonic() >= self._due:
            self._shown = known
            self._due = time.monotonic() + _SHOW_EVERY_S
            # A view, whose absence is no failure.
            with contextlib.suppress(Exception):
                self._show()

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        super()._add_task(*args, **kwargs)
        task = self._scheduled_tasks.get(kwargs["task_id"])
        # A central scheduler keeps what it likes.
        is_local = isinstance(self._scheduler, Scheduler)
        if is_local and kwargs["status"] == _DONE and isinstance(task, VisibleTask) and task.sums_up:
            self._forget_needs(task, self._scheduler._state)  # noqa: SLF001 - it has no other door

    def _forget_needs(self, whole: luigi.Task, state: SimpleTaskState) -> None:
        """Take out of memory, here and in the local scheduler, what a task needed, and what that needed."""
        todo, needed = [whole.task_id], set[str]()
        while todo:
            deps = {dep for dep in state.get_task(todo.pop()).deps if state.has_task(dep)}
            todo += deps - needed
            needed |= deps
        state.inactivate_tasks(needed)
        for worker in state.get_active_workers():
            worker.tasks = {task for task in worker.tasks if task.id not in needed}
        for task in needed:
            self._scheduled_tasks.pop(task, None)
        self._add_task_history[:] = [entry for entry in self._add_task_history if entry[0].task_id not in needed]
        self._get_work_response_history.clear()
        Register.clear_instance_cache()

    def _show(self) -> None:
        root = self._scheduled_tasks.get(self._first_task)
        if isinstance(root, VisibleTask):
            for task, status in root.statuses():
                self._scheduler.set_task_status_message(task.task_id, status.message)
                if status.percent is not None:
                    self._scheduler.set_task_progress_percentage(task.task_id, status.percent)

    def _announce_scheduling_failure(self, task: luigi.Task, expl: str) -> None:
        # A traceback: the class stands behind the last frame. What follows it may say anything, over several lines.
        kind = (_RAISED.findall(expl) or ["Exception"])[-1]
        super()._announce_scheduling_failure(task, f"{kind}. The host's own output tells more.")

    def _handle_task_load_error(self, exception: Exception, task_ids: list[str]) -> None:
        # Luigi's own would send the traceback.
        super()._handle_task_load_error(type(exception)(), task_ids)


class _Factory:
    """Luigi's worker and scheduler with the settings that luigi.cfg gives the stock command."""

    def __init__(self, view: View | None) -> None:
        self._view = view

    def create_local_scheduler(self) -> Scheduler:
        # Pruning at every request for work makes a run quadratic in its tasks.
        settings = {"prune_on_get_work": False, "record_task_history": False}
        return Scheduler(**settings) if self._view is None else ShownScheduler(self._view, **settings)

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> Worker:  # noqa: FBT001, FBT002 - Luigi's signature
        return PoliteWorker(
            scheduler=scheduler,
            worker_processes=worker_processes,
            assistant=assistant,
            wait_interval=0.05,
            wait_jitter=0.0,
            check_complete_on_run=True,
            check_unfulfilled_deps=False,
            send_failure_email=False,
            task_process_context="vaultik.tasks.process.worker_process",
            no_install_shutdown_handler=True,
        )


def build(tasks: Sequence[luigi.Task], workers: int = 1, view: View | None = None) -> bool:
    """Build tasks, to be seen in a view if there is one. Returns whether Luigi thinks that all went well; receipts know better."""
    leave_out_current_directory()
    note_first_process()
    logging.getLogger("luigi-interface").setLevel(logging.CRITICAL)
    logging.getLogger("luigi").setLevel(logging.CRITICAL)
    with interrupts.deferred():
        done = luigi.build(
            list(tasks),
            worker_scheduler_factory=_Factory(view),
            workers=workers,
            local_scheduler=True,
            no_lock=True,
            log_level="CRITICAL",
        )
        for worker in multiprocessing.active_children():
            # Done with its task, but until it is gone it holds the run's lock, too.
            worker.join()
    return bool(done)
