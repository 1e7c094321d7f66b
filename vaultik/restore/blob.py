"""Read one blob once and write what a plan wants of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.restore import plan
from vaultik.restore.fetch import fetch_chunks
from vaultik.restore.write import FileWriter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.plan import Failure
    from vaultik.restore.target import Target
    from vaultik.store.base import Store


def write_blob(
    store: Store,
    identities: Sequence[Identity],
    copy: sqlite3.Connection,
    target: Target,
    attributes: AttributeWriter,
    blob: int,
    emit: Callable[..., None],
) -> dict[int, Failure]:
    """Read a blob once and write what the plan wants of it.

    Returns:
        The files that can't be brought back, with the reason.

    Raises:
        StoreError: the store failed.
        OSError: the target did.
    """
    uses = plan.uses_of_blob(copy, blob)
    writer = FileWriter(copy, target, attributes, uses)
    try:
        for fetched in fetch_chunks(store, identities, plan.get_blob(copy, blob), uses.chunks):
            for entry, offset in uses.places[fetched.chunk.id]:
                if fetched.damage is None:
                    writer.write(entry, offset, fetched.data)
                else:
                    writer.damage(entry, fetched.damage)
            emit(bytes=fetched.chunk.size * len(uses.places[fetched.chunk.id]))
        emit(blobs=1, files=writer.finished)
    finally:
        writer.close()
    return writer.failures
