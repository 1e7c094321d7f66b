"""Find the snapshots of a store, and the one that somebody means."""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core import manifest
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_stream
from vaultik.core.streams import HashingReader
from vaultik.errors import (
    DigestMismatchError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
    SelectionError,
    VaultikError,
)
from vaultik.snapshot.listing import iter_snapshot_objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultik.core.age import Readable
    from vaultik.core.identity import Identity
    from vaultik.core.names import SnapshotName
    from vaultik.store.base import ObjectInfo, Store

LATEST = "latest"
_LEAST_LIMIT = 1 << 20
_MOST_RATIO = 20
"""Half of a manifest is hashes, which zstd can only halve; one that claims more is there to fill the memory."""
_SHOWN = 5


class FoundSnapshot(NamedTuple):
    """A snapshot: its DB object, and its manifest where one stands beside it."""

    name: SnapshotName
    size_bytes: int
    modified: float
    manifest: SnapshotName | None
    manifest_bytes: int

    @property
    def source8(self) -> str:
        """What tells sources apart in names."""
        return self.name.source8


def list_snapshots(store: Store) -> list[FoundSnapshot]:
    """Return every snapshot in a store, oldest first by the store's time.

    Raises:
        StoreError: the store couldn't be listed.
    """
    first: dict[tuple[str, str, str], tuple[SnapshotName, ObjectInfo]] = {}
    for name, info in iter_snapshot_objects(store):
        # An id is never given twice; who adds a second object of one later isn't its source.
        place = (name.prefix, name.snapshot, name.kind)
        if place not in first or info.modified < first[place][1].modified:
            first[place] = (name, info)
    found = []
    for (prefix, snapshot, kind), (name, info) in first.items():
        if kind == "db":
            manifest_name, manifest_info = first.get((prefix, snapshot, "manifest"), (None, None))
            size = manifest_info.size_bytes if manifest_info else 0
            found.append(FoundSnapshot(name, info.size_bytes, info.modified, manifest_name, size))
    return sorted(found, key=lambda s: (s.modified, s.name.snapshot))


@contextmanager
def digest_first(stream: Readable, name: SnapshotName) -> Iterator[HashingReader]:
    """Read an object in the block; that its bytes are not what its name says comes before whatever else is wrong.

    Raises:
        DigestMismatchError: they aren't.
    """
    hashing = HashingReader(stream)
    failure: Exception | None = None
    try:
        yield hashing
    except (IntegrityError, NoMatchingIdentityError) as exc:
        failure = exc
    if hashing.finish() != name.sha256:
        raise DigestMismatchError("its bytes are not what its name says") from failure
    if failure is not None:
        raise failure


def read_manifest(store: Store, found: FoundSnapshot, identities: Sequence[Identity]) -> manifest.Manifest:
    """Return a snapshot's manifest.

    Raises:
        IntegrityError: it is missing, altered or malformed.
        NoMatchingIdentityError: it is for somebody else.
        StoreError: the store failed.
    """
    what = f"manifest of {found.name.snapshot}"
    if found.manifest is None:
        raise IntegrityError(f"{what}: missing", hint="name the snapshot by its id")
    limit = max(_LEAST_LIMIT, _MOST_RATIO * found.manifest_bytes)
    try:
        with store.open(found.manifest.key) as stream, digest_first(stream, found.manifest) as data:
            text = b"".join(decode_stream(open_stream(data, identities), size_limit=limit))
        facts = manifest.decode(text)
    except ObjectNotFoundError as exc:
        raise IntegrityError(f"{what}: missing") from exc
    except NoMatchingIdentityError as exc:
        raise NoMatchingIdentityError(f"{what}: {exc}", hint=exc.hint) from exc
    except IntegrityError as exc:
        raise type(exc)(f"{what}: {exc}", hint=exc.hint) from exc
    if facts.snapshot != found.name.snapshot:
        raise IntegrityError(f"{what}: it is the manifest of {facts.snapshot}")
    return facts


def select(store: Store, spec: str, identities: Sequence[Identity], host: str | None = None) -> FoundSnapshot:
    """Return the snapshot that `spec` names: an id, a unique beginning of one, or `latest`.

    Args:
        store: where.
        spec: as above.
        identities: to open manifests where they must be looked into.
        host: for `latest` in a prefix that holds several hosts.

    Raises:
        SelectionError: none fits, or several do (they are named).
    """
    found = list_snapshots(store)
    if not found:
        raise SelectionError(
            f"no snapshot in {store.location}", hint="check bucket and prefix; vaultik backup makes the first one"
        )
    if spec == LATEST:
        return _latest(store, found, identities, host)
    fitting = [s for s in found if s.name.snapshot.startswith(spec)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise SelectionError(
            f"snapshot {spec!r}: there is none of that id", hint=f"there are: {_shown(found)}; or `latest`"
        )
    raise SelectionError(f"snapshot {spec!r}: several fit", hint=f"they are: {_shown(fitting)}")


def when(modified: float) -> str:
    """Return a store's time as text, UTC: `2026-11-23T08:15:00Z`."""
    return datetime.datetime.fromtimestamp(modified, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _latest(
    store: Store, found: list[FoundSnapshot], identities: Sequence[Identity], host: str | None
) -> FoundSnapshot:
    """Return the newest complete snapshot of the host that is meant; its manifests tell which that is."""
    newest: dict[str, tuple[FoundSnapshot, str]] = {}
    closed: dict[str, VaultikError] = {}
    for candidate in reversed(found):
        if candidate.source8 in newest or candidate.source8 in closed:
            continue
        try:
            facts = read_manifest(store, candidate, identities)
        except (IntegrityError, NoMatchingIdentityError) as exc:
            # Maybe another host's, for other identities; what is meant may stand beside it.
            closed[candidate.source8] = exc
            continue
        if facts.complete:
            newest[candidate.source8] = (candidate, facts.host)
    fitting = [(candidate, name) for candidate, name in newest.values() if host in (None, name)]
    hosts = sorted({name for _, name in newest.values()})
    damaged = [exc for exc in closed.values() if isinstance(exc, IntegrityError)]
    if closed and (not fitting or (damaged and host is None)):
        raise next(iter(damaged or closed.values()))
    if not hosts:
        raise SelectionError("latest: no complete snapshot", hint=f"name a partial one by its id: {_shown(found)}")
    if not fitting:
        raise SelectionError(f"host {host!r}: no complete snapshot of it", hint=f"there are: {', '.join(hosts)}")
    if len({name for _, name in fitting}) > 1:
        raise SelectionError(
            "latest: this prefix holds several hosts", hint=f"add --host with one of: {', '.join(hosts)}"
        )
    return max((candidate for candidate, _ in fitting), key=lambda s: (s.modified, s.name.snapshot))


def _shown(found: list[FoundSnapshot]) -> str:
    names = [s.name.snapshot for s in found[-_SHOWN:]]
    more = f" and {len(found) - len(names)} older; vaultik snapshots lists them all" if len(found) > len(names) else ""
    return ", ".join(names) + more
