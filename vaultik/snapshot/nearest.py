"""Name the snapshots nearest to one whose DB is lost: what was meant may stand in those too."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

from vaultik.errors import IntegrityError, NoMatchingIdentityError, StoreError
from vaultik.snapshot.find import list_snapshots, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_LOOKED_AT = 10
"""Manifests that are read to find one that doesn't need a layer, in each direction."""


@contextmanager
def naming_nearest(store: Store, found: FoundSnapshot, identities: Sequence[Identity]) -> Iterator[None]:
    """Read a snapshot's DB in the block; if it is missing or damaged, the hint names the nearest of the same source.

    Raises:
        IntegrityError: as the block.
    """
    try:
        yield
    except IntegrityError as exc:
        if exc.hint is None:
            with suppress(StoreError, IntegrityError):
                exc.hint = _hint(store, found, identities, exc.layer)
        raise


def _hint(store: Store, found: FoundSnapshot, identities: Sequence[Identity], layer: bytes | None) -> str:
    others = [s for s in list_snapshots(store) if s.source8 == found.source8 and s.name.snapshot != found.name.snapshot]
    own = found.name.snapshot
    before = _first(store, (s for s in reversed(others) if s.name.snapshot < own), identities, layer)
    after = _first(store, (s for s in others if s.name.snapshot > own), identities, layer)
    named = [f"{s.name.snapshot} ({side} it)" for s, side in ((before, "before"), (after, "after")) if s is not None]
    if not named:
        return "this source has no other snapshot" + (" that doesn't need it" if layer and others else "")
    return f"the nearest of the same source: {', '.join(named)}"


def _first(
    store: Store, snapshots: Iterable[FoundSnapshot], identities: Sequence[Identity], layer: bytes | None
) -> FoundSnapshot | None:
    """Return the first of some snapshots whose DB doesn't need a layer."""
    if layer is None:
        return next(iter(snapshots), None)
    for snapshot in islice(snapshots, _LOOKED_AT):
        with suppress(IntegrityError, NoMatchingIdentityError):
            if all(blob != layer.hex() for blob, _ in read_manifest(store, snapshot, identities).blobs):
                return snapshot
    return None
