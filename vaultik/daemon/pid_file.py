"""One daemon per index: a file beside it that holds the daemon's process id, locked while it lives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaultik.directories import make_private
from vaultik.errors import LocalIndexError
from vaultik.index.db import map_error
from vaultik.index.lock import is_locked, take

if TYPE_CHECKING:
    from pathlib import Path


class PidFile:
    """The lock of a daemon, inherited over fork, and its process id for whoever wants to signal it."""

    def __init__(self, index_path: Path) -> None:
        """Take the lock; the id is written by `write`.

        Raises:
            LocalIndexError: a daemon holds it, the file can't be made, or everybody may write beside it.
        """
        self.path = pid_path(index_path)
        try:
            make_private(self.path.parent)
            self.fd = self._open(index_path)
        except OSError as exc:
            raise map_error(exc, self.path) from exc

    def _open(self, index_path: Path) -> int:
        while True:
            fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if not take(fd):
                os.close(fd)
                pid = read_pid(index_path)
                raise LocalIndexError(
                    f"index {index_path}: a daemon is running already" + (f" (process {pid})" if pid else ""),
                    hint="one daemon per index; `vaultik status CONFIG` tells of it",
                )
            # The last daemon may have removed it between the two steps.
            if self.path.exists() and os.path.samestat(os.fstat(fd), self.path.lstat()):
                return fd
            os.close(fd)

    def write(self) -> None:
        """Put this process's id into it.

        Raises:
            OSError: the disk is full.
        """
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, b"%d\n" % os.getpid(), 0)

    def remove(self) -> None:
        """Remove the file and let the next daemon begin."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


def pid_path(index_path: Path) -> Path:
    """Return where a daemon's process id stands."""
    return index_path.with_name(index_path.name + ".pid")


def read_pid(index_path: Path) -> int | None:
    """Return the process id of the daemon of an index; None if none lives, 0 for one that begins or ends just now.

    Raises:
        OSError: the file is there and can't be opened.
    """
    path = pid_path(index_path)
    if not is_locked(path):
        return None
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdecimal() else 0
