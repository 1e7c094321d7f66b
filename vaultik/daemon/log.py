"""Where the daemon's log goes: standard error, a file, or the system's log. A line per event, nothing that moves a terminal."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from vaultik.errors import ConfigError
from vaultik.shown import printable

if TYPE_CHECKING:
    from pathlib import Path

_SYSLOG = "/dev/log"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Lines(logging.Formatter):
    """A time, a level, one printable line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, shape: str) -> None:
        super().__init__(shape, datefmt="%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.priority = _PRIORITIES.get(record.levelno, 6)
        return printable(super().format(record))


def to_stderr() -> logging.Logger:
    """Log to standard error; to the journal with its priorities, where it stands behind that (sd-daemon(3))."""
    shape = "<%(priority)d>%(message)s" if _is_journal() else "%(asctime)s %(levelname)s %(message)s"
    return _logger(logging.StreamHandler(sys.stderr), shape)


def to_file(path: Path) -> logging.Logger:
    """Log to a file, 0600 if it is made here; one that was rotated away is opened anew.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600))
        handler = logging.handlers.WatchedFileHandler(path)
    except OSError as exc:
        raise ConfigError(f"log file {path}: {exc.strerror}", hint="name a file that this user may write") from exc
    return _logger(handler, "%(asctime)s %(levelname)s %(message)s")


def to_syslog(address: str = _SYSLOG) -> logging.Logger:
    """Log to the system's log, which the journal is where there is one.

    Raises:
        ConfigError: there is none.
    """
    try:
        # The handler would wait for one for ever.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError as exc:
        raise ConfigError(
            f"no system log at {address}: {exc.strerror}",
            hint="log to a file with --log-file FILE, or to standard error with --foreground",
        ) from exc
    handler = logging.handlers.SysLogHandler(address, logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.append_nul = False
    return _logger(handler, "vaultik[%(process)d]: %(message)s")


def descriptors(logger: logging.Logger) -> list[int]:
    """Return the open descriptors of a log, to be kept over detaching."""
    found = []
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None) or getattr(handler, "socket", None)
        if stream is not None:
            found.append(stream.fileno())
    return found


def _logger(handler: logging.Handler, shape: str) -> logging.Logger:
    # A log that can't be written (a full disk) must not end the daemon, nor fill another place with tracebacks.
    logging.raiseExceptions = False
    handler.setFormatter(_Lines(shape))
    logger = logging.getLogger("vaultik.daemon")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def _is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
