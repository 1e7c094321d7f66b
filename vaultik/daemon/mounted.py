"""What is mounted where, to be held against what was."""

from __future__ import annotations

import re
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_points() -> dict[bytes, tuple[bytes, ...]]:
    """Return by mount point what is mounted there, the uppermost last."""
    return parse_mount_points(Path("/proc/self/mountinfo").read_bytes())


def parse_mount_points(text: bytes) -> dict[bytes, tuple[bytes, ...]]:
    """Return the same from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    Of each mount its id, its device and the part of it that is mounted.
    """
    found: dict[bytes, tuple[bytes, ...]] = {}
    for line in text.splitlines():
        number, _parent, device, root, point, *_ = line.split(b" ")
        where = _ESCAPE.sub(lambda escape: bytes([int(escape[1], 8)]), point)
        found[where] = (*found.get(where, ()), b" ".join((number, device, root)))
    return found
