"""Hold one name's stat against its row in the index, and write what changed.

It knows nothing of walks. Invariants: an entry whose type changed is a new entry; a changed regular
file keeps its old row until its new content is recorded.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vaultik.backup import attributes
from vaultik.directories import OPEN_DIRECTORY
from vaultik.index import contents, entries, mounts, renamed
from vaultik.model import FORMAT_OF_TYPE, EntryType, Mark, entry_type

if TYPE_CHECKING:
    import sqlite3

    from vaultik.backup.dirty import Links
    from vaultik.index.entries import Known

_KEPT_MARKS = Mark.CHANGED | Mark.STALE


class ScanCounts:
    """What a scan saw."""

    def __init__(self) -> None:
        self.files = self.directories = self.others = self.changed = self.removed = self.renamed = self.excluded = 0
        self.bytes = 0

    def add(self, st: os.stat_result) -> None:
        """Count an entry that was looked at."""
        if stat.S_ISREG(st.st_mode):
            self.files += 1
            self.bytes += st.st_size
        elif stat.S_ISDIR(st.st_mode):
            self.directories += 1
        else:
            self.others += 1

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return dict(vars(self))


class Comparer:
    """Brings entries up to date, within the scan's transaction."""

    def __init__(self, index: sqlite3.Connection, counts: ScanCounts, links: Links | None = None) -> None:
        """Prepare.

        Args:
            index: the index.
            counts: where to count what changed and what is gone.
            links: told of every changed inode that has several names, if others of them may not be looked at.
        """
        self._index = index
        self._counts = counts
        self._links = links
        self._new = entries.NewEntries(index)
        self.mounts = mounts.Mounts(index)
        self.writes = 0

    def root(self, fd: int, st: os.stat_result, mark: int) -> None:
        """Bring "/" up to date."""
        fresh = attributes.of_descriptor(fd, st, self.mounts.id_of(st.st_dev, fd, b"."))
        if entries.find_known(self._index, entries.ROOT) is None:
            self._new.add(None, b"", mark, fresh)
            self._new.flush()
        else:
            entries.set_attributes(self._index, entries.ROOT, mark, fresh)

    def update(
        self, parent: int, fd: int, name: bytes, st: os.stat_result, known: Known | None, marks: int
    ) -> int | None:
        """Write what changed of one entry. Returns its id, None if it has no place in a backup.

        Args:
            parent: id of the directory that it stands in.
            fd: that directory, open.
            name: its name.
            st: its lstat.
            known: its row, if it has one.
            marks: what its place says of it.

        Raises:
            OSError: it can't be looked at.
        """
        try:
            kind = entry_type(st.st_mode)
        except KeyError:
            return None
        mount = self.mounts.id_of(st.st_dev, fd, name)
        if known is not None and known.type != kind:
            self.remove(known.id)
            known = None
        if known is not None and _is_unchanged(known, st, mount, kind):
            if known.marks & ~_KEPT_MARKS != marks:
                entries.set_marks(self._index, known.id, marks | known.marks & _KEPT_MARKS)
            return known.id
        self.writes += 1
        self._counts.changed += 1
        if self._links is not None and kind != EntryType.DIRECTORY:
            self._links.note(known, st, mount)
        if kind == EntryType.FILE:
            return self._changed_file(parent, name, st, known, marks, mount)
        read = _directory_attributes if kind == EntryType.DIRECTORY else attributes.of_name
        fresh = read(fd, name, st, mount)
        if known is None:
            return self._new.add(parent, name, marks, fresh)
        entries.set_attributes(self._index, known.id, marks, fresh)
        return known.id

    def is_unchanged(self, known: Known, fd: int, name: bytes, st: os.stat_result) -> bool:
        """Tell whether what stands under a name in an open directory is just what its row says."""
        if FORMAT_OF_TYPE[known.type] != stat.S_IFMT(st.st_mode):
            return False
        return _is_unchanged(known, st, self.mounts.id_of(st.st_dev, fd, name), known.type)

    def is_same_directory(self, known: Known, fd: int, name: bytes, st: os.stat_result) -> bool:
        """Tell whether a directory is the one that the index knows the content of."""
        mount = self.mounts.id_of(st.st_dev, fd, name)
        is_it = known.type == EntryType.DIRECTORY and (known.mount, known.inode) == (mount, entries.signed(st.st_ino))
        return is_it and not known.again

    def remove(self, *tops: int) -> None:
        """Remove entries and everything below them; files may turn up under other names (`settle`)."""
        if not tops:
            return
        if self._links is not None:
            for entry in tops:
                self._links.note_removal(entry)
        self._counts.removed += entries.remove_trees(self._index, tops, renamed.set_aside)

    def remove_below(self, entry: int) -> None:
        """Remove everything below a directory."""
        self.remove(*(below.id for below in entries.children(self._index, entry).values()))

    def settle(self) -> None:
        """Find out, when all is looked at, what is gone and what has another name."""
        self._counts.renamed = renamed.settle(self._index)

    def flush(self) -> None:
        """Write what is new."""
        self._new.flush()

    def _changed_file(
        self, parent: int, name: bytes, st: os.stat_result, known: Known | None, marks: int, mount: int
    ) -> int:
        if known is None:
            return self._new.add_file(parent, name, marks, attributes.of_stat(st, mount), st)
        contents.set_inode(self._index, known.id, entries.signed(st.st_ino), mount, st.st_nlink)
        entries.set_marks(self._index, known.id, marks | known.marks & _KEPT_MARKS, again=True)
        contents.set_changed(self._index, known.id, st, unread=bool(known.marks & Mark.UNREADABLE))
        return known.id


def _directory_attributes(parent: int, name: bytes, st: os.stat_result, mount: int) -> entries.Attributes:
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    except OSError:
        return attributes.of_name(parent, name, st, mount)
    try:
        return attributes.of_descriptor(fd, st, mount)
    finally:
        os.close(fd)


def _is_unchanged(known: Known, st: os.stat_result, mount: int, kind: str) -> bool:
    return (
        known.mtime_ns == entries.time_ns(st.st_mtime_ns)
        and known.ctime_ns == entries.time_ns(st.st_ctime_ns)
        and (known.size == st.st_size or kind != EntryType.FILE)
        and known.inode == entries.signed(st.st_ino)
        and known.mount == mount
        and not known.again
    )
