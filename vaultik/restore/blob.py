"""Read one blob once and write what a plan wants of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vaultik.restore import needs
from vaultik.restore.ledger import Failure, Kind
from vaultik.restore.write import FileWriter
from vaultik.snapshot.fetch import BlobFetcher

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.snapshot.fetch import Fetched
    from vaultik.store.base import Store


_TOLD_BYTES = 1 << 20
"""How much is written before that is told: a word about each of many small files costs a tenth of the time."""


def write_blob(
    store: Store,
    identities: Sequence[Identity],
    copy: sqlite3.Connection,
    target: Target,
    attributes: AttributeWriter,
    blob: int,
    *,
    emit: Callable[..., None],
    others_work: Callable[[], bool],
    salvage: bool,
) -> None:
    """Read a blob once, write what unfinished files want of it, and note in the plan what came of it.

    Args:
        store: where it lies.
        identities: those that opened the snapshot.
        copy: the copied snapshot and its plan.
        target: where files go.
        attributes: sets theirs.
        blob: its row.
        emit: takes progress.
        others_work: tells, after the store refused this blob, whether it still gives others.
        salvage: of damaged files, write what can be read.

    Raises:
        StoreError: the store failed.
        OSError: the target did.
    """
    fetcher = BlobFetcher(store, identities, needs.get_blob(copy, blob), others_work)
    untold = 0
    with closing(FileWriter(copy, target, attributes, blob)) as writer:
        for fetched in fetcher.fetch(needs.iter_chunks(copy, blob), needs.plan_blob(copy, blob)):
            untold += _write(copy, writer, fetched, salvage=salvage)
            if untold >= _TOLD_BYTES:
                emit(bytes=untold)
                untold = 0
        writer.end()
    emit(blobs=1, files=writer.finished, bytes=untold)


def _write(copy: sqlite3.Connection, writer: FileWriter, fetched: Fetched, *, salvage: bool) -> int:
    """Put a chunk where it goes. Returns how many bytes that is."""
    total = 0
    if fetched.damage is not None and not fetched.damage.refused:
        writer.note_damaged(fetched.chunk.id)
    for place in needs.iter_places(copy, fetched.chunk.id):
        if fetched.damage is None:
            writer.write(place, fetched.data)
        elif salvage and place.chunks > 1 and not fetched.damage.refused:
            writer.lose(place, fetched.chunk.size, fetched.damage.reason)
        else:
            kind = Kind.REFUSED if fetched.damage.refused else Kind.DAMAGED
            writer.give_up(place.file.id, Failure(kind, fetched.damage.reason))
        total += fetched.chunk.size
    return total
