"""One run, and one daemon, at a time: a flock beside the index, inherited over fork, gone with its last holder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik.directories import make_private
from vaultik.errors import IndexLockedError
from vaultik.index.db import map_error

if TYPE_CHECKING:
    from pathlib import Path

_LOOKS = 5
_LOOK_S = 0.02
"""`is_locked` holds a lock for an instant: only one that stays is somebody's."""


class RunLock:
    """An exclusive lock on an index, held until `release` or the end of all processes that inherited it."""

    def __init__(self, index_path: Path) -> None:
        """Take the lock.

        Raises:
            IndexLockedError: another run holds it.
            LocalIndexError: the lock file can't be made, or everybody may write beside it.
        """
        self._path = run_lock_path(index_path)
        try:
            make_private(self._path.parent)
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise map_error(exc, self._path) from exc
        if not take(self._fd):
            os.close(self._fd)
            raise IndexLockedError(
                f"index {index_path}: another run is going on",
                hint="try again when it has ended; with --cron this is no error",
            )

    def release(self) -> None:
        """Let the next run begin."""
        os.close(self._fd)


def run_lock_path(index_path: Path) -> Path:
    """Return the file whose lock a run holds."""
    return index_path.with_name(index_path.name + ".lock")


def take(fd: int) -> bool:
    """Lock an open file, exclusively, without waiting for who holds it. Returns whether that was possible."""
    for look in range(_LOOKS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if look + 1 < _LOOKS:
                time.sleep(_LOOK_S)
        else:
            return True
    return False


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock of a file, without making the file or keeping anybody from taking it.

    Raises:
        OSError: the file is there and can't be opened.
    """
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno != errno.EWOULDBLOCK:
                raise
            return True
        finally:
            os.close(fd)
    return False
