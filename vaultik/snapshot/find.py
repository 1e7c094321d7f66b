"""Find the snapshots of a store, and the one that somebody means."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core import manifest
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_stream
from vaultik.core.names import BLOBS_PREFIX, SnapshotName, parse_snapshot_key
from vaultik.core.streams import HashingReader
from vaultik.errors import (
    DigestMismatchError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
    SelectionError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.store.base import ObjectInfo, Store

LATEST = "latest"
_MANIFEST_LIMIT = 1 << 30
_SHOWN = 10


class FoundSnapshot(NamedTuple):
    """A snapshot: its DB object, and its manifest where one stands beside it."""

    name: SnapshotName
    size_bytes: int
    modified: float
    manifest: SnapshotName | None

    @property
    def source8(self) -> str:
        """What tells sources apart in names."""
        return self.name.prefix.rstrip("/").rpartition("/")[2]


def list_snapshots(store: Store) -> list[FoundSnapshot]:
    """Return every snapshot in a store, oldest first by the store's time.

    Raises:
        StoreError: the store couldn't be listed.
    """
    dbs: list[tuple[SnapshotName, ObjectInfo]] = []
    manifests: dict[tuple[str, str], SnapshotName] = {}
    for info in _outside_blobs(store):
        name = parse_snapshot_key(info.key)
        if name is None:
            continue
        if name.kind == "db":
            dbs.append((name, info))
        else:
            manifests[name.prefix, name.snapshot] = name
    found = [FoundSnapshot(n, i.size_bytes, i.modified, manifests.get((n.prefix, n.snapshot))) for n, i in dbs]
    return sorted(found, key=lambda s: (s.modified, s.name.snapshot))


def read_manifest(store: Store, name: SnapshotName, identities: Sequence[Identity]) -> manifest.Manifest:
    """Return a snapshot's manifest.

    Raises:
        IntegrityError: it is missing, altered or malformed.
        NoMatchingIdentityError: it is for somebody else.
        StoreError: the store failed.
    """
    what = f"manifest of {name.snapshot}"
    try:
        with store.open(name.key) as stream:
            data = HashingReader(stream)
            text = b"".join(decode_stream(open_stream(data, identities), size_limit=_MANIFEST_LIMIT))
            if data.finish() != name.sha256:
                raise DigestMismatchError(f"{what}: its bytes are not what its name says")
        found = manifest.decode(text)
    except ObjectNotFoundError as exc:
        raise IntegrityError(f"{what}: missing") from exc
    except NoMatchingIdentityError as exc:
        raise NoMatchingIdentityError(f"{what}: {exc}", hint=exc.hint) from exc
    except IntegrityError as exc:
        raise type(exc)(str(exc) if str(exc).startswith(what) else f"{what}: {exc}") from exc
    if found.snapshot != name.snapshot:
        raise IntegrityError(f"{what}: it is the manifest of {found.snapshot}")
    return found


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
        raise SelectionError(f"snapshot {spec!r}: there is none of that id", hint=f"there are: {_shown(found)}")
    raise SelectionError(f"snapshot {spec!r}: several fit", hint=f"they are: {_shown(fitting)}")


def when(modified: float) -> str:
    """Return a store's time for people, UTC."""
    return datetime.datetime.fromtimestamp(modified, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _latest(
    store: Store, found: list[FoundSnapshot], identities: Sequence[Identity], host: str | None
) -> FoundSnapshot:
    """Return the newest complete snapshot of the host that is meant; its manifests tell which that is."""
    newest: dict[str, tuple[FoundSnapshot, str]] = {}
    for candidate in reversed(found):
        if candidate.source8 in newest:
            continue
        if candidate.manifest is None:
            raise IntegrityError(
                f"snapshot {candidate.name.snapshot}: its manifest is missing", hint="name a snapshot by its id"
            )
        facts = read_manifest(store, candidate.manifest, identities)
        if facts.complete:
            newest[candidate.source8] = (candidate, facts.host)
    fitting = [(candidate, name) for candidate, name in newest.values() if host in (None, name)]
    hosts = sorted({name for _, name in newest.values()})
    if not hosts:
        raise SelectionError("latest: no complete snapshot", hint=f"name a partial one by its id: {_shown(found)}")
    if not fitting:
        raise SelectionError(f"host {host!r}: no complete snapshot of it", hint=f"there are: {', '.join(hosts)}")
    if len({name for _, name in fitting}) > 1:
        raise SelectionError(
            "latest: this prefix holds several hosts", hint=f"add --host with one of: {', '.join(hosts)}"
        )
    return max((candidate for candidate, _ in fitting), key=lambda s: (s.modified, s.name.snapshot))


def _outside_blobs(store: Store) -> Iterator[ObjectInfo]:
    top = store.children()
    yield from top.objects
    for prefix in top.prefixes:
        if prefix != BLOBS_PREFIX:
            yield from store.walk(prefix)


def _shown(found: list[FoundSnapshot]) -> str:
    names = [s.name.snapshot for s in found[-_SHOWN:]]
    more = f" (and {len(found) - len(names)} older)" if len(found) > len(names) else ""
    return ", ".join(names) + more
