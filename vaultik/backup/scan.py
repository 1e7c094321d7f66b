"""Walk the sources, compare directory by directory with the index, write only what changed.

It reads no file content: regular files that changed go on the index's list. Invariants: one
directory's names are in memory at a time; every directory is reached by descriptors without
following a symlink; an entry whose type changed is a new entry; a changed regular file keeps its
old row until its new content is recorded.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup import attributes, limits, sources
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.index import contents, entries, mounts, runs
from vaultik.model import EntryType, Mark, entry_type

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.backup.exclude import Excludes
    from vaultik.index.entries import Known

_WRITES_PER_TRANSACTION = 20_000
_GONE = (FileNotFoundError, NotADirectoryError)
_KEPT_MARKS = Mark.CHANGED | Mark.STALE


class ScanCounts:
    """What a scan saw."""

    def __init__(self) -> None:
        self.files = self.directories = self.others = self.changed = self.removed = self.excluded = self.bytes = 0

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return dict(vars(self))


class _Todo(NamedTuple):
    """A directory to look into; `ways` are the names in an implied parent that lead to sources."""

    entry: int
    path: bytes
    depth: int
    """How many names below `/` it lies."""
    device: int
    ways: sources.Ways | None

    def below(self, name: bytes) -> bytes:
        return (self.path if self.path.endswith(b"/") else self.path + b"/") + name


class Scan:
    """One scan of all sources into the index."""

    def __init__(
        self,
        index: sqlite3.Connection,
        run: int,
        *,
        source_dirs: Sequence[bytes],
        excludes: Excludes,
        one_file_system: bool = False,
        progress: Callable[[int, int], None] = lambda _files, _bytes: None,
    ) -> None:
        """Prepare a scan.

        Args:
            index: the index, not within a transaction.
            run: row id of the run that problems are noted for.
            source_dirs: absolute, normal paths of directories or single files, none below another.
            excludes: what stays out.
            one_file_system: don't look into directories on another file system than their source.
            progress: told now and then how many files and bytes were seen since the last time.
        """
        self._index = index
        self._run = run
        self._sources = {path.rstrip(b"/") or b"/" for path in source_dirs}
        self._excludes = excludes
        self._one_file_system = one_file_system
        self._progress = progress
        self._told = (0, 0)
        self._mounts = mounts.Mounts(index)
        self._new = entries.NewEntries(index)
        self._cache: DirectoryCache | None = None
        self._writes = 0
        self.counts = ScanCounts()

    def run(self) -> ScanCounts:
        """Scan everything.

        Raises:
            SourceError: a source is missing, is reached through a symlink, or can't be opened; the
                index is as it was as far as that source goes.
        """
        ways = sources.find_ways(self._sources)
        root_fd = os.open(b"/", OPEN_DIRECTORY)
        self._cache = DirectoryCache(entries.ROOT, root_fd, lambda entry: entries.parent_and_name(self._index, entry))
        self._index.execute("BEGIN IMMEDIATE")
        try:
            self._walk(root_fd, ways)
            contents.link_groups(self._index)
            self._index.execute("COMMIT")
        finally:
            if self._index.in_transaction:
                self._index.execute("ROLLBACK")
            self._cache.close()
            os.close(root_fd)
        self._tell()
        return self.counts

    def _walk(self, root_fd: int, ways: sources.Ways) -> None:
        st = os.fstat(root_fd)
        whole = b"/" in self._sources
        self._root(root_fd, st, Mark.SOURCE if whole else Mark.IMPLIED)
        todo = [_Todo(entries.ROOT, b"/", 0, st.st_dev, None if whole else ways)]
        while todo:
            # The last directory of a level comes first, so that what is open stays of use.
            todo.extend(self._directory(todo.pop()))

    def _root(self, fd: int, st: os.stat_result, mark: Mark) -> None:
        fresh = attributes.of_descriptor(fd, st, self._mounts.id_of(st.st_dev, fd, b"."))
        if entries.find_known(self._index, entries.ROOT) is None:
            self._new.add(None, b"", mark, fresh)
            self._new.flush()
        else:
            entries.set_attributes(self._index, entries.ROOT, mark, fresh)

    def _directory(self, at: _Todo) -> list[_Todo]:
        """Look into one directory. Returns those below it to look into."""
        assert self._cache is not None
        below = []
        try:
            fd = self._cache.open(at.entry)
            # Two steps: what fails here is the directory's.
            names = self._list(fd, at) if at.ways is None else sources.stat_ways(fd, at.path, at.ways).items()
        except OSError as exc:
            self._no_directory(at, exc)
            return []
        known = entries.children(self._index, at.entry)
        before = len(known)
        for name, st in names:
            todo = self._entry(at, fd, name, st, known.pop(name, None))
            if todo is not None:
                below.append(todo)
        if at.path in self._sources and before and len(known) == before:
            text = f"source {os.fsdecode(at.path)}: nothing is left of what it held; is its disk mounted?"
            runs.add_problem(self._index, self._run, runs.WARNING, at.path, text)
        for gone in known.values():
            self.counts.removed += entries.remove_tree(self._index, gone.id)
        self._new.flush()
        self._pause()
        return below

    def _list(self, fd: int, at: _Todo) -> Iterator[tuple[bytes, os.stat_result]]:
        """Return the names in a directory that belong into the backup, with their lstat, one after the other."""
        listed = os.open(b".", OPEN_DIRECTORY, dir_fd=fd)
        try:
            names = [os.fsencode(name) for name in os.listdir(listed)]  # noqa: PTH208 - by descriptor
        finally:
            os.close(listed)
        tag = self._excludes.tag_of(fd, names)
        if tag is not None:
            self.counts.excluded += len(names) - 1
            names = [tag]
        return self._stats(fd, at, names, every=tag is not None)

    def _stats(self, fd: int, at: _Todo, names: list[bytes], *, every: bool) -> Iterator[tuple[bytes, os.stat_result]]:
        base = at.below(b"")
        for name in names:
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as exc:
                self._no_entry(base + name, exc)
                continue
            if not every and self._excludes.excludes(base + name, st):
                self.counts.excluded += 1
            else:
                yield name, st

    def _entry(self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None) -> _Todo | None:
        """Bring one entry up to date. Returns it if it is a directory to look into."""
        ways = None if at.ways is None else at.ways[name]
        marks = Mark(0) if at.ways is None else Mark.SOURCE if ways is None else Mark.IMPLIED
        self._count(st)
        try:
            limits.check_entry(name, st, at.depth + 1)
            entry = self._update(at, fd, name, st, known, marks)
        except OSError as exc:
            self._no_entry(at.below(name), exc)
            if known is not None:
                self.counts.removed += entries.remove_tree(self._index, known.id)
            return None
        if entry is None or not stat.S_ISDIR(st.st_mode):
            return None
        if not marks and st.st_dev != at.device and (self._one_file_system or self._mounts.is_pseudo(st.st_dev)):
            for below in entries.children(self._index, entry).values():
                self.counts.removed += entries.remove_tree(self._index, below.id)
            return None
        return _Todo(entry, at.below(name), at.depth + 1, st.st_dev, ways)

    def _update(
        self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None, marks: Mark
    ) -> int | None:
        """Write what changed of one entry. Returns its id, None if it has no place in a backup."""
        try:
            kind = entry_type(st.st_mode)
        except KeyError:
            return None
        mount = self._mounts.id_of(st.st_dev, fd, name)
        if known is not None and known.type != kind:
            self.counts.removed += entries.remove_tree(self._index, known.id)
            known = None
        if known is not None and _is_unchanged(known, st, mount, kind):
            if known.marks & ~_KEPT_MARKS != marks:
                entries.set_marks(self._index, known.id, marks | Mark(known.marks) & _KEPT_MARKS)
            return known.id
        self._writes += 1
        self.counts.changed += 1
        if kind == EntryType.FILE:
            return self._changed_file(at.entry, name, st, known, marks, mount)
        read = self._directory_attributes if kind == EntryType.DIRECTORY else attributes.of_name
        fresh = read(fd, name, st, mount)
        if known is None:
            return self._new.add(at.entry, name, marks, fresh)
        entries.set_attributes(self._index, known.id, marks, fresh)
        return known.id

    def _changed_file(
        self, parent: int, name: bytes, st: os.stat_result, known: Known | None, marks: Mark, mount: int
    ) -> int:
        if known is None:
            return self._new.add_file(parent, name, marks, attributes.of_stat(st, mount), st)
        contents.set_inode(self._index, known.id, entries.signed(st.st_ino), mount, st.st_nlink)
        entries.set_marks(self._index, known.id, marks | Mark(known.marks) & _KEPT_MARKS, again=True)
        contents.set_changed(self._index, known.id, st, unread=bool(known.marks & Mark.UNREADABLE))
        return known.id

    def _directory_attributes(self, parent: int, name: bytes, st: os.stat_result, mount: int) -> entries.Attributes:
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        except OSError:
            return attributes.of_name(parent, name, st, mount)
        try:
            return attributes.of_descriptor(fd, st, mount)
        finally:
            os.close(fd)

    def _no_directory(self, at: _Todo, exc: OSError) -> None:
        """Keep a directory that can't be looked into, without what was in it; one that is gone goes.

        Raises:
            SourceError: it is a source, or leads to one.
        """
        if at.ways is not None or at.path in self._sources:
            raise sources.missing(at.path, exc) from exc
        if isinstance(exc, _GONE):
            self.counts.removed += entries.remove_tree(self._index, at.entry)
            return
        for below in entries.children(self._index, at.entry).values():
            self.counts.removed += entries.remove_tree(self._index, below.id)
        entries.set_marks(self._index, at.entry, Mark.UNREADABLE, again=True)
        self._problem(at.path, exc)

    def _no_entry(self, path: bytes, exc: OSError) -> None:
        """Note a name that can't be told anything of; it has no place in the snapshot."""
        if not isinstance(exc, _GONE):
            self._problem(path, exc)

    def _problem(self, path: bytes, exc: OSError) -> None:
        runs.add_problem(self._index, self._run, runs.UNREADABLE, path, exc.strerror or str(exc))

    def _count(self, st: os.stat_result) -> None:
        if stat.S_ISREG(st.st_mode):
            self.counts.files += 1
            self.counts.bytes += st.st_size
        elif stat.S_ISDIR(st.st_mode):
            self.counts.directories += 1
        else:
            self.counts.others += 1

    def _pause(self) -> None:
        """Commit now and then, so that a killed scan of a big tree need not begin again."""
        self._tell()
        if self._writes >= _WRITES_PER_TRANSACTION:
            self._index.execute("COMMIT")
            self._index.execute("BEGIN IMMEDIATE")
            self._writes = 0

    def _tell(self) -> None:
        files, size = self._told
        self._progress(self.counts.files - files, self.counts.bytes - size)
        self._told = (self.counts.files, self.counts.bytes)


def _is_unchanged(known: Known, st: os.stat_result, mount: int, kind: EntryType) -> bool:
    return (
        known.mtime_ns == entries.time_ns(st.st_mtime_ns)
        and known.ctime_ns == entries.time_ns(st.st_ctime_ns)
        and (known.size == st.st_size or kind != EntryType.FILE)
        and known.inode == entries.signed(st.st_ino)
        and known.mount == mount
        and not known.again
    )
