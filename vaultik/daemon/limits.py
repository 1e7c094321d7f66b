"""What to say when one of inotify's limits is reached: what it means, and the sysctl that mends it."""

from __future__ import annotations

import errno

from vaultik.daemon.inotify import limit


def too_few_watches(needed: int) -> str:
    """Return what to say when not all directories can be watched, with a number that leaves room."""
    allowed = limit("max_user_watches")
    fitting = 1 << (max(needed, allowed) * 3 // 2).bit_length()
    return (
        f"the {needed:,} directories can't all be watched, this user may watch {allowed:,}:"
        f" sysctl fs.inotify.max_user_watches={fitting}"
    )


def no_instance(exc: OSError) -> str:
    """Return what to say when inotify can't be used at all."""
    if exc.errno not in (errno.EMFILE, errno.ENFILE):
        return f"nothing can be watched: {exc.strerror}"
    return (
        "nothing can be watched, this user has too many inotify instances or open files:"
        f" sysctl fs.inotify.max_user_instances={4 * limit('max_user_instances')}"
    )


def lost_events() -> str:
    """Return what to say when the kernel had to throw events away."""
    queue = limit("max_queued_events")
    return (
        f"more than {queue:,} changes waited to be seen, some are lost: sysctl fs.inotify.max_queued_events={4 * queue}"
    )
