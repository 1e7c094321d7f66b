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

from vaultik.backup import attributes
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.errors import SourceError
from vaultik.index import entries, runs
from vaultik.model import EntryType, Mark, entry_type

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from vaultik.backup.exclude import Excludes
    from vaultik.index.entries import Known

_WRITES_PER_TRANSACTION = 20_000
_KEPT_MARKS = Mark.CHANGED | Mark.STALE


class ScanCounts:
    """What a scan saw."""

    def __init__(self) -> None:
        self.files = self.directories = self.others = self.changed = self.removed = self.excluded = self.bytes = 0

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return dict(vars(self))


class _Todo(NamedTuple):
    """A directory to look into; `wanted` is the part of an implied parent that leads to sources."""

    entry: int
    path: bytes
    device: int | None
    wanted: Mapping[bytes, object] | None


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
        self._mounts: dict[int, int] = {}
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
        wanted = self._check_sources()
        root_fd = os.open(b"/", OPEN_DIRECTORY)
        self._cache = DirectoryCache(entries.ROOT, root_fd, lambda entry: entries.parent_and_name(self._index, entry))
        self._index.execute("BEGIN IMMEDIATE")
        try:
            self._walk(wanted)
            entries.link_groups(self._index)
            self._index.execute("COMMIT")
        finally:
            if self._index.in_transaction:
                self._index.execute("ROLLBACK")
            self._cache.close()
            os.close(root_fd)
        self._tell()
        return self.counts

    def _check_sources(self) -> dict[bytes, object]:
        """Return the sources as a tree of names: a leaf (None) is a source, the rest leads to one."""
        tree: dict[bytes, object] = {}
        for source in sorted(self._sources):
            _refuse_symlinks(source)
            at = tree
            names = [name for name in source.split(b"/") if name]
            for name in names[:-1]:
                at = at.setdefault(name, {})  # type: ignore[assignment]
            if names:
                at[names[-1]] = None
        return tree

    def _walk(self, wanted: dict[bytes, object]) -> None:
        st = os.lstat(b"/")
        whole = b"/" in self._sources
        self._root(st, Mark.SOURCE if whole else Mark.IMPLIED)
        todo = [_Todo(entries.ROOT, b"/", st.st_dev if whole else None, None if whole else wanted)]
        while todo:
            # The last directory of a level comes first, so that what is open stays of use.
            todo.extend(self._directory(todo.pop()))

    def _root(self, st: os.stat_result, mark: Mark) -> None:
        known = entries.find_known(self._index, entries.ROOT)
        fresh = attributes.of_stat(st, self._mount(st))
        if known is None:
            assert self._new.add(None, b"", mark, fresh) == entries.ROOT
            self._new.flush()
        else:
            entries.set_attributes(self._index, entries.ROOT, mark, fresh)

    def _directory(self, at: _Todo) -> list[_Todo]:
        """Look into one directory. Returns those below it to look into."""
        assert self._cache is not None
        try:
            fd = self._cache.open(at.entry)
            names = self._list(fd, at)
        except OSError as exc:
            self._unreadable_directory(at, exc)
            return []
        known = entries.children(self._index, at.entry)
        below = [todo for name, st in names.items() if (todo := self._entry(at, fd, name, st, known.pop(name, None)))]
        for gone in known.values():
            self.counts.removed += entries.remove_tree(self._index, gone.id)
        self._new.flush()
        self._pause()
        return below

    def _list(self, fd: int, at: _Todo) -> dict[bytes, os.stat_result]:
        """Return the names in a directory that belong into the backup, with their lstat."""
        if at.wanted is not None:
            return {name: os.stat(name, dir_fd=fd, follow_symlinks=False) for name in at.wanted}
        with os.scandir(fd) as found:
            listing = {}
            for entry in found:
                name = os.fsencode(entry.name)
                try:
                    listing[name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
        tag = self._excludes.tag_of(fd, listing)
        if tag is not None:
            self.counts.excluded += len(listing) - 1
            return {tag: listing[tag]}
        base = at.path if at.path.endswith(b"/") else at.path + b"/"
        kept = {name: st for name, st in listing.items() if not self._excludes.excludes(base + name, st)}
        self.counts.excluded += len(listing) - len(kept)
        return kept

    def _entry(self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None) -> _Todo | None:
        """Bring one entry up to date. Returns it if it is a directory to look into."""
        marks = Mark(0)
        if at.wanted is not None:
            marks = Mark.SOURCE if at.wanted[name] is None else Mark.IMPLIED
        self._count(st)
        try:
            entry = self._update(at, fd, name, st, known, marks)
        except FileNotFoundError:
            if known is not None:
                self.counts.removed += entries.remove_tree(self._index, known.id)
            return None
        if entry is None or not stat.S_ISDIR(st.st_mode):
            return None
        path = at.path + name if at.path.endswith(b"/") else at.path + b"/" + name
        wanted = at.wanted[name] if at.wanted is not None else None
        device = st.st_dev if at.device is None else at.device
        if self._one_file_system and st.st_dev != device and marks != Mark.IMPLIED:
            for below in entries.children(self._index, entry).values():
                entries.remove_tree(self._index, below.id)
            return None
        return _Todo(entry, path, device if wanted is None else None, wanted)  # type: ignore[arg-type]

    def _update(
        self, at: _Todo, fd: int, name: bytes, st: os.stat_result, known: Known | None, marks: Mark
    ) -> int | None:
        """Write what changed of one entry. Returns its id, None if it has no place in a backup."""
        try:
            kind = entry_type(st.st_mode)
        except KeyError:
            return None
        mount = self._mount(st)
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
        entries.set_inode(self._index, known.id, entries.signed(st.st_ino), mount, st.st_nlink)
        entries.set_marks(self._index, known.id, marks | Mark(known.marks) & _KEPT_MARKS, again=True)
        entries.set_changed(self._index, known.id, st)
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

    def _unreadable_directory(self, at: _Todo, exc: OSError) -> None:
        """Keep a directory that can't be looked into, without what was in it."""
        if isinstance(exc, FileNotFoundError | NotADirectoryError) and at.wanted is None:
            return
        known = entries.find_known(self._index, at.entry)
        assert known is not None
        for below in entries.children(self._index, at.entry).values():
            entries.remove_tree(self._index, below.id)
        entries.set_marks(self._index, at.entry, Mark(known.marks) | Mark.UNREADABLE, again=True)
        runs.add_problem(self._index, self._run, runs.UNREADABLE, at.path, exc.strerror or str(exc))

    def _count(self, st: os.stat_result) -> None:
        if stat.S_ISREG(st.st_mode):
            self.counts.files += 1
            self.counts.bytes += st.st_size
        elif stat.S_ISDIR(st.st_mode):
            self.counts.directories += 1
        else:
            self.counts.others += 1

    def _mount(self, st: os.stat_result) -> int:
        mount = self._mounts.get(st.st_dev)
        if mount is None:
            with open("/proc/self/mountinfo", encoding="latin-1") as file:  # noqa: PTH123 - a kernel file
                identity = entries.mount_identities(file.read()).get(st.st_dev, f"device {st.st_dev}")
            mount = self._mounts[st.st_dev] = entries.mount_id(self._index, identity)
        return mount

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
        known.mtime_ns == st.st_mtime_ns
        and known.ctime_ns == st.st_ctime_ns
        and (known.size == st.st_size or kind != EntryType.FILE)
        and known.inode == entries.signed(st.st_ino)
        and known.mount == mount
        and not known.again
    )


def _refuse_symlinks(source: bytes) -> None:
    """Check that a source is there and stands where its path says.

    Raises:
        SourceError: it is missing, or a part of its path is a symlink.
    """
    shown = os.fsdecode(source)
    try:
        st = os.lstat(source)
        real = os.path.realpath(source, strict=True)
    except OSError as exc:
        raise SourceError(
            f"source {shown}: {exc.strerror}",
            hint="nothing was backed up; correct source_dirs or mount what is missing",
        ) from exc
    if real != source or stat.S_ISLNK(st.st_mode):
        raise SourceError(
            f"source {shown}: its path leads through a symbolic link", hint=f"name {os.fsdecode(real)} instead"
        )
    if not (stat.S_ISDIR(st.st_mode) or stat.S_ISREG(st.st_mode)):
        raise SourceError(
            f"source {shown}: neither a directory nor a regular file", hint="name the directory that holds it"
        )
