"""List a store and say what every key is; a key that can't be said ends the prune.

What is listed may be gone when it is read, and more may have come: who uses the listing says what that means.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.lease import HOUR_S
from vaultik.core.names import BLOBS_PREFIX, SnapshotName, blob_key, parse_blob_key, parse_snapshot_key
from vaultik.errors import PruneRefusedError
from vaultik.model import BlobId
from vaultik.snapshot.find import FoundSnapshot, when
from vaultik.snapshot.listing import iter_outside_blobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.store.base import ObjectInfo, Store

_FAR_OFF_S = HOUR_S


class Orphan(NamedTuple):
    """A manifest without a DB: of a run that was killed, or is about to put it."""

    name: SnapshotName
    size_bytes: int
    modified: float


class Inventory(NamedTuple):
    """Everything outside blobs/."""

    snapshots: list[FoundSnapshot]
    """By source, each oldest first."""
    orphans: list[Orphan]

    @property
    def sources(self) -> list[str]:
        """What tells sources apart in names, of all that left anything here."""
        return sorted({s.source8 for s in self.snapshots} | {o.name.source8 for o in self.orphans})


def check_clock(store: Store) -> float:
    """Return the store's time.

    Raises:
        PruneRefusedError: this machine's clock disagrees; one of the two is wrong, and all of prune is about time.
    """
    now = store.now()
    off = time.time() - now
    if abs(off) > _FAR_OFF_S:
        raise PruneRefusedError(
            f"this machine's clock is {abs(off) / HOUR_S:,.1f} h {'ahead of' if off > 0 else 'behind'} the store's",
            hint="set the clock that is wrong, and prune again",
        )
    return now


def take_inventory(store: Store) -> Inventory:
    """List everything outside blobs/.

    Raises:
        PruneRefusedError: no snapshot, a key that isn't known, a second object of one snapshot, or a time that
            can't be.
        StoreError: the store couldn't be listed.
    """
    kinds: dict[str, dict[tuple[str, str], tuple[SnapshotName, ObjectInfo]]] = {"db": {}, "manifest": {}}
    for info in iter_outside_blobs(store):
        name = parse_snapshot_key(info.key)
        if name is None:
            raise _unknown(store, info.key)
        check_time(store, info)
        first = kinds[name.kind].setdefault((name.prefix, name.snapshot), (name, info))
        if first[1].key != info.key:
            later = max((first[1], info), key=lambda i: i.modified).key
            raise PruneRefusedError(
                f"{later}: a second object of one snapshot, which no backup writes",
                hint="look who put it there, and delete it by hand",
            )
    if not kinds["db"]:
        raise PruneRefusedError(
            f"no snapshot in {store.location}: everything there would count as unneeded",
            hint="check bucket and prefix; vaultik backup makes the first one",
        )
    snapshots = []
    for place, (name, info) in kinds["db"].items():
        manifest, described = kinds["manifest"].pop(place, (None, None))
        size = described.size_bytes if described else 0
        snapshots.append(FoundSnapshot(name, info.size_bytes, info.modified, manifest, size))
    orphans = [Orphan(name, info.size_bytes, info.modified) for name, info in kinds["manifest"].values()]
    return Inventory(sorted(snapshots, key=lambda s: (s.name.source8, s.modified, s.name.snapshot)), orphans)


def find_manifest(store: Store, found: FoundSnapshot) -> FoundSnapshot:
    """Look again for the manifest of a snapshot that was listed without: it may have come behind the listing's back."""
    for info in store.walk(f"{found.name.prefix}{found.name.snapshot}."):
        name = parse_snapshot_key(info.key)
        if name is not None and name.kind == "manifest":
            return found._replace(manifest=name, manifest_bytes=info.size_bytes)
    return found


def check_still_there(store: Store, found: FoundSnapshot) -> None:
    """Check that a snapshot with something missing hasn't been dropped meanwhile.

    Raises:
        PruneRefusedError: it has.
    """
    if store.head(found.name.key) is None:
        raise PruneRefusedError(
            f"snapshot {found.name.snapshot}: gone since it was listed",
            hint="another prune is at work? try again when it is done",
        )


def size_behind(store: Store, blob: bytes) -> int | None:
    """Return the size of an older version of a blob that is right, where what stands there isn't."""
    info = store.look_behind(blob_key(BlobId(blob)), blob)
    return None if info is None else info.size_bytes


def iter_blobs(store: Store) -> Iterator[tuple[BlobId, int, float]]:
    """Yield id, size and LastModified of every blob, ascending.

    Raises:
        PruneRefusedError: a key below blobs/ that is none, or a time that can't be.
        StoreError: the store couldn't be listed.
    """
    for info in store.walk(BLOBS_PREFIX):
        blob = parse_blob_key(info.key)
        if blob is None:
            raise _unknown(store, info.key)
        check_time(store, info)
        yield blob, info.size_bytes, info.modified


def check_time(store: Store, info: ObjectInfo) -> None:
    """Check that an object isn't from the future, by the store's time now: a listing may last.

    Raises:
        PruneRefusedError: it is.
    """
    if info.modified > store.now() + _FAR_OFF_S:
        raise PruneRefusedError(
            f"{info.key}: stored in the future, at {when(info.modified)} by the store's own time",
            hint="one of the store's clocks is or was wrong; wait until then, or mend the object's time",
        )


def _unknown(store: Store, key: str) -> PruneRefusedError:
    return PruneRefusedError(
        f"{key}: not something that vaultik stores, in {store.location}",
        hint="is PREFIX the one that the backups use? else move it out of there",
    )
