"""A copied snapshot in a temporary directory of its own: for what only looks, or keeps no state."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import RestoreError
from vaultik.restore.plan import connect
from vaultik.scratch import ScratchDirectory
from vaultik.snapshot.find import FoundSnapshot, select
from vaultik.snapshot.nearest import naming_nearest
from vaultik.snapshot.read import disk_errors, fetch_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import Store


class Scratch(NamedTuple):
    """A copied snapshot."""

    found: FoundSnapshot
    copy: sqlite3.Connection


@contextmanager
def copied_snapshot(
    store: Store,
    identities: Sequence[Identity],
    spec: str,
    host: str | None = None,
    signers: Sequence[Signer] | None = None,
) -> Iterator[Scratch]:
    """Fetch and copy the snapshot that `spec` names, for the time of the block.

    Raises:
        SelectionError, IntegrityError, StoreError: as `select` and `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full, in the block as well.
    """
    with ExitStack() as stack:
        with temporary_errors():
            directory = stack.enter_context(ScratchDirectory()).path
            found = select(store, spec, identities, host, signers)
            with naming_nearest(store, found, identities):
                fetch_snapshot(store, found, identities, directory, directory / "plan.sqlite")
            copy = stack.enter_context(closing(connect(directory / "plan.sqlite")))
        try:
            yield Scratch(found, copy)
        except sqlite3.Error:
            with temporary_errors():
                raise


@contextmanager
def temporary_errors() -> Iterator[None]:
    """Name the temporary directory in what SQLite and the system say of its disk.

    Raises:
        RestoreError: the disk is full, or fails.
    """
    where = Path(tempfile.gettempdir())
    try:
        with disk_errors(where):
            yield
    except OSError as exc:
        raise RestoreError(
            f"temporary directory {where}: {exc.strerror or exc}",
            hint="free some space there, or name another place in TMPDIR",
        ) from exc
