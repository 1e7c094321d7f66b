"""Run a graph in this process with Luigi's own scheduler, tuned as measured for waves of small tasks."""

from __future__ import annotations

import logging
import multiprocessing
from typing import TYPE_CHECKING, Any

import luigi
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from vaultik import interrupts
from vaultik.tasks.process import note_first_process

if TYPE_CHECKING:
    from collections.abc import Sequence


class PoliteWorker(Worker):
    """Luigi's worker, heeding signals where they do no harm: in a task's own code, and between two steps of its own."""

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


class _Factory:
    """Luigi's worker and scheduler with the settings that luigi.cfg gives the stock command."""

    def create_local_scheduler(self) -> Scheduler:
        # Pruning at every request for work makes a run quadratic in its tasks.
        return Scheduler(prune_on_get_work=False, record_task_history=False)

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


def build(tasks: Sequence[luigi.Task], workers: int = 1) -> bool:
    """Build tasks. Returns whether Luigi thinks that all went well; receipts know better."""
    note_first_process()
    logging.getLogger("luigi-interface").setLevel(logging.CRITICAL)
    logging.getLogger("luigi").setLevel(logging.CRITICAL)
    with interrupts.deferred():
        done = luigi.build(
            list(tasks),
            worker_scheduler_factory=_Factory(),
            workers=workers,
            local_scheduler=True,
            no_lock=True,
            log_level="CRITICAL",
        )
        for worker in multiprocessing.active_children():
            # Done with its task, but until it is gone it holds the run's lock, too.
            worker.join()
    return bool(done)
