"""What changes around a source without an event: what is mounted, and what stands at the source's own path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Surroundings:
    """The mounts, and the sources' identities, as they were when this was last asked."""

    def __init__(self, sources: Iterable[bytes]) -> None:
        """Look for the first time."""
        self._identities = {source: _identity(source) for source in sources}
        self._mounts = mount_points()

    def replaced(self) -> bytes | None:
        """Return a source at whose path another file or directory stands, or none; None if all is as it was."""
        return next((source for source, before in self._identities.items() if _identity(source) != before), None)

    def remounted(self) -> list[bytes]:
        """Return where something was mounted or unmounted since the last time, parents first."""
        before, self._mounts = self._mounts, mount_points()
        return sorted(
            point for point in before.keys() | self._mounts.keys() if before.get(point) != self._mounts.get(point)
        )


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


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino
