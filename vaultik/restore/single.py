"""Fetch one file or directory to a place of its own: the same steps as a restore, in one process, with no state kept."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vaultik import interrupts
from vaultik.errors import IntegrityError, RestoreError, SelectionError
from vaultik.linux import AT_FDCWD, rename_noreplace
from vaultik.model import NAME_OF_TYPE, ChunkId, EntryType, Mark
from vaultik.restore import ledger, needs, plan
from vaultik.restore.attributes import SPECIAL, AttributeWriter
from vaultik.restore.blob import write_blob
from vaultik.restore.directories import Directories
from vaultik.restore.finish import FINISH, LAST, Finisher
from vaultik.restore.progress import NoProgress, Progress
from vaultik.restore.report import RestoreReport, make_report
from vaultik.restore.scratch import copied_snapshot
from vaultik.restore.target import Target, target_errors
from vaultik.snapshot.fetch import BlobFetcher, WantedChunk, can_read
from vaultik.snapshot.tree import Entry, resolve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import Store

_LONGEST_RUN = 4096


class Output(Protocol):
    """Takes bytes in order."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of `data`."""
        ...

    def flush(self) -> None:
        """Send off what is buffered."""
        ...


def fetch(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    paths: Sequence[bytes],
    target: Path,
    *,
    host: str | None = None,
    signers: Sequence[Signer] | None = None,
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
        RestoreError: something stands in the way and `force` is not given, the disk failed, or it is a device
            that this user may not make.
        IntegrityError: the snapshot DB is missing or damaged.
    """
    with copied_snapshot(store, identities, spec, host, signers) as (found, copy):
        entry = resolve(copy, paths)
        if entry.marks & Mark.UNREADABLE and entry.type == "f":
            raise SelectionError(
                f"path {os.fsdecode(paths[0])}: could not be read when it was backed up", hint="try an older snapshot"
            )
        place = target / os.fsdecode(entry.name) if target.is_dir() and entry.name else target
        place = place.absolute()
        _check_place(place, entry, force=force)
        plan.make_plan(copy, entry.id)
        writing = _Writing(store, identities, copy, entry, found.name.key, progress or NoProgress())
        with target_errors(place):
            writing.run(place, force=force)
        report = make_report(copy)
    if entry.type not in "fd" and SPECIAL in report.refused and not report.failed:
        kind = NAME_OF_TYPE[entry.type]
        raise RestoreError(f"target {place}: this user may not make a {kind}", hint="root may")
    return place, report._replace(may_go_on=False)


def fetch_to_stream(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    paths: Sequence[bytes],
    stream: Output,
    *,
    host: str | None = None,
    signers: Sequence[Signer] | None = None,
) -> None:
    """Write the content of the file at one of `paths` to a stream, in order, each chunk checked before it is written.

    Raises:
        SelectionError: no such snapshot or path, or no file.
        IntegrityError: a chunk is missing or damaged; what was written before is right.
    """
    with copied_snapshot(store, identities, spec, host, signers) as (found, copy):
        entry = resolve(copy, paths)
        if entry.type != "f" or entry.marks & Mark.UNREADABLE:
            raise SelectionError(
                f"path {os.fsdecode(paths[0])}: {_kind(entry)}", hint="only a file can go to standard output"
            )
        at = 0
        for blob, chunks in _runs(copy, entry.hardlink or entry.id):
            fetcher = BlobFetcher(
                store, identities, needs.get_blob(copy, blob), lambda: can_read(store, found.name.key)
            )
            fetched = fetcher.fetch(chunk for chunk, _ in chunks)
            for (_, offset), piece in zip(chunks, fetched, strict=True):
                if piece.damage is not None:
                    raise IntegrityError(f"{os.fsdecode(paths[0])}: {piece.damage.reason}")
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
    return f"a {NAME_OF_TYPE[entry.type]}, not a file"


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
        key: str,
        progress: Progress,
    ) -> None:
        self._store = store
        self._identities = identities
        self._copy = copy
        self._entry = entry
        self._key = key
        self._progress = progress
        self._attributes = AttributeWriter(copy)
        self._token = secrets.token_hex(8)

    def run(self, place: Path, *, force: bool) -> None:
        """Bring it to its place."""
        if self._entry.type == "d" and place.is_dir() and any(place.iterdir()):
            self.into(place)
        else:
            self.aside(place, force=force)
        self._attributes.flush()

    def into(self, place: Path) -> None:
        """Write a directory's entries into one that is there."""
        with closing(self._target(place)) as target:
            finisher = self._content(target)
            self._finish(finisher, FINISH)
            finisher.remove_temporaries(all_kinds=True)

    def aside(self, place: Path, *, force: bool) -> None:
        """Write aside, then rename: whatever ends this early leaves nothing behind."""
        aside = Path()
        try:
            with interrupts.deferred():
                aside = Path(tempfile.mkdtemp(prefix=".vaultik-", dir=place.parent))
            self._aside(aside, place, force=force)
        finally:
            with interrupts.deferred():
                if aside.name:
                    shutil.rmtree(aside, ignore_errors=True)

    def _aside(self, aside: Path, place: Path, *, force: bool) -> None:
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
        Directories(copy, target, self._attributes).make()
        for blob in ledger.needed_blobs(copy):
            write_blob(
                self._store,
                self._identities,
                copy,
                target,
                self._attributes,
                blob,
                emit=self._progress.advance,
                others_work=lambda: can_read(self._store, self._key),
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


def _runs(copy: sqlite3.Connection, content: int) -> Iterator[tuple[int, list[tuple[WantedChunk, int]]]]:
    """Yield a file's chunks in file order, grouped into runs that one blob holds in its own order."""
    rows = copy.execute(
        "SELECT c.blob, c.id, c.hash, c.size, c.frame_offset, c.frame_length, c.offset, ec.offset FROM entry_chunks AS ec"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE ec.entry = ? ORDER BY ec.offset",
        (content,),
    )
    of = 0
    run: list[tuple[WantedChunk, int]] = []
    for blob, number, digest, size, frame_offset, frame_length, offset, at in rows:
        chunk = WantedChunk(number, ChunkId(digest), size, frame_offset, frame_length, offset)
        last = run[-1][0] if run else None
        if last is not None and (
            of != blob or (last.frame_offset, last.offset) >= (frame_offset, offset) or len(run) >= _LONGEST_RUN
        ):
            yield of, run
            run = []
        of = blob
        run.append((chunk, at))
    if run:
        yield of, run


def _write_zeros(stream: Output, count: int) -> None:
    while count > 0:
        stream.write(bytes(min(count, 1 << 20)))
        count -= 1 << 20
