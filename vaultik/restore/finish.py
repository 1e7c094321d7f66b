"""Everything of a restore that isn't a blob's content: directories before it; links, special files and attributes after."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.directories import OPEN_DIRECTORY
from vaultik.model import FORMAT_OF_TYPE, EntryType
from vaultik.restore.attributes import SETTABLE_FLAGS, SPECIAL
from vaultik.restore.target import clear_way, make_directory, temporary_name
from vaultik.restore.tree import get_entry
from vaultik.restore.write import finish_file

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.restore.tree import Entry

_RANGE = 10_000


def make_directories(copy: sqlite3.Connection, target: Target) -> None:
    """Make every wanted directory, parents first."""
    for number in _ids(
        copy, "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd' ORDER BY 1"
    ):
        if number != target.root:
            make_directory(*target.place(number))


class Finisher:
    """Finishes a tree whose blobs have all been read."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter) -> None:
        self._copy = copy
        self._target = target
        self._attributes = attributes
        self.links = 0
        self.others = 0

    def run(self) -> None:
        """Do all of it, in the one order that keeps: content, links, special files, directories, flags, sync."""
        self.tree()
        self.flags()
        linux.syncfs(self._target.root_fd)

    def tree(self) -> None:
        """Do all but the last two steps."""
        self._damaged()
        self._files()
        self._hard_links()
        self._others()
        self._directories()

    def _damaged(self) -> None:
        """Remove what was written of files that can't be brought back: another blob may have held a part."""
        for number in _ids(self._copy, "SELECT entry FROM damage ORDER BY 1"):
            directory, _ = self._target.place(number)
            clear_way(directory, temporary_name(number))

    def _files(self) -> None:
        """Finish files without content of their own and those that several blobs share."""
        several = (
            "SELECT f.entry FROM files AS f JOIN entry_chunks AS ec ON ec.entry = f.content JOIN chunks AS c ON c.id = ec.chunk"
            " WHERE f.entry = f.prime GROUP BY f.entry HAVING min(c.blob) <> max(c.blob)"
        )
        for query in ("SELECT entry FROM files WHERE entry = prime AND chunks = 0 ORDER BY 1", several):
            for number in _ids(
                self._copy, f"SELECT entry FROM ({query}) WHERE entry NOT IN (SELECT entry FROM damage)"
            ):
                self._file(number)

    def _file(self, number: int) -> None:
        directory, _ = self._target.place(number)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        if not get_chunks(self._copy, number):
            flags |= os.O_CREAT | os.O_TRUNC
        try:
            fd = os.open(temporary_name(number), flags, 0o600, dir_fd=directory)
        except FileNotFoundError:
            return  # finished before this was interrupted
        finish_file(self._copy, self._target, self._attributes, number, fd)

    def _hard_links(self) -> None:
        query = "SELECT entry FROM files WHERE entry <> prime AND prime NOT IN (SELECT entry FROM damage) ORDER BY 1"
        for number in _ids(self._copy, query):
            (prime,) = self._copy.execute("SELECT prime FROM files WHERE entry = ?", (number,)).fetchone()
            # The first descriptor may be closed by the second place().
            source_directory, source = self._target.place(prime)
            held = os.dup(source_directory)
            try:
                directory, name = self._target.place(number)
                clear_way(directory, name)
                os.link(source, name, src_dir_fd=held, dst_dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(held)
            self.links += 1

    def _others(self) -> None:
        query = (
            "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type NOT IN ('f', 'd') ORDER BY 1"
        )
        for number in _ids(self._copy, query):
            entry = get_entry(self._copy, number)
            directory, name = self._target.place(number)
            clear_way(directory, name)
            if self._make(entry, directory, name):
                self._attributes.on_name(entry, directory, name)
                self.others += 1

    def _make(self, entry: Entry, directory: int, name: bytes) -> bool:
        if entry.type == EntryType.SYMLINK:
            assert entry.link_target is not None
            os.symlink(entry.link_target, name, dir_fd=directory)
            return True
        try:
            os.mknod(name, FORMAT_OF_TYPE[EntryType(entry.type)] | 0o600, entry.rdev or 0, dir_fd=directory)
        except PermissionError:
            self._attributes.refused[SPECIAL] += 1
            return False
        return True

    def _directories(self) -> None:
        """Set directories' attributes, deepest first: a child has a larger id than its parent."""
        query = "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd' AND e.id <> 1 ORDER BY 1 DESC"
        for number in _ids(self._copy, query):
            if number == self._target.root:
                self._attributes.on_descriptor(get_entry(self._copy, number), self._target.root_fd)
                continue
            directory, name = self._target.place(number)
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            try:
                self._attributes.on_descriptor(get_entry(self._copy, number), fd)
            finally:
                os.close(fd)

    def flags(self) -> None:
        """Set inode flags: nothing may be done to an immutable entry after."""
        query = (
            "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type IN ('f', 'd') AND e.id <> 1"
            f" AND e.inode_flags & {SETTABLE_FLAGS} AND e.id NOT IN (SELECT entry FROM damage) ORDER BY 1 DESC"
        )
        for number in _ids(self._copy, query):
            directory, name = self._target.place(number)
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            except OSError:
                continue
            try:
                self._attributes.set_flags(get_entry(self._copy, number), fd)
            finally:
                os.close(fd)


def get_chunks(copy: sqlite3.Connection, number: int) -> int:
    """Return how many chunks a planned file has."""
    return int(copy.execute("SELECT chunks FROM files WHERE entry = ?", (number,)).fetchone()[0])


def _ids(copy: sqlite3.Connection, query: str) -> Iterator[int]:
    """Yield ids in pieces, so that the loop's body may use the connection."""
    cursor = copy.execute(query)
    while rows := cursor.fetchmany(_RANGE):
        yield from (row[0] for row in rows)
