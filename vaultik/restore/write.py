"""Write chunks into files. A file gets its own name only when every byte of it has been verified.

A file that one blob holds whole is finished with that blob; one that several blobs share stays under
its temporary name until all of them have been read (finish.py). So whatever is killed, what has its
own name is right, and a blob that is read again writes the same bytes to the same places.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from vaultik.restore.plan import Failure
from vaultik.restore.target import clear_way, is_fatal
from vaultik.restore.tree import get_entry

if TYPE_CHECKING:
    import sqlite3

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.plan import Uses
    from vaultik.restore.target import Target

_OPEN_AT_MOST = 64


class FileWriter:
    """Writes the files that use one blob."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter, uses: Uses) -> None:
        self._copy = copy
        self._target = target
        self._attributes = attributes
        self._left = Counter(entry for places in uses.places.values() for entry, _ in places)
        self._whole = {entry for entry, here in self._left.items() if self._chunks(entry) == here}
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._begun: set[int] = set()
        self.failures: dict[int, Failure] = {}
        self.finished = 0

    def write(self, entry: int, offset: int, data: bytes | memoryview) -> None:
        """Write a verified chunk at its place in a file; the last one finishes the file if it can be.

        What goes wrong with this file alone is kept in `failures`.

        Raises:
            OSError: the whole target failed.
        """
        if entry in self.failures:
            return
        try:
            self._write(entry, offset, data)
        except OSError as exc:
            if is_fatal(exc):
                raise
            self._give_up(entry, Failure(damaged=False, reason=exc.strerror or str(exc)))

    def damage(self, entry: int, reason: str) -> None:
        """Give a file up whose bytes can't be had."""
        self._give_up(entry, Failure(damaged=True, reason=reason))

    def close(self) -> None:
        """Close what is open."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _write(self, entry: int, offset: int, data: bytes | memoryview) -> None:
        fd = self._open(entry)
        at = 0
        while at < len(data):
            at += os.pwrite(fd, data[at:] if at else data, offset + at)
        self._left[entry] -= 1
        if not self._left[entry] and entry in self._whole:
            self._fds.pop(entry)
            finish_file(self._copy, self._target, self._attributes, entry, fd)
            self.finished += 1

    def _give_up(self, entry: int, failure: Failure) -> None:
        self.failures.setdefault(entry, failure)
        fd = self._fds.pop(entry, None)
        if fd is not None:
            os.close(fd)

    def _chunks(self, entry: int) -> int:
        return int(self._copy.execute("SELECT chunks FROM files WHERE entry = ?", (entry,)).fetchone()[0])

    def _open(self, entry: int) -> int:
        fd = self._fds.get(entry)
        if fd is not None:
            return fd
        if len(self._fds) >= _OPEN_AT_MOST:
            os.close(self._fds.popitem(last=False)[1])
        fresh = entry in self._whole and entry not in self._begun
        fd = self._fds[entry] = self._target.open_temporary(entry, fresh=fresh)
        self._begun.add(entry)
        return fd


def finish_file(copy: sqlite3.Connection, target: Target, attributes: AttributeWriter, number: int, fd: int) -> None:
    """Give a file whose bytes are all there its size, attributes and name. Closes the descriptor."""
    try:
        entry = get_entry(copy, number)
        if os.fstat(fd).st_size != entry.size:
            os.ftruncate(fd, entry.size)
        attributes.on_descriptor(entry, fd)
        directory, temporary = target.temporary(number)
        _, name = target.place(number)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(fd)


def remove_temporary(target: Target, number: int) -> None:
    """Remove what was written of a file that is given up."""
    clear_way(*target.temporary(number))
