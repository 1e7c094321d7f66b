"""Fetch one file or directory to a place of its own: the same steps as a restore, in one process, with no state kept."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from vaultik import interrupts
from vaultik.errors import IntegrityError, RestoreError, SelectionError
from vaultik.model import NAME_OF_TYPE, ChunkId, EntryType, Mark
from vaultik.restore import flags, needs, plan
from vaultik.restore.attributes import SPECIAL
from vaultik.restore.clashes import leave_out_clashes
from vaultik.restore.kept import Kept
from vaultik.restore.naming import open_directory
from vaultik.restore.progress import NoProgress, Progress
from vaultik.restore.salvage import joined, zeros
from vaultik.restore.scratch import copied_snapshot
from vaultik.restore.target import target_errors
from vaultik.restore.writing import Writing, goes_into
from vaultik.snapshot.fetch import BlobFetcher, WantedChunk, can_read
from vaultik.snapshot.tree import Entry, resolve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.restore.report import RestoreReport
    from vaultik.store.base import Store

_EVERYTHING = Kept()
_LONGEST_RUN = 4096
_FETCHERS_AT_MOST = 64
"""Blobs whose headers are known at once."""


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
    keeps: Kept = _EVERYTHING,
    salvage: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, RestoreReport]:
    """Bring the entry at one of `paths`, with everything below it, to `target` (into it, if that is a directory).

    It is written aside and gets its name when it is complete; only into a directory that is there already
    (`force`), or is a mount point, is it written in place. With `salvage` what can be read of a damaged file
    stands beside its place.

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
        with target_errors(place):
            if entry.type == "d":
                top = place if goes_into(entry, place) else None
                directory = top or place.parent
                with _changeable(top) if top else nullcontext():
                    plan.make_plan(
                        copy, entry.id, narrow=lambda copy: leave_out_clashes(copy, directory, top, entry.id)
                    )
            else:
                plan.make_plan(copy, entry.id)
        writing = Writing(
            store, identities, copy, entry, found.name.key, progress or NoProgress(), keeps, salvage=salvage
        )
        with target_errors(place):
            writing.run(place, force=force)
        report = writing.report(place)
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
    salvage: bool = False,
) -> None:
    """Write the content of the file at one of `paths` to a stream, in order, each chunk checked before it is written.

    Raises:
        SelectionError: no such snapshot or path, or no file.
        IntegrityError: a chunk is missing or damaged; what was written before is right. With `salvage` zeros were
            written in its place, and after it all that could be read.
    """
    with copied_snapshot(store, identities, spec, host, signers) as (found, copy):
        entry = resolve(copy, paths)
        if entry.type != "f" or entry.marks & Mark.UNREADABLE:
            raise SelectionError(
                f"path {os.fsdecode(paths[0])}: {_kind(entry)}", hint="only a file can go to standard output"
            )
        at = 0
        lost: list[tuple[int, int]] = []
        reason = ""
        fetchers: dict[int, BlobFetcher] = {}
        for blob, chunks in _runs(copy, entry.hardlink or entry.id):
            if blob not in fetchers:
                if len(fetchers) >= _FETCHERS_AT_MOST:
                    del fetchers[next(iter(fetchers))]
                row = needs.get_blob(copy, blob)
                fetchers[blob] = BlobFetcher(store, identities, row, lambda: can_read(store, found.name.key))
            fetched = fetchers[blob].fetch(chunk for chunk, _ in chunks)
            for (_, offset), piece in zip(chunks, fetched, strict=True):
                if piece.damage is not None:
                    reason = reason or f"{os.fsdecode(paths[0])}: {piece.damage.reason}"
                    if not salvage:
                        raise IntegrityError(reason, hint="--salvage goes on, with zeros where it can't be read")
                    lost.append((offset, piece.chunk.size))
                    continue
                _write_zeros(stream, offset - at)
                stream.write(piece.data)
                at = offset + len(piece.data)
        _write_zeros(stream, entry.size - at)
        stream.flush()
        if lost:
            raise IntegrityError(f"{reason}; {zeros(joined(lost))}")


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


@contextmanager
def _changeable(directory: Path) -> Iterator[None]:
    """Take off a directory, for the block, what forbids to make anything in it."""
    with ExitStack() as stack:
        fd = open_directory(stack, directory)
        taken = flags.forbidding(fd)
        try:
            flags.loosen(fd)
            yield
        finally:
            with interrupts.deferred():
                flags.put_back(fd, taken)


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
