"""Give files that were in the target, with the right content, the right attributes: nothing of them is fetched.

A file may have other names that are not the snapshot's, outside the target maybe. Those must not change
with it, so it gets an inode of its own, by a copy.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik.restore.ledger import guarded, iter_ids
from vaultik.restore.naming import READ
from vaultik.restore.tree import get_entry
from vaultik.restore.write import name_file

if TYPE_CHECKING:
    import sqlite3

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.restore.tree import Entry

_COPIED = 8 << 20


class Mender:
    """Mends what a comparison found."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter) -> None:
        self._copy = copy
        self._target = target
        self._attributes = attributes

    def mend(self) -> None:
        """Set the attributes of all that need it."""
        for number in iter_ids(
            self._copy, "SELECT entry FROM mend WHERE entry NOT IN (SELECT entry FROM failures) ORDER BY 1"
        ):
            with guarded(self._copy, number):
                self._mend(get_entry(self._copy, number))

    def _mend(self, entry: Entry) -> None:
        (apart,) = self._copy.execute("SELECT apart FROM mend WHERE entry = ?", (entry.id,)).fetchone()
        directory, name = self._target.place(entry.id)
        fd = os.open(name, READ, dir_fd=directory) if apart else None
        if fd is None:
            self._attributes.loosen_name(directory, name)
            self._attributes.on_name(entry, directory, name)
            return
        try:
            self._split(entry, fd)
        finally:
            os.close(fd)

    def _split(self, entry: Entry, source: int) -> None:
        """Give a file an inode of its own: its other names are not the snapshot's."""
        fd = self._target.make_temporary(entry.id)
        try:
            self._attributes.on_creation(entry, fd)
            _copy_data(source, fd, entry.size)
            name_file(self._target, self._attributes, entry, fd)
        except OSError:
            with suppress(OSError):
                self._target.remove_temporary(entry.id)
            raise
        finally:
            os.close(fd)


def _copy_data(source: int, fd: int, size: int) -> None:
    """Copy a file's data, not its holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        while at < end and (data := os.pread(source, min(_COPIED, end - at), at)):
            at += os.pwrite(fd, data, at)
