"""Walk the sources, compare directory by directory with the index, write only what changed.

It reads no file content: regular files that changed go on the index's list. Invariants: one
directory's names are in memory at a time; every directory is reached by descriptors without
following a symlink. Told what is dirty, it looks only at that, by the same steps, and leaves the
rest of the index as it stands: what it comes to is what a scan of everything comes to.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup import limits, sources
from vaultik.backup.compare import Comparer, ScanCounts
from vaultik.backup.nodump import NodumpFlags
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.index import contents, entries, runs, streams
from vaultik.model import Mark

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.backup.dirty import Dirty
    from vaultik.backup.exclude import Excludes
    from vaultik.index.entries import Known

_WRITES_PER_TRANSACTION = 20_000
_GONE = (FileNotFoundError, NotADirectoryError)


class _Todo(NamedTuple):
    """A directory to look into.

    `ways` are the names in an implied parent that lead to sources.
    """

    entry: int
    path: bytes
    device: int
    ways: sources.Ways | None
    deep: bool
    """Whether what is below directories in it is looked at too, though nothing tells that it changed."""

    @property
    def depth(self) -> int:
        """How many names below `/` it lies."""
        return 0 if self.path == b"/" else self.path.count(b"/")

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
        dirty: Dirty | None = None,
        progress: Callable[[int, int], None] = lambda _files, _bytes: None,
    ) -> None:
        """Prepare a scan.

        Args:
            index: the index, not within a transaction.
            run: row id of the run that problems are noted for.
            source_dirs: absolute, normal paths of directories or single files, none below another.
            excludes: what stays out.
            one_file_system: don't look into directories on another file system than their source.
            dirty: what changed since the index was up to date; None if nobody can tell.
            progress: told now and then how many files and bytes were seen since the last time.
        """
        self._index = index
        self._run = run
        self._sources = {path.rstrip(b"/") or b"/" for path in source_dirs}
        self._excludes = excludes
        self._one_file_system = one_file_system
        self._progress = progress
        self._told = (0, 0)
        self._made_up = streams.ids(index)
        self._gaps = entries.gaps(index)
        self._cache: DirectoryCache | None = None
        self._dirty = dirty
        self.counts = ScanCounts()
        self._comparer = Comparer(index, self.counts, dirty.links if dirty else None)
        self._nodump = NodumpFlags(index, self._comparer, heeded=excludes.nodump)

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
            self._comparer.settle()
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
        self._comparer.root(root_fd, st, Mark.SOURCE if whole else Mark.IMPLIED)
        deep = self._dirty.take(entries.ROOT) if self._dirty else True
        if deep is not None or not whole:
            self._look(_Todo(entries.ROOT, b"/", st.st_dev, None if whole else ways, bool(deep)))
        while self._dirty is not None and (entry := self._dirty.next()) is not None:
            todo = self._name(entry)
            if todo is not None:
                self._look(todo)

    def _look(self, first: _Todo) -> None:
        todo = [first]
        while todo:
            # The last directory of a level comes first, so that what is open stays of use.
            todo.extend(self._directory(todo.pop()))

    def _name(self, entry: int) -> _Todo | None:
        """Look at one name that the index knows, by itself. Returns it if it is a directory to look into."""
        assert self._cache is not None
        assert self._dirty is not None
        known = entries.find_known(self._index, entry)
        if known is None or known.marks & (Mark.SOURCE | Mark.IMPLIED):
            # It went with what it was in, or was looked at on the way to the sources.
            self._dirty.take(entry)
            return None
        parent, name = entries.parent_and_name(self._index, entry)
        at = _Todo(parent, entries.path_of(self._index, parent), 0, None, deep=False)
        todo = None
        try:
            fd = self._cache.open(parent)
            at = at._replace(device=os.fstat(fd).st_dev)
        except OSError as exc:
            self._no_directory(at, exc)
        else:
            # What the index knows is not left out; what becomes so is a change of its directory.
            for _, st in self._stats(fd, at, [name], every=True):
                todo = self._entry(at, fd, name, st, known)
                break
            else:
                self._comparer.remove(entry)
        self._dirty.take(entry)
        self._comparer.flush()
        self._pause()
        return todo

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
        if at.entry in self._gaps:
            entries.clear_gap(self._index, at.entry)
            self._gaps.discard(at.entry)
        known = entries.children(self._index, at.entry)
        # What is on no disk is nothing to look for; its name is taken.
        made_up = {name for name, entry in known.items() if entry.id in self._made_up}
        known = {name: entry for name, entry in known.items() if name not in made_up}
        before = len(known)
        for name, st in names:
            if name in made_up:
                continue
            todo = self._entry(at, fd, name, st, known.pop(name, None))
            if todo is not None:
                below.append(todo)
        if at.path in self._sources and before and len(known) == before:
            text = f"source {os.fsdecode(at.path)}: nothing is left of what it held; is its disk mounted?"
            runs.add_problem(self._index, self._run, runs.WARNING, at.path, text)
        self._comparer.remove(*(gone.id for gone in known.values()))
        self._comparer.flush()
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
                self._no_entry(at, name, exc)
                continue
            if not every and self._excludes.excludes(base + name, st):
                self.counts.excluded += 1
            else:
                yield name, st

    def _entry(self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None) -> _Todo | None:
        """Bring one entry up to date. Returns it if it is a directory to look into."""
        ways = None if at.ways is None else at.ways[name]
        marks = 0 if at.ways is None else Mark.SOURCE if ways is None else Mark.IMPLIED
        self.counts.add(st)
        deep = self._is_deep(at, fd, name, st, known)
        try:
            limits.check_entry(name, st, at.depth + 1)
            if not marks and self._nodump.leave_out(fd, name, st, known):
                self.counts.excluded += 1
                if known is not None:
                    self._comparer.remove(known.id)
                return None
            entry = self._comparer.update(at.entry, fd, name, st, known, marks)
        except OSError as exc:
            self._no_entry(at, name, exc)
            if known is not None:
                self._comparer.remove(known.id)
            return None
        if entry is None or not stat.S_ISDIR(st.st_mode) or (deep is None and ways is None):
            return None
        if not marks and st.st_dev != at.device and self._stays_out(st.st_dev):
            self._comparer.remove_below(entry)
            return None
        return _Todo(entry, at.below(name), st.st_dev, ways, bool(deep))

    def _stays_out(self, device: int) -> bool:
        """Tell whether another file system is not looked into."""
        return self._one_file_system or self._comparer.mounts.is_pseudo(device)

    def _is_deep(self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None) -> bool | None:
        """Tell whether to look at everything in a directory: all below it (True), its entries, or nothing (None)."""
        wanted = self._dirty.take(known.id) if self._dirty is not None and known is not None else None
        if at.deep or known is None or not self._comparer.is_same_directory(known, fd, name, st):
            return True
        return wanted

    def _no_directory(self, at: _Todo, exc: OSError) -> None:
        """Keep a directory that can't be looked into, without what was in it; one that is gone goes.

        Raises:
            SourceError: it is a source, or leads to one.
        """
        if at.ways is not None or at.path in self._sources:
            raise sources.missing(at.path, exc) from exc
        if isinstance(exc, _GONE):
            self._comparer.remove(at.entry)
            return
        self._comparer.remove_below(at.entry)
        entries.set_marks(self._index, at.entry, Mark.UNREADABLE, again=True)
        self._problem(at.path, exc)

    def _no_entry(self, at: _Todo, name: bytes, exc: OSError) -> None:
        """Note a name that can't be told anything of; it has no place in the snapshot, which has a gap there."""
        if not isinstance(exc, _GONE):
            self._problem(at.below(name), exc)
            entries.set_gap(self._index, at.entry)
            self._gaps.add(at.entry)

    def _problem(self, path: bytes, exc: OSError) -> None:
        runs.add_problem(self._index, self._run, runs.UNREADABLE, path, exc.strerror or str(exc))

    def _pause(self) -> None:
        """Commit now and then, so that a killed scan of a big tree need not begin again."""
        self._tell()
        if self._comparer.writes >= _WRITES_PER_TRANSACTION:
            self._index.execute("COMMIT")
            self._index.execute("BEGIN IMMEDIATE")
            self._comparer.writes = 0

    def _tell(self) -> None:
        files, size = self._told
        self._progress(self.counts.files - files, self.counts.bytes - size)
        self._told = (self.counts.files, self.counts.bytes)
