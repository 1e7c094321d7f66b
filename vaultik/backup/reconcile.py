"""Reconcile: hold what the index believes against the store's listing, and forget what can't be relied on.

A run may rely on a stored blob only if it is sealed to every recipient now configured, the listing shows
it with its size, and either (a) it was sealed less than the reliance ago, or (b) the base refers to it,
the base's DB is in the same listing, and no other writer of this source (a clone, this host before it
was rolled back) has put a DB since, or the first one did less than the reliance ago. For a prune keeps
what was its source's newest snapshot within the grace, and frees no blob that is younger than that
(FORMAT.md, "What may be deleted"). With a credential that can only put there is no listing: (a) holds,
or a base that is itself younger than the reliance.

What is forgotten is sealed afresh from the source; so a rolled-back machine, a clone, a cleaned bucket or
another bucket heal themselves. All times are the store's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.ids import source8
from vaultik.core.lease import FENCE_S, RELIANCE_S
from vaultik.core.names import BLOBS_PREFIX, parse_blob_key
from vaultik.index import chunks, runs, state
from vaultik.index.db import transaction
from vaultik.linux import boottime
from vaultik.snapshot.listing import iter_snapshot_objects

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from vaultik.core.names import SnapshotName
    from vaultik.index.chunks import BlobRow
    from vaultik.index.state import Base
    from vaultik.model import BlobId
    from vaultik.store.base import ObjectInfo, Store

_LOST, _OUTDATED, _EXPIRED = "lost", "outdated", "expired"


class Reliance(NamedTuple):
    """What a look at the store came to."""

    lost: int
    """Blobs that are not in the store, or not of their size."""
    outdated: int
    """Blobs that are not sealed to every recipient."""
    expired: int
    """Blobs that a prune may be about to free."""
    superseded: bool
    """Whether somebody else wrote snapshots of this source since the base, too long ago."""
    adopted: bool
    """Whether the snapshot that an earlier try put without hearing of it was found and is the base now."""
    until: float
    """When a snapshot that is judged by this look must be put at the latest, as `linux.boottime` counts."""
    expires: float
    """The same by the store's time: a virtual machine that is saved and taken up again counts no time meanwhile."""

    @property
    def forgotten(self) -> int:
        """How many blobs the run may not rely on any more."""
        return self.lost + self.outdated + self.expired


class _Reach(NamedTuple):
    """How far the rule reaches at one moment."""

    sealed_after: float
    base_holds: bool
    recipients: frozenset[str]


def reconcile(
    index: sqlite3.Connection, store: Store, source: str, recipients: Sequence[str], *, put_only: bool
) -> Reliance:
    """Forget every blob that the run may not rely on.

    One request per 1,000 stored objects; memory is bounded but for the names of this source's snapshots.

    Raises:
        StoreError: the store couldn't be listed.
    """
    until = boottime() + FENCE_S
    now = store.now()
    after = now - RELIANCE_S
    listed = {} if put_only else _snapshot_dbs(store, source8(source))
    adopted = not put_only and _adopt(index, listed)
    base = state.get_base(index)
    superseded = _is_superseded(base, listed, runs.own_snapshots(index), after)
    is_there = base is not None and (base.put_at > after if put_only else base.db_key in listed)
    reach = _Reach(after, is_there and not superseded, frozenset(recipients))
    doubtful = list(_doubtful(chunks.iter_uploaded(index), None if put_only else _stored_blobs(store), reach))
    with transaction(index):
        chunks.forget_blobs(index, [blob for blob, _ in doubtful])
    why = [reason for _, reason in doubtful]
    return Reliance(
        why.count(_LOST), why.count(_OUTDATED), why.count(_EXPIRED), superseded, adopted, until, now + FENCE_S
    )


def _snapshot_dbs(store: Store, source: str) -> dict[str, tuple[SnapshotName, ObjectInfo]]:
    """Return this source's snapshot DBs by key."""
    found = ((name, info) for name, info in iter_snapshot_objects(store) if name.kind == "db")
    return {info.key: (name, info) for name, info in found if name.source8 == source}


def _adopt(index: sqlite3.Connection, listed: Mapping[str, tuple[SnapshotName, ObjectInfo]]) -> bool:
    """Take a snapshot as the base that was put, but whose put was never answered, or whose answer was never recorded."""
    pending = state.get_pending(index)
    if pending is None or pending.db_key not in listed or listed[pending.db_key][1].size_bytes != pending.db_size:
        return False
    with transaction(index):
        commit_base(index, pending)
    return True


def commit_base(index: sqlite3.Connection, base: Base) -> None:
    """Record, within a transaction, that the snapshot which was sent last stands in the store; once."""
    if state.get_pending(index) is not None:
        state.set_base(index, base)
        runs.add_own_snapshot(index, base.snapshot)
        chunks.set_based(index)


def _is_superseded(
    base: Base | None, listed: Mapping[str, tuple[SnapshotName, ObjectInfo]], own: set[str], after: float
) -> bool:
    """Tell whether another writer of this source put a DB as new as the base or newer, and the oldest such is old."""
    if base is None or base.db_key not in listed:
        return False
    base_modified = listed[base.db_key][1].modified
    others = [
        info.modified
        for name, info in listed.values()
        if info.key != base.db_key and name.snapshot not in own and info.modified >= base_modified
    ]
    return bool(others) and min(others) <= after


def _stored_blobs(store: Store) -> Iterator[tuple[BlobId, int]]:
    for info in store.walk(BLOBS_PREFIX):
        blob = parse_blob_key(info.key)
        if blob is not None:
            yield blob, info.size_bytes


def _doubtful(
    known: Iterator[BlobRow], listed: Iterator[tuple[BlobId, int]] | None, reach: _Reach
) -> Iterator[tuple[int, str]]:
    """Yield the rows of the blobs that can't be relied on, and why. Both streams ascend by hash."""
    at = next(listed, None) if listed is not None else None
    for blob in known:
        while listed is not None and at is not None and at[0] < blob.hash:
            at = next(listed, None)
        if listed is not None and at != (blob.hash, blob.size):
            yield blob.id, _LOST
        elif not reach.recipients <= set(blob.recipients.split()):
            yield blob.id, _OUTDATED
        elif blob.sealed_at <= reach.sealed_after and not (blob.is_based and reach.base_holds):
            yield blob.id, _EXPIRED
