"""One run at a time: a flock beside the index, inherited over fork, gone with its last holder."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from vaultik.errors import IndexLockedError
from vaultik.index.db import map_error

if TYPE_CHECKING:
    from pathlib import Path


class RunLock:
    """An exclusive lock on an index, held until `release` or the end of all processes that inherited it."""

    def __init__(self, index_path: Path) -> None:
        """Take the lock.

        Raises:
            IndexLockedError: another run holds it.
            LocalIndexError: the lock file can't be made.
        """
        self._path = index_path.with_name(index_path.name + ".lock")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise map_error(exc, self._path) from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._fd)
            raise IndexLockedError(
                f"index {index_path}: another run is going on",
                hint="try again when it has ended; with --cron this is no error",
            ) from exc

    def release(self) -> None:
        """Let the next run begin."""
        os.close(self._fd)
