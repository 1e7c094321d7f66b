"""Entries that stay out of a backup by their own flag (`chattr +d`), where the config says so (`exclude_nodump`)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.index import entries

if TYPE_CHECKING:
    import sqlite3

    from vaultik.backup.compare import Comparer
    from vaultik.index.entries import Known

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NodumpFlags:
    """Who has the flag. What is unchanged isn't opened for it: the index knows."""

    def __init__(self, index: sqlite3.Connection, comparer: Comparer, *, heeded: bool) -> None:
        """Prepare; nothing stays out unless the flag is `heeded`."""
        self._comparer = comparer
        self._heeded = heeded
        self._known = entries.with_flags(index, linux.NODUMP_FLAG) if heeded else set()

    def leave_out(self, directory: int, name: bytes, st: os.stat_result, known: Known | None) -> bool:
        """Tell whether what stands under a name in an open directory stays out; one that can't be opened doesn't."""
        if not self._heeded or not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
            return False
        if known is not None and self._comparer.is_unchanged(known, directory, name, st):
            return known.id in self._known
        try:
            fd = os.open(name, _OPEN, dir_fd=directory)
        except OSError:
            return False
        try:
            return linux.has_nodump(fd)
        finally:
            os.close(fd)
