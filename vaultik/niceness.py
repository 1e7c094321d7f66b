"""Let this process give way to others: `nice` and `ionice` of a config. The one door to psutil."""

from __future__ import annotations

import os

from vaultik.errors import ConfigError


def give_way(nice: int | None, ionice: str | None) -> None:
    """Lower this process's priorities, and with them those of every child from now on; nothing is ever raised.

    Called before there are threads: Linux keeps priorities for each.

    Args:
        nice: 0 to 19; None leaves it.
        ionice: `best-effort` (the lowest level of it) or `idle`; None leaves it.

    Raises:
        ConfigError: the kernel refuses it.
    """
    try:
        if nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
        if ionice is not None:
            _set_ionice(ionice)
    except OSError as exc:
        raise ConfigError(
            f"nice, ionice: {exc.strerror or exc}", hint="leave them out where a container or jail forbids them"
        ) from exc


def _set_ionice(kind: str) -> None:
    import psutil  # noqa: PLC0415 - only who sets it pays for the import

    process = psutil.Process()
    if kind == "idle":
        process.ionice(psutil.IOPRIO_CLASS_IDLE)
    elif process.ionice().ioclass != psutil.IOPRIO_CLASS_IDLE:
        process.ionice(psutil.IOPRIO_CLASS_BE, 7)
