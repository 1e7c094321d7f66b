"""Fetch one file or directory to a place of its own: the same steps as a restore, in one process, with no state kept."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vaultik.errors import IntegrityError, RestoreError, SelectionError
from vaultik.model import ChunkId, Mark
from vaultik.restore import plan
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.fetch import WantedChunk, fetch_chunks
from vaultik.restore.finish import Finisher, make_directories
from vaultik.restore.progress import NoProgress, Progress
from vaultik.restore.session import RestoreReport, add_refused, connect, make_report, write_blob
from vaultik.restore.target import Target, target_errors
from vaultik.restore.tree import Entry, resolve
from vaultik.snapshot.find import select
from vaultik.snapshot.read import fetch_snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store


def fetch(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    path: bytes,
    target: Path,
    *,
    host: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RestoreReport:
    """Bring one entry, with everything below it, to `target` (into it, if that is a directory).

    Raises:
        SelectionError: no such snapshot or path.
        RestoreError: something stands in the way and `force` is not given, or the disk failed.
        IntegrityError: the snapshot DB is missing or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="vaultik-") as state, closing(connect(Path(state) / "plan.sqlite")) as copy:
        fetch_snapshot(store, select(store, spec, identities, host), identities, Path(state), copy)
        entry = resolve(copy, path)
        if Mark(entry.marks) & Mark.UNREADABLE and entry.type == "f":
            raise SelectionError(
                f"path {os.fsdecode(path)}: could not be read when it was backed up", hint="try an older snapshot"
            )
        place = target / os.fsdecode(entry.name) if target.is_dir() and entry.name else target
        _check_place(place, entry, force=force)
        plan.make_plan(copy, entry.id)
        _write(store, identities, copy, entry, place, progress or NoProgress())
        return make_report(copy)


def fetch_to_stream(
    store: Store, identities: Sequence[Identity], spec: str, path: bytes, stream: BinaryIO, *, host: str | None = None
) -> None:
    """Write one file's content to a stream, in order, each chunk checked before it is written.

    Raises:
        SelectionError: no such snapshot or path, or no file.
        IntegrityError: a chunk is missing or damaged; what was written before is right.
    """
    with tempfile.TemporaryDirectory(prefix="vaultik-") as state, closing(connect(Path(state) / "plan.sqlite")) as copy:
        fetch_snapshot(store, select(store, spec, identities, host), identities, Path(state), copy)
        entry = resolve(copy, path)
        if entry.type != "f" or Mark(entry.marks) & Mark.UNREADABLE:
            raise SelectionError(
                f"path {os.fsdecode(path)}: not a file with content", hint="only a file can go to standard output"
            )
        at = 0
        for blob, chunks in _runs(copy, entry.hardlink or entry.id):
            places = [offset for _, offset in chunks]
            fetched = fetch_chunks(store, identities, plan.get_blob(copy, blob), (chunk for chunk, _ in chunks))
            for offset, piece in zip(places, fetched, strict=True):
                if piece.damage is not None:
                    raise IntegrityError(f"{os.fsdecode(path)}: {piece.damage}")
                _write_zeros(stream, offset - at)
                stream.write(piece.data)
                at = offset + len(piece.data)
        _write_zeros(stream, entry.size - at)
        stream.flush()


def _check_place(place: Path, entry: Entry, *, force: bool) -> None:
    if not os.path.lexists(place) or force:
        return
    if entry.type == "d" and place.is_dir() and not any(place.iterdir()):
        return
    raise RestoreError(f"target {place}: is there already", hint="name another place, or pass --force")


def _write(
    store: Store,
    identities: Sequence[Identity],
    copy: sqlite3.Connection,
    entry: Entry,
    place: Path,
    progress: Progress,
) -> None:
    with target_errors(place):
        if entry.type == "d":
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = Target(copy, place, entry.id)
        else:
            target = Target(copy, place.parent, entry.parent or entry.id, alias=(entry.id, os.fsencode(place.name)))
        totals = plan.totals(copy)
        progress.total(files=totals.files, bytes=totals.bytes, blobs=totals.blobs)
        with closing(target):
            make_directories(copy, target)
            attributes = AttributeWriter(copy)
            for blob in plan.needed_blobs(copy):
                damaged = write_blob(store, identities, copy, target, attributes, blob, progress.advance)
                copy.executemany("INSERT OR IGNORE INTO damage VALUES (?, ?)", damaged.items())
            Finisher(copy, target, attributes).run()
            add_refused(copy, attributes)


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
