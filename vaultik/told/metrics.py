"""A run's figures as a Prometheus textfile, for node_exporter. The one door to prometheus-client.

What is there is replaced at once by the new file. Everything comes from the index and the run at hand, so
that a run that fails tells of itself without losing what the last good one told.
"""

from __future__ import annotations

import stat
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

if TYPE_CHECKING:
    from pathlib import Path

    from vaultik.index.history import History
    from vaultik.told.facts import Facts

_READABLE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH

_OF_LAST_SUCCESS = {
    "files": ("files", "Files in the last snapshot."),
    "bytes": ("bytes", "Bytes of the files in the last snapshot."),
    "read_bytes": ("bytes_read", "Bytes that the last successful backup read."),
    "new_bytes": ("bytes_new", "Bytes that the last successful backup read and had not stored before."),
    "stored_bytes": ("bytes_stored", "Bytes that the last successful backup stored, compressed and encrypted."),
    "unreadable_files": ("unreadable", "Files that the last successful backup could not read."),
}


def write_metrics(path: Path, facts: Facts, history: History) -> None:
    """Write the figures of a run that has ended.

    Args:
        path: of the file, in a directory that is there.
        facts: the run.
        history: what the index says of it and of earlier ones.

    Raises:
        OSError: the file can't be written; an older one stays as it was.
    """
    now = time.time()
    registry = CollectorRegistry()
    figures = {
        "last_attempt_timestamp_seconds": (now, "When the last backup ended, well or not."),
        "last_success_timestamp_seconds": (history.last_success, "When the last successful backup ended, 0 if never."),
        "last_exit_code": (facts.exit_code or 0, "Exit code of the last backup: 0 and 3 are successful."),
        "duration_seconds": (facts.seconds, "How long the last backup took."),
        "failures": (history.failures, "Backups that failed since the last successful one."),
        "snapshots_written": (history.snapshots, "Snapshots that the last 1000 backups wrote."),
    }
    figures |= {name: (history.counts.get(key, 0), text) for name, (key, text) in _OF_LAST_SUCCESS.items()}
    for name, (value, text) in figures.items():
        Gauge(f"vaultik_backup_{name}", text, ["config"], registry=registry).labels(facts.config).set(value)
    write_to_textfile(str(path), registry)
    # Whatever this process's umask: others read it.
    path.chmod(_READABLE)
