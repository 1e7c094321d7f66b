"""What anybody who reaches luigid may see of a task: how far it is, and the kind of what went wrong.

Never a path, a name, an object's key, a bucket or a credential: counts, states, and texts that stand in
this program.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import luigi

from vaultik.errors import VaultikError
from vaultik.tasks import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_EVERY_S = 1.0


class Status(NamedTuple):
    """How far a task is."""

    message: str
    percent: int | None = None


class _Emitting(Protocol):
    emit: Callable[..., None]


class VisibleTask(luigi.Task):
    """A task that tells of failures and progress nothing but what anybody may see."""

    sums_up = False
    """Whether nobody asks for the tasks that it needs any more, once it is done: Luigi's memory of them grows with a run."""

    def on_failure(self, exception: BaseException) -> str:
        runtime.note_failure(exception)
        return failure(exception)

    def statuses(self) -> Iterable[tuple[luigi.Task, Status]]:
        """Return how far a root and its waves are, asked for now and then while others run."""
        return ()

    def show(self, status: Status) -> None:
        """Tell how far the task is."""
        # Luigi sets them while it runs the task.
        message: Any = self.set_status_message
        percentage: Any = self.set_progress_percentage
        if message is None:
            return
        # luigid is a view, whose absence is no failure.
        with contextlib.suppress(Exception):
            message(status.message)
            if status.percent is not None:
                percentage(status.percent)

    @contextlib.contextmanager
    def showing(self, session: _Emitting, describe: Callable[[Counter[str]], Status]) -> Iterator[None]:
        """Show in the block how far it is, about once a second and at its end, from what the session counts."""
        emit, seen, due = session.emit, Counter[str](), 0.0

        def take(**event: Any) -> None:
            nonlocal due
            emit(**event)
            seen.update({name: number for name, number in event.items() if isinstance(number, int)})
            if time.monotonic() >= due:
                due = time.monotonic() + _EVERY_S
                self.show(describe(seen))

        session.emit = take
        try:
            yield
        finally:
            session.emit = emit
        if seen:
            self.show(describe(seen))


def failure(exception: BaseException) -> str:
    """Return the kind of an error: its class, and what that means."""
    kind = type(exception)
    if isinstance(exception, VaultikError):
        return f"{kind.__name__}: {(kind.__doc__ or '').partition(chr(10))[0]} The host's own output tells more."
    if isinstance(exception, OSError) and exception.errno:
        return f"{kind.__name__}: {errno.errorcode.get(exception.errno, exception.errno)}. The host's own output tells more."
    return f"{kind.__name__}. The host's own output tells more."


def percent(done: float, total: float) -> int:
    """Return a part of a whole, 0 to 100."""
    return min(100, int(100 * done / total)) if total else 100
