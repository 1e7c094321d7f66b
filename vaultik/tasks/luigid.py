"""A central luigid as a view of what goes on here: it is told everything and asked nothing.

Whoever reaches luigid's port could otherwise pause a backup, call its tasks done, or name code to load; and
a luigid that is slow, away or restarted would hold up what it only has to show. So Luigi's own local scheduler
decides, and what it decides is written down in memory, where a process of its own takes it from and sends it
on. That process alone talks to luigid: nothing that luigid does or doesn't do reaches the backup.

Only names of RPC methods, ids, states and messages cross; `tasks.visible` answers for what is in them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
import urllib.error
from typing import TYPE_CHECKING, Any

import luigi.rpc
from luigi.scheduler import Scheduler
from luigi.task_status import RUNNING

from vaultik import linux
from vaultik.shown import without_userinfo
from vaultik.tasks.process import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ANSWER_S = 3.0
_PAUSE_S = 1
_LAST_S = 3.0
"""How long the end of a run waits until all is sent."""
_POLL_S = 0.1
_PING_S = 15.0
"""luigid takes a worker for gone after a minute."""
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class View:
    """Sends what it is told to luigid, from a process of its own, until `close`."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        """Start the process; before the run's threads.

        Args:
            url: luigid's, as luigi.cfg has it; may hold a password.
            say: told once, in that process, if luigid can't be used.
        """
        self._url = url
        self._say = say
        self._lines = Lines()
        parent = os.getpid()
        # Blocked until the child has taken its handlers: inherited ones would raise in it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            self._pid = os.fork()
            if self._pid == 0:
                self._live(parent, blocked)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def tell(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Let luigid know of a call; from any process of the run, without waiting."""
        # Short of memory it is the view that suffers.
        with contextlib.suppress(OSError):
            self._lines.write({"method": method, "args": args, "kwargs": kwargs})

    def close(self) -> None:
        """Give the rest a moment to be sent, and end the process."""
        # Where children are reaped by the kernel (SIGCHLD ignored) there is nobody left to wait for.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
            end = time.monotonic() + _LAST_S
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
                    break
                time.sleep(_POLL_S / 10)
        self._lines.close()

    def _live(self, parent: int, blocked: set[signal.Signals | int]) -> None:
        try:
            self._ending = False
            signal.signal(signal.SIGTERM, self._end)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            linux.die_with_parent(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._send_all()
        finally:
            os._exit(0)

    def _end(self, _number: int, _frame: Any) -> None:
        self._ending = True

    def _send_all(self) -> None:
        """Send line after line. Where luigid fails, try again later and from the start: it may have forgotten."""
        remote: Remote | None = None
        pause, said = _FIRST_PAUSE_S, False
        while True:
            # Looked at before the lines: what was written before the end is sent.
            ending = self._ending
            try:
                remote = remote or Remote(self._url, attempts=1)
                for line in self._lines.take():
                    getattr(remote, line["method"])(*line["args"], **line["kwargs"])
                    pause = _FIRST_PAUSE_S
            except Exception as exc:  # noqa: BLE001 - whatever luigid is or isn't, the backup goes on
                if not said:
                    said = True
                    self._say(f"luigid {without_userinfo(self._url)}: {reason(exc)}; the backup goes on without it")
                self._lines.rewind()
                remote = None
                if not ending:
                    self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            if ending:
                return
            self._sleep(_POLL_S)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._ending and time.monotonic() < end:
            time.sleep(min(_POLL_S, seconds))


class ShownScheduler(Scheduler):
    """Luigi's local scheduler, which decides alone and lets a view know."""

    def __init__(self, view: View, **settings: Any) -> None:
        super().__init__(**settings)
        self._view = view
        self._pinged = 0.0

    def add_task(self, **kwargs: Any) -> None:
        self._view.tell("add_task", **kwargs)
        super().add_task(**kwargs)

    def add_worker(self, worker: str, info: Any, **kwargs: Any) -> None:
        self._view.tell("add_worker", worker, info, **kwargs)
        super().add_worker(worker, info, **kwargs)

    def get_work(self, **kwargs: Any) -> Mapping[str, Any]:
        work: Mapping[str, Any] = super().get_work(**kwargs)
        if work["task_id"] is not None:
            # With its names: a luigid that was restarted may not know it.
            names = {"family": work["task_family"], "module": work["task_module"], "params": work["task_params"]}
            self._view.tell(
                "add_task", task_id=work["task_id"], worker=kwargs["worker"], status=RUNNING, runnable=False, **names
            )
        return work

    def ping(self, **kwargs: Any) -> Any:
        if time.monotonic() - self._pinged > _PING_S:
            self._pinged = time.monotonic()
            self._view.tell("ping", **kwargs)
        return super().ping(**kwargs)

    def set_task_status_message(self, task_id: str, status_message: str) -> None:
        self._view.tell("set_task_status_message", task_id, status_message)

    def set_task_progress_percentage(self, task_id: str, progress_percentage: int) -> None:
        self._view.tell("set_task_progress_percentage", task_id, progress_percentage)


class Remote(luigi.rpc.RemoteScheduler):
    """Luigi's client of luigid, with a limit to its patience and one error for whatever luigid does wrong."""

    def __init__(self, url: str, attempts: int) -> None:
        super().__init__(url, connect_timeout=_ANSWER_S)
        # Luigi's own are three tries, half a minute apart; and what it logs of them holds the URL, password and all.
        self._rpc_retry_attempts, self._rpc_retry_wait, self._rpc_log_retries = attempts, _PAUSE_S, False

    def _request(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._request(*args, **kwargs)
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as exc:
            raise luigi.rpc.RPCError("no usable answer", exc) from exc
        except luigi.rpc.RPCError as exc:
            if isinstance(exc.sub_exception, urllib.error.HTTPError):
                exc.sub_exception.close()
            raise


@contextlib.contextmanager
def viewed_by(url: str | None, say: Callable[[str], None]) -> Iterator[View | None]:
    """Keep a view in the block, none without a URL; see `View`."""
    if url is None:
        yield None
        return
    view = View(url, say)
    try:
        yield view
    finally:
        view.close()


def reason(exc: BaseException) -> str:
    """Return what is wrong with luigid, without anything that its URL may hold."""
    if isinstance(exc, AssertionError):
        return "a unix socket needs the package requests-unixsocket"
    cause = getattr(exc, "sub_exception", None) or exc
    if isinstance(cause, urllib.error.HTTPError):
        return f"no usable answer (HTTP {cause.code})"
    inner = getattr(cause, "reason", None) or cause
    if isinstance(inner, TimeoutError):
        return "no answer"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return f"no usable answer ({type(cause).__name__})"
