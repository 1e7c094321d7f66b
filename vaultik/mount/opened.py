"""The snapshot DBs that are open: fetched, checked and copied when somebody looks into one, a bounded number at a time."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.errors import IntegrityError, NoMatchingIdentityError, RestoreError, VaultikError
from vaultik.mount.tree import SnapshotTree
from vaultik.snapshot.read import disk_errors, fetch_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

MOST_OPEN = 8
_DAMAGED_S, _FAILED_S = 60.0, 5.0
"""So long what couldn't be opened isn't tried again: what is damaged will hardly get better, a store may."""


class _Place:
    """One snapshot: open, being opened, or not to be had."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while it is opened."""
        self.tree: SnapshotTree | None = None
        self.users = 0
        self.failure: VaultikError | None = None
        self.until = 0.0


class OpenSnapshots:
    """Opens snapshots, and keeps those that were used last."""

    def __init__(
        self, store: Store, identities: Sequence[Identity], directory: Path, most_open: int = MOST_OPEN
    ) -> None:
        """Open none yet.

        Args:
            store: where they lie.
            identities: any of which may open them.
            directory: a private one, for the copies.
            most_open: so many stay open besides those that are in use this moment.
        """
        self._store = store
        self._identities = identities
        self._directory = directory
        self._most_open = most_open
        self._lock = threading.Lock()
        self._places: OrderedDict[str, _Place] = OrderedDict()

    @contextmanager
    def using(self, found: FoundSnapshot) -> Iterator[SnapshotTree]:
        """Have a snapshot open for the block.

        Raises:
            IntegrityError, NoMatchingIdentityError, StoreError: it can't be had; one that couldn't isn't tried again at once.
            RestoreError: the temporary directory's disk is full.
        """
        place = self._take(found.name.key)
        try:
            yield self._tree(place, found)
        finally:
            self._give_back(place)

    def close(self) -> None:
        """Close all that nobody uses."""
        with self._lock:
            self._most_open = 0
            self._close_unused()

    def _take(self, key: str) -> _Place:
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            place.users += 1
            return place

    def _give_back(self, place: _Place) -> None:
        with self._lock:
            place.users -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        for key, place in list(self._places.items()):
            if len(self._places) <= self._most_open:
                return
            if not place.users:
                del self._places[key]
                if place.tree is not None:
                    place.tree.close()

    def _tree(self, place: _Place, found: FoundSnapshot) -> SnapshotTree:
        with place.lock:
            if place.tree is None:
                if place.failure is not None and time.monotonic() < place.until:
                    raise place.failure.with_traceback(None)
                try:
                    place.tree = self._open(found)
                except VaultikError as exc:
                    is_damaged = isinstance(exc, (IntegrityError, NoMatchingIdentityError))
                    place.failure, place.until = exc, time.monotonic() + (_DAMAGED_S if is_damaged else _FAILED_S)
                    raise
            return place.tree

    def _open(self, found: FoundSnapshot) -> SnapshotTree:
        directory = None
        try:
            with disk_errors(self._directory):
                # Others are opened at the same time.
                directory = Path(tempfile.mkdtemp(dir=self._directory))
                fetch_snapshot(self._store, found, self._identities, directory, directory / "copy.sqlite")
                return SnapshotTree(directory / "copy.sqlite")
        except (OSError, sqlite3.Error) as exc:
            reason = (isinstance(exc, OSError) and exc.strerror) or str(exc)
            raise RestoreError(
                f"temporary directory {self._directory.parent}: {reason}",
                hint="free some space there, or name another place in TMPDIR",
            ) from exc
        finally:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
