"""Tell systemd how the service is: sd_notify(3)'s protocol, text datagrams to the socket that NOTIFY_SOCKET names.

Where nobody listens, everything here does nothing: the daemon never fails for want of a listener.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

_MOST_STATUS = 500


class ServiceManager:
    """Whoever started this process and wants to know how it is."""

    def __init__(self) -> None:
        """Take the socket and the watchdog's interval out of the environment, so that no child speaks for this process."""
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        of = os.environ.pop("WATCHDOG_PID", "")
        meant = microseconds.isdecimal() and of in ("", str(os.getpid()))
        self.watchdog_s = int(microseconds) / 2e6 if meant and int(microseconds) else None
        """How often `turn` speaks, half of what systemd waits for; None if it doesn't."""
        self._status = ""
        self._turned = float("-inf")

    def ready(self) -> None:
        """The watches are placed; also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The config is being read again; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The daemon ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        text = " ".join(text.split())[:_MOST_STATUS]
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def turn(self) -> None:
        """The loop has turned: feed the watchdog if it is time."""
        if self.watchdog_s is not None and time.monotonic() - self._turned >= self.watchdog_s:
            self._turned = time.monotonic()
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0)
            sender.sendto(text.encode(), self._address)
