"""A restored tree's directories: made first, and given their attributes when all that is in them is done.

Until then one that was made is private, one that was there is no wider than it shall become, and all are open to
their owner; so a restore that is interrupted anywhere can be continued.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY
from vaultik.restore import kept
from vaultik.restore.ledger import guarded, iter_ids
from vaultik.snapshot.tree import get_entry, path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Iterator

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

_WANTED = "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd' AND e.id <> 1"


class Directories:
    """The wanted directories of a target."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter) -> None:
        self._copy = copy
        self._target = target
        self._attributes = attributes

    def _below(self) -> Iterator[int]:
        """Yield every wanted directory below the target's own, parents first: a child has a larger id than its parent."""
        return (number for number in iter_ids(self._copy, f"{_WANTED} ORDER BY 1") if number != self._target.root)

    def note_standing(self, made: Container[bytes]) -> None:
        """Note which of those that only lead to what is wanted stand, and not by an earlier plan: they keep what they have.

        Args:
            made: paths of those that an earlier plan may have made.
        """
        for number in iter_ids(self._copy, "SELECT entry FROM above ORDER BY 1"):
            with suppress(OSError):
                there = self._target.find(number)
                if there is not None and stat.S_ISDIR(there.st_mode) and path_of(self._copy, number) not in made:
                    self._copy.execute("UPDATE above SET stood = 1 WHERE entry = ?", (number,))

    def leave_standing(self) -> None:
        """Give those back what they had before they were opened up."""
        for number in iter_ids(self._copy, "SELECT entry FROM above WHERE stood ORDER BY 1 DESC"):
            with suppress(OSError):
                fd = self._open(number)
                try:
                    self._leave(number, fd)
                finally:
                    os.close(fd)

    def may_be_made(self) -> Iterator[bytes]:
        """Yield the paths of all that this plan may have made."""
        query = f"{_WANTED} AND e.id NOT IN (SELECT entry FROM above WHERE stood)"
        return (path_of(self._copy, number) for number in iter_ids(self._copy, query))

    def _stood(self, number: int) -> bool:
        """Tell whether a directory keeps what it has."""
        return self._copy.execute("SELECT 1 FROM above WHERE entry = ? AND stood", (number,)).fetchone() is not None

    def make(self) -> None:
        """Make every wanted directory, parents first."""
        for number in self._below():
            with guarded(self._copy, number):
                self._make(number)

    def ready(self) -> None:
        """Make every wanted directory, parents first, and undo what forbids changes in those that are there."""
        for number in iter_ids(self._copy, f"{_WANTED} ORDER BY 1"):
            with guarded(self._copy, number):
                if number == self._target.root or not self._make(number):
                    self._open_up(number)

    def _make(self, number: int) -> bool:
        entry = get_entry(self._copy, number)
        made = self._target.make_directory(entry)
        if made:
            fd = self._open(number)
            try:
                self._attributes.on_creation(entry, fd)
            finally:
                os.close(fd)
        return made

    def _open_up(self, number: int) -> None:
        fd = self._open(number)
        try:
            entry = get_entry(self._copy, number)
            stood = self._stood(number)
            self._attributes.loosen(entry, fd, keep=stood)
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            # Never wider than it shall be: what comes into it may be private by its directory alone.
            wanted = mode & (entry.mode | stat.S_IRWXU) if self._attributes.keeps.has(kept.MODE) and not stood else mode
            if os.geteuid():
                wanted |= stat.S_IRWXU
            if wanted != mode:
                if stood:
                    self._copy.execute("UPDATE above SET mode = ?, opened = ? WHERE entry = ?", (mode, wanted, number))
                with suppress(PermissionError):  # somebody else's; what can't be written below says so itself
                    os.fchmod(fd, wanted)
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Set directories' attributes where they aren't right yet, deepest first."""
        query = f"{_WANTED} AND e.id NOT IN (SELECT entry FROM failures) ORDER BY 1 DESC"
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
                fd = self._open(number)
                try:
                    if self._stood(number):
                        self._leave(number, fd)
                    else:
                        self._finish(get_entry(self._copy, number), fd)
                finally:
                    os.close(fd)

    def _leave(self, number: int, fd: int) -> None:
        """Put back what a directory had before it was opened up, unless somebody has changed it since."""
        mode, opened = self._copy.execute("SELECT mode, opened FROM above WHERE entry = ?", (number,)).fetchone()
        if mode is not None and stat.S_IMODE(os.fstat(fd).st_mode) == opened:
            os.fchmod(fd, mode)
        self._copy.execute("UPDATE above SET mode = NULL WHERE entry = ? AND mode IS NOT NULL", (number,))
        self._attributes.put_back(number, fd)

    def _finish(self, entry: Entry, fd: int) -> None:
        st = os.fstat(fd)
        if not self._attributes.same_time(entry, st) or not self._attributes.agree(entry, st, fd):
            self._attributes.loosen(entry, fd)
            self._attributes.on_descriptor(entry, fd)
        self._attributes.set_flags(entry, fd)

    def _open(self, number: int) -> int:
        if number == self._target.root:
            return os.dup(self._target.root_fd)
        directory, name = self._target.place(number)
        try:
            return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        except PermissionError:
            # Closed already, before this was interrupted.
            passing = os.open(name, OPEN_DIRECTORY | os.O_PATH, dir_fd=directory)
            try:
                Path(f"/proc/self/fd/{passing}").chmod(0o700)
                return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            finally:
                os.close(passing)
