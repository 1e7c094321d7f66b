"""Private temporary directories. What a killed process left of one goes when the next is made.

They hold names and sizes of what is backed up, in the clear, on the machine that has the identity; never content.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vaultik.directories import OPEN_DIRECTORY

if TYPE_CHECKING:
    from types import TracebackType

_PREFIX = ".vaultik-scratch-"


class ScratchDirectory:
    """A new directory (0700) below TMPDIR, locked as long as this process or a fork of it lives."""

    def __init__(self) -> None:
        """Make one, and remove what nobody has locked any more.

        Raises:
            OSError: there is no place for it.
        """
        where = Path(tempfile.gettempdir())
        _sweep(where)
        fd = None
        while fd is None:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
            # Another's sweep may have come first.
            fd = _lock(self.path)
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it; once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def _sweep(where: Path) -> None:
    for path in where.glob(f"{_PREFIX}*"):
        fd = _lock(path)
        if fd is not None:
            if os.fstat(fd).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
            os.close(fd)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock; None if somebody has it, or the directory is gone."""
    try:
        fd = os.open(path, OPEN_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd
