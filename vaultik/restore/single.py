"""Fetch one file or directory to a place of its own: the same steps as a restore, in one process, with no state kept."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vaultik.errors import IntegrityError, RestoreError, SelectionError
from vaultik.linux import AT_FDCWD, rename_noreplace
from vaultik.model import ChunkId, EntryType, Mark
from vaultik.restore import plan
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.blob import write_blob
from vaultik.restore.fetch import WantedChunk, fetch_chunks
from vaultik.restore.finish import FINISH, LAST, Finisher
from vaultik.restore.plan import connect
from vaultik.restore.progress import NoProgress, Progress
from vaultik.restore.report import RestoreReport, add_refused, make_report
from vaultik.restore.target import Target, target_errors
from vaultik.restore.tree import Entry, resolve
from vaultik.snapshot.find import select
from vaultik.snapshot.read import fetch_snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store


def fetch(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    paths: Sequence[bytes],
    target: Path,
    *,
    host: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, RestoreReport]:
    """Bring the entry at one of `paths`, with everything below it, to `target` (into it, if that is a directory).

    It is written aside and gets its name when it is complete; only into a directory that is there
    already (`force`) is it written in place.

    Returns:
        Where it stands now, and what was done.

    Raises:
        SelectionError: no such snapshot or path.
        RestoreError: something stands in the way and `force` is not given, or the disk failed.
        IntegrityError: the snapshot DB is missing or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="vaultik-") as state, closing(connect(Path(state) / "plan.sqlite")) as copy:
        fetch_snapshot(store, select(store, spec, identities, host), identities, Path(state), copy)
        entry = resolve(copy, paths)
        if Mark(entry.marks) & Mark.UNREADABLE and entry.type == "f":
            raise SelectionError(
                f"path {os.fsdecode(paths[0])}: could not be read when it was backed up", hint="try an older snapshot"
            )
        place = target / os.fsdecode(entry.name) if target.is_dir() and entry.name else target
        place = place.absolute()
        _check_place(place, entry, force=force)
        plan.make_plan(copy, entry.id)
        writing = _Writing(store, identities, copy, entry, progress or NoProgress())
        with target_errors(place):
            writing.run(place, force=force)
        return place, make_report(copy)


def fetch_to_stream(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    paths: Sequence[bytes],
    stream: BinaryIO,
    *,
    host: str | None = None,
) -> None:
    """Write the content of the file at one of `paths` to a stream, in order, each chunk checked before it is written.

    Raises:
        SelectionError: no such snapshot or path, or no file.
        IntegrityError: a chunk is missing or damaged; what was written before is right.
    """
    with tempfile.TemporaryDirectory(prefix="vaultik-") as state, closing(connect(Path(state) / "plan.sqlite")) as copy:
        fetch_snapshot(store, select(store, spec, identities, host), identities, Path(state), copy)
        entry = resolve(copy, paths)
        if entry.type != "f" or Mark(entry.marks) & Mark.UNREADABLE:
            raise SelectionError(
                f"path {os.fsdecode(paths[0])}: {_kind(entry)}", hint="only a file can go to standard output"
            )
        at = 0
        for blob, chunks in _runs(copy, entry.hardlink or entry.id):
            places = [offset for _, offset in chunks]
            fetched = fetch_chunks(store, identities, plan.get_blob(copy, blob), (chunk for chunk, _ in chunks))
            for offset, piece in zip(places, fetched, strict=True):
                if piece.damage is not None:
                    raise IntegrityError(f"{os.fsdecode(paths[0])}: {piece.damage}")
                _write_zeros(stream, offset - at)
                stream.write(piece.data)
                at = offset + len(piece.data)
        _write_zeros(stream, entry.size - at)
        stream.flush()


def _kind(entry: Entry) -> str:
    if entry.type == EntryType.SYMLINK:
        return f"a symbolic link to {os.fsdecode(entry.link_target or b'')}"
    if entry.type == EntryType.FILE:
        return "could not be read when it was backed up"
    return f"a {EntryType(entry.type).name.lower().replace('_', ' ')}, not a file"


def _check_place(place: Path, entry: Entry, *, force: bool) -> None:
    if not os.path.lexists(place):
        return
    is_directory = place.is_dir() and not place.is_symlink()
    if entry.type == "d" and is_directory and not any(place.iterdir()):
        return
    if not force:
        raise RestoreError(f"target {place}: exists already", hint="name another place, or pass --force")
    if (entry.type == "d") != is_directory:
        kinds = ("a directory", "no directory") if is_directory else ("no directory", "a directory")
        raise RestoreError(
            f"target {place}: is {kinds[0]}, what is fetched is {kinds[1]}", hint="remove it, or name another place"
        )


class _Writing:
    """The steps of a restore for one entry."""

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        copy: sqlite3.Connection,
        entry: Entry,
        progress: Progress,
    ) -> None:
        self._store = store
        self._identities = identities
        self._copy = copy
        self._entry = entry
        self._progress = progress
        self._attributes = AttributeWriter(copy)
        self._token = secrets.token_hex(8)

    def run(self, place: Path, *, force: bool) -> None:
        """Bring it to its place."""
        if self._entry.type == "d" and place.is_dir() and any(place.iterdir()):
            self.into(place)
        else:
            self.aside(place, force=force)
        add_refused(self._copy, self._attributes)

    def into(self, place: Path) -> None:
        """Write a directory's entries into one that is there."""
        with closing(self._target(place)) as target:
            self._finish(self._content(target), FINISH)

    def aside(self, place: Path, *, force: bool) -> None:
        """Write aside, then rename: whatever ends this early leaves nothing behind."""
        aside = Path(tempfile.mkdtemp(prefix=".vaultik-", dir=place.parent))
        try:
            inner = aside / place.name
            with closing(self._target(aside if self._entry.type == "d" else inner)) as target:
                finisher = self._content(target)
                self._finish(finisher, [step for step in FINISH if step not in LAST])
                if self._entry.type == "d":
                    aside.rename(place)
                    self._finish(finisher, LAST)
                elif os.path.lexists(inner):
                    _rename(inner, place, force=force)
                    with closing(self._target(place)) as final:
                        self._finish(Finisher(self._copy, final, self._attributes), LAST)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _target(self, place: Path) -> Target:
        if self._entry.type == "d":
            return Target(self._copy, place, self._entry.id, self._token)
        alias = (self._entry.id, os.fsencode(place.name))
        return Target(self._copy, place.parent, self._entry.parent or self._entry.id, self._token, alias)

    def _content(self, target: Target) -> Finisher:
        copy = self._copy
        totals = plan.totals(copy)
        self._progress.total(files=totals.files, bytes=totals.bytes, blobs=totals.blobs)
        finisher = Finisher(copy, target, self._attributes)
        finisher.make_directories()
        for blob in plan.needed_blobs(copy):
            plan.add_failures(
                copy,
                write_blob(self._store, self._identities, copy, target, self._attributes, blob, self._progress.advance),
            )
        return finisher

    def _finish(self, finisher: Finisher, names: Iterable[str]) -> None:
        steps = finisher.steps()
        for name in names:
            steps[name]()


def _rename(aside: Path, place: Path, *, force: bool) -> None:
    if force:
        aside.rename(place)
    else:
        rename_noreplace(AT_FDCWD, os.fsencode(aside), AT_FDCWD, os.fsencode(place))


def _runs(copy: sqlite3.Connection, content: int) -> list[tuple[int, list[tuple[WantedChunk, int]]]]:
    """Return a file's chunks in file order, grouped into runs that one blob holds in its own order."""
    runs: list[tuple[int, list[tuple[WantedChunk, int]]]] = []
    rows = copy.execute(
        "SELECT c.blob, c.id, c.hash, c.size, c.frame_offset, c.frame_length, c.offset, ec.offset FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ? ORDER BY ec.offset",
        (content,),
    )
    for blob, number, digest, size, frame_offset, frame_length, offset, at in rows:
        chunk = WantedChunk(number, ChunkId(digest), size, frame_offset, frame_length, offset)
        last = runs[-1][1][-1][0] if runs else None
        if last is None or runs[-1][0] != blob or (last.frame_offset, last.offset) >= (frame_offset, offset):
            runs.append((blob, []))
        runs[-1][1].append((chunk, at))
    return runs


def _write_zeros(stream: BinaryIO, count: int) -> None:
    while count > 0:
        stream.write(bytes(min(count, 1 << 20)))
        count -= 1 << 20
