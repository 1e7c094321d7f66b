"""What to say when one of inotify's limits is reached: what it means, and the sysctl that mends it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

from vaultik.daemon.inotify import limit


class _Limit(NamedTuple):
    sysctl: str
    value: int


def too_few_watches(needed: int) -> str:
    """Return what to say when not all directories can be watched, with a number that leaves room."""
    allowed = _effective("max_user_watches", "max_inotify_watches")
    fitting = 1 << (max(needed, allowed.value) * 3 // 2).bit_length()
    return (
        f"the {needed:,} directories can't all be watched, all programs of this user may watch {allowed.value:,}:"
        f" sysctl {allowed.sysctl}={fitting}"
    )


def no_instance(exc: OSError) -> str:
    """Return what to say when inotify can't be used at all."""
    if exc.errno not in (errno.EMFILE, errno.ENFILE):
        return f"nothing can be watched: {exc.strerror}"
    allowed = _effective("max_user_instances", "max_inotify_instances")
    return (
        "nothing can be watched, this user has too many inotify instances or this process too many open files:"
        f" sysctl {allowed.sysctl}={max(128, 4 * allowed.value)}"
    )


def lost_events() -> str:
    """Return what to say when the kernel had to throw events away."""
    queue = limit("max_queued_events")
    return (
        f"more than {queue:,} changes waited to be seen, some are lost: sysctl fs.inotify.max_queued_events={4 * queue}"
    )


def _effective(name: str, name_in_namespace: str) -> _Limit:
    """Return the smaller of the machine's limit and the user namespace's (a container may have its own)."""
    machine = _Limit(f"fs.inotify.{name}", limit(name))
    try:
        own = int(Path("/proc/sys/user", name_in_namespace).read_text())
    except (OSError, ValueError):
        return machine
    return _Limit(f"user.{name_in_namespace}", own) if own < machine.value else machine
