"""Mounted file systems in the index, known by what is mounted: st_dev changes over reboots."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


def mount_id(index: sqlite3.Connection, identity: str) -> int:
    """Return the id of a mounted file system, known by what is mounted."""
    index.execute("INSERT OR IGNORE INTO mounts (identity) VALUES (?)", (identity,))
    return int(index.execute("SELECT id FROM mounts WHERE identity = ?", (identity,)).fetchone()[0])


def mount_identities(mountinfo: str) -> dict[int, str]:
    """Return the identity of every mounted file system by st_dev, from the text of /proc/self/mountinfo."""
    identities = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        device = left.split()[2]
        major, minor = (int(part) for part in re.fullmatch(r"(\d+):(\d+)", device).groups())  # type: ignore[union-attr]
        kind, what = right.split()[:2]
        identities[os.makedev(major, minor)] = f"{kind} {what}" if what.startswith("/") else f"{kind} {left.split()[4]}"
    return identities
