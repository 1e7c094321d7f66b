"""A snapshot DB in plain: for a moment, beside the index, and nowhere else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import vaultik
from vaultik.backup import spool
from vaultik.core.bounds import DB_BOUND
from vaultik.errors import FormatError, LocalIndexError
from vaultik.index import contents
from vaultik.index.db import mapped, transaction
from vaultik.snapshot.write import FORMAT, Below, Totals, check_snapshot_db, plain_path, write_snapshot_db

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.backup.session import Session
    from vaultik.index.state import Base
    from vaultik.model import SnapshotId


class MisfitError(Exception):
    """The index held content that no file can have; those files are on the list of those to read now."""


class Draft(NamedTuple):
    """A snapshot about to be written."""

    id: SnapshotId
    source: str
    base: Base | None
    server_time: float
    is_complete: bool


class PlainDb(NamedTuple):
    """An SQLite file, open at its beginning."""

    file: BinaryIO
    size: int
    totals: Totals


@contextlib.contextmanager
def plain_db(session: Session, draft: Draft, below: Below | None, *, is_layer: bool = False) -> Iterator[PlainDb]:
    """Write the index's rows as a snapshot DB, which is there for as long as the block lasts.

    Args:
        session: of the run; nothing else writes to the index.
        draft: what the DB says of its snapshot.
        below: the layers from which it is to differ only; None for a whole one.
        is_layer: it is to be a layer, whose rows are checked with the DB of the snapshot that builds on it.

    Raises:
        MisfitError: there is none.
        LocalIndexError: the index holds what no snapshot may, or its disk failed.
    """
    index_path = session.config.index_path
    plain = plain_path(index_path)
    with mapped(index_path), contextlib.ExitStack() as stack:
        stack.callback(plain.unlink, missing_ok=True)
        spool.create(plain).close()
        try:
            totals = write_snapshot_db(index_path, plain, _meta(session, draft), below)
            if not is_layer:
                check_snapshot_db(index_path, plain, below)
        except FormatError as exc:
            with transaction(session.index()):
                misfits = contents.drop_misfits(session.index())
            if misfits:
                raise MisfitError from exc
            raise LocalIndexError(
                f"index {index_path}: holds what no snapshot may: {exc}",
                hint="nothing was committed; move the index aside, and a fresh one is built (a full upload at worst)",
            ) from exc
        size = plain.stat().st_size
        if size > DB_BOUND.largest:
            raise LocalIndexError(f"snapshot DB: {size} bytes, at most {DB_BOUND.largest} are allowed")
        yield PlainDb(stack.enter_context(plain.open("rb")), size, totals)


def _meta(session: Session, draft: Draft) -> dict[str, int | float | str | bytes]:
    return {
        "format": FORMAT,
        "snapshot": draft.id,
        "source": draft.source,
        "previous": draft.base.snapshot if draft.base else "",
        "host": session.host,
        "started": session.started,
        "server_time": draft.server_time,
        "complete": int(draft.is_complete),
        "chunker": session.chunker_name,
        "source_dirs": b"\0".join(session.config.source_dirs),
        "tool": f"vaultik {vaultik.__version__}",
    }
