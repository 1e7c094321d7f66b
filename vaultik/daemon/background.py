"""Go to the background as a service process does (PEP 3143, by python-daemon), and say whether that worked.

The process that was started waits until the daemon watches, so that its exit code tells the truth.
"""

from __future__ import annotations

import logging
import os
from typing import IO, TYPE_CHECKING, NoReturn

import daemon

from vaultik import interrupts
from vaultik.errors import VaultikError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READY = "ready"
_PRIVATE = 0o077


def start(
    serve: Callable[[Callable[[], None]], int],
    *,
    keep: Sequence[int],
    stderr: IO[str] | None = None,
    hint: str = "its log may tell more; so does --foreground",
) -> None:
    """Start a daemon: another session, working directory /, no descriptor of the caller's.

    Args:
        serve: what the daemon does; called with what it calls when it is ready. Returns its exit code.
        keep: descriptors that stay open in it.
        stderr: what stands in place of its standard error and output; None for nothing.
        hint: what to do if it ends before it is ready.

    Raises:
        VaultikError: it ended before it was ready.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            _live(serve, write_fd, keep, stderr)
        finally:
            os._exit(1)
    os.close(write_fd)
    with os.fdopen(read_fd) as said:
        answer = said.read()
    os.waitpid(pid, 0)
    if answer != _READY:
        raise VaultikError(answer or "the daemon ended at its start", hint=hint)


def _live(
    serve: Callable[[Callable[[], None]], int], write_fd: int, keep: Sequence[int], stderr: IO[str] | None
) -> NoReturn:
    context = daemon.DaemonContext(
        detach_process=True,
        umask=_PRIVATE,
        files_preserve=[*keep, write_fd],
        # The service takes its signals itself.
        signal_map={},
        stdout=stderr,
        stderr=stderr,
    )
    context.open()
    # Signals are this process's now.
    interrupts.install()

    waits = [write_fd]

    def answer(text: str) -> None:
        # Once: its number may be that of another file by now.
        if waits:
            fd = waits.pop()
            os.write(fd, text.encode())
            os.close(fd)

    try:
        code = serve(lambda: answer(_READY))
    except VaultikError as exc:
        if not waits:
            # Nobody waits for it any more: it is the log's.
            logging.getLogger("vaultik.daemon").error("%s", exc)  # noqa: TRY400 - a line
        else:
            answer(str(exc))
        code = exc.exit_code
    logging.shutdown()
    os._exit(code)
