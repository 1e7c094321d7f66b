"""Give files that were in the target, with the right content, the right attributes: nothing of them is fetched.

A file may have other names that are not the snapshot's, outside the target maybe. Those must not change
with it, so it gets an inode of its own, by a copy. Hours may lie between the look at it and this: only the
very file that was seen then, untouched since, is mended.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.restore.ledger import guarded, iter_ids
from vaultik.restore.naming import READ
from vaultik.restore.write import name_file
from vaultik.snapshot.tree import get_entry

if TYPE_CHECKING:
    import sqlite3

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

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
        apart, seen = self._copy.execute("SELECT apart, seen FROM mend WHERE entry = ?", (entry.id,)).fetchone()
        fd = _open_seen(*self._target.place(entry), seen)
        try:
            if apart:
                self._split(entry, fd)
            else:
                self._attributes.loosen(entry, fd)
                self._attributes.on_descriptor(entry, fd)
        finally:
            os.close(fd)

    def _split(self, entry: Entry, source: int) -> None:
        """Give a file an inode of its own: its other names are not the snapshot's."""
        fd = self._target.make_temporary(entry)
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


def state_of(st: os.stat_result) -> str:
    """Return what changes with whatever is done to a file, and tells it from any other."""
    return f"{st.st_dev} {st.st_ino} {st.st_ctime_ns}"


def _open_seen(directory: int, name: bytes, seen: str) -> int:
    """Open the file under a name, if it is as it was seen; also one that its owner may not read.

    Raises:
        OSError: it isn't, or can't be opened.
    """
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        st = os.fstat(place)
        if state_of(st) != seen:
            raise OSError(errno.EBUSY, "was changed while it was restored")
        this = Path(f"/proc/self/fd/{place}")
        try:
            return os.open(this, READ & ~os.O_NOFOLLOW)
        except PermissionError:
            this.chmod(stat.S_IMODE(st.st_mode) | stat.S_IRUSR)
            return os.open(this, READ & ~os.O_NOFOLLOW)
    finally:
        os.close(place)


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
