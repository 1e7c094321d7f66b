"""Telling others of a run: hooks around it, a ping to whoever waits for it, figures for Prometheus.

`attendance` is the one place where all of it is begun; what fails here never changes what a run came to,
but for a hook before it.
"""

from vaultik.told.attendance import Attendance

__all__ = ["Attendance"]
