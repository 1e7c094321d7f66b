"""What the sessions of `maintain` share: a store, a private working state, steps that are done or not.

The state lies in a temporary directory and is of no use to anybody else. Connections and clients never cross a fork.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultik.errors import LocalIndexError
from vaultik.maintain import blob_table
from vaultik.scratch import ScratchDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store


class StepSession:
    """One piece of work on a store, as every process of it sees it."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        identities: Sequence[Identity],
        emit: Callable[..., None] = lambda **_event: None,
    ) -> None:
        """Prepare; the store isn't asked anything yet.

        Args:
            open_store: gives a client of the store, once per process.
            identities: any of which may open manifests, or DBs too.
            emit: takes progress: `stage` with its `objects` and `bytes`, then how many more are done.
        """
        self._open_store = open_store
        self._identities = identities
        self.emit = emit
        self._scratch = ScratchDirectory()
        self._directory = self._scratch.path
        self._pid = 0
        self._opened: dict[str, Any] = {}

    def store(self) -> Store:
        """Return this process's client of the store."""
        store: Store = self._own("store", self._open_store)
        return store

    def db(self) -> sqlite3.Connection:
        """Return this process's connection to the working state."""
        db: sqlite3.Connection = self._own("db", self._connect)
        return db

    def close(self) -> None:
        """Close what this process opened: before a fork, and at the end."""
        if self._pid == os.getpid():
            for opened in self._opened.values():
                opened.close()
        self._opened = {}

    def remove(self) -> None:
        """Close, and remove the state."""
        self.close()
        self._scratch.remove()

    def is_done(self, step: str) -> bool:
        """Tell whether a step is complete."""
        return self.db().execute("SELECT 1 FROM steps WHERE name = ?", (step,)).fetchone() is not None

    def _done(self, step: str) -> None:
        self.db().execute("INSERT INTO steps VALUES (?)", (step,))

    def _connect(self) -> sqlite3.Connection:
        return blob_table.connect(self._directory / "state.sqlite")

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise LocalIndexError(
                f"{self._directory}: {exc}", hint="the working state needs room there; TMPDIR names another place"
            ) from exc

    def _own(self, what: str, make: Callable[[], Any]) -> Any:
        if self._pid != os.getpid():
            self._pid, self._opened = os.getpid(), {}
        if what not in self._opened:
            self._opened[what] = make()
        return self._opened[what]
