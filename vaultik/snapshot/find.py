"""Find the snapshots of a store, and the one that somebody means."""

from __future__ import annotations

import datetime
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vaultik.core import manifest
from vaultik.core.age_stream import open_stream
from vaultik.core.bounds import MANIFEST_BOUND
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
from vaultik.snapshot.signed import check_signed
from vaultik.store.cached import open_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.core.age import Readable
    from vaultik.core.identity import Identity
    from vaultik.core.names import SnapshotName
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import ObjectInfo, Store

LATEST = "latest"
T = TypeVar("T")
WITHOUT_DB = "of a backup that goes on or was killed, of a prune that was broken off, or the DB is lost"
"""Why a manifest may stand alone: it is put first and removed last."""
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
    """Return every snapshot in a store, by id, and so by the time at which its run began.

    Raises:
        StoreError: the store couldn't be listed.
    """
    return list_all(store)[0]


def list_all(store: Store) -> tuple[list[FoundSnapshot], list[SnapshotName]]:
    """Return every snapshot in a store, as `list_snapshots`, and the manifests beside which no DB is stored, by id.

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
    alone = (name for (*at, kind), (name, _) in first.items() if kind == "manifest" and (*at, "db") not in first)
    return sorted(found, key=lambda s: s.name.snapshot), sorted(alone, key=lambda name: name.snapshot)


@contextmanager
def digest_first(stream: Readable, sha256: bytes) -> Iterator[HashingReader]:
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
    if hashing.finish() != sha256:
        raise DigestMismatchError("its bytes are not what its name says") from failure
    if failure is not None:
        raise failure


def look_behind(store: Store, key: str, sha256: bytes, size: int, read: Callable[[int], T]) -> T:
    """Read an object of some size; if it isn't what its name says, or isn't there, an older version that is, if there is one.

    Raises:
        IntegrityError, ObjectNotFoundError: as `read`, where there is none.
    """
    try:
        return read(size)
    except (DigestMismatchError, ObjectNotFoundError):
        info = store.look_behind(key, sha256)
        if info is None:
            raise
    return read(info.size_bytes)


def with_its_size(store: Store, found: FoundSnapshot, said: int) -> FoundSnapshot:
    """Return a snapshot whose manifest says another size of its DB than is listed, as an older version has it, if one does."""
    if said == found.size_bytes:
        return found
    info = store.look_behind(found.name.key, found.name.sha256)
    return found if info is None else found._replace(size_bytes=info.size_bytes)


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
    name = found.manifest

    def read(size: int) -> bytes:
        with open_metadata(store, name.key, name.sha256) as stream, digest_first(stream, name.sha256) as data:
            limit = MANIFEST_BOUND.most_content(size)
            return b"".join(decode_stream(open_stream(data, identities), size_limit=limit))

    try:
        facts = manifest.decode(look_behind(store, name.key, name.sha256, found.manifest_bytes, read))
    except ObjectNotFoundError as exc:
        raise IntegrityError(f"{what}: missing") from exc
    except NoMatchingIdentityError as exc:
        raise NoMatchingIdentityError(f"{what}: {exc}", hint=exc.hint) from exc
    except IntegrityError as exc:
        raise type(exc)(f"{what}: {exc}", hint=exc.hint) from exc
    if facts.snapshot != found.name.snapshot:
        raise IntegrityError(f"{what}: it is the manifest of {facts.snapshot}")
    return facts


def select(
    store: Store,
    spec: str,
    identities: Sequence[Identity],
    host: str | None = None,
    signers: Sequence[Signer] | None = None,
) -> FoundSnapshot:
    """Return the snapshot that `spec` names: an id, a unique beginning of one, or `latest`.

    Args:
        store: where.
        spec: as above.
        identities: to open manifests where they must be looked into.
        host: for `latest` in a prefix that holds several: a host's name, or a source by the 8 digits in its names.
        signers: whose signature it must have, None if that doesn't matter.

    Raises:
        SelectionError: none fits, or several do (they are named).
        SignatureError: it isn't signed by any of them.
    """
    found = _select(store, spec, identities, host)
    if signers is not None:
        facts = read_manifest(store, found, identities)
        found = with_its_size(store, found, facts.dbs[0][1])
        check_signed(found, facts, signers)
        if spec == LATEST and host != facts.host:
            _check_one_host(store, found, identities)
    return found


def _check_one_host(store: Store, found: FoundSnapshot, identities: Sequence[Identity]) -> None:
    """Check that a source has the snapshots of one host: another may sign in its own name, and write where it likes.

    Raises:
        SelectionError: it has several; which one is meant is for a person to say.
    """
    hosts = set()
    for one in list_snapshots(store):
        if one.source8 == found.source8:
            with suppress(IntegrityError, NoMatchingIdentityError):
                hosts.add(read_manifest(store, one, identities).host)
    if len(hosts) > 1:
        raise SelectionError(
            f"latest: source {found.source8} has snapshots of {', '.join(sorted(hosts))}",
            hint="add --host with the name of the one that is meant; one of them may have written into the other's",
        )


def _select(store: Store, spec: str, identities: Sequence[Identity], host: str | None) -> FoundSnapshot:
    found, alone = list_all(store)
    if not found:
        raise SelectionError(
            f"no snapshot in {store.location}", hint="check bucket and prefix; vaultik backup makes the first one"
        )
    if spec == LATEST:
        return _latest(store, found, identities, host)
    fitting = [s for s in found if s.name.snapshot.startswith(spec)] if spec else []
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        if spec:
            _check_lost(spec, found, alone)
        raise SelectionError(
            f"snapshot {spec!r}: there is none of that id", hint=f"there are: {_nearest(found, spec)}; or `latest`"
        )
    raise SelectionError(f"snapshot {spec!r}: several fit", hint=f"they are: {_shown(fitting)}")


def when(modified: float) -> str:
    """Return a store's time as text, UTC: `2026-11-23T08:15:00Z`."""
    return datetime.datetime.fromtimestamp(modified, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Newest(NamedTuple):
    """The newest complete snapshot of a source, and what its manifest says of it."""

    snapshot: FoundSnapshot
    host: str
    server_time: float


class Sources:
    """The snapshots of each source, and what their manifests say, each read once."""

    def __init__(self, store: Store, found: Sequence[FoundSnapshot], identities: Sequence[Identity]) -> None:
        self._store = store
        self._identities = identities
        self._facts: dict[str, manifest.Manifest] = {}
        self._snapshots: dict[str, list[FoundSnapshot]] = {}
        self.closed: dict[str, VaultikError] = {}
        """Sources of which a manifest can't be read that would have to be."""
        for snapshot in found:
            self._snapshots.setdefault(snapshot.source8, []).append(snapshot)

    def newest(self, host: str | None) -> list[Newest]:
        """Return each source's newest complete snapshot, of one host if it is given.

        Newest by what the store's time was when it was written. Objects that were copied elsewhere have other
        times there, ids follow a clock that may have been wrong: where the two disagree the manifests decide.
        """
        found = []
        for source, snapshots in self._snapshots.items():
            by_time = sorted(snapshots, key=lambda s: (s.modified, s.name.snapshot), reverse=True)
            by_id = sorted(snapshots, key=lambda s: s.name.snapshot, reverse=True)
            try:
                both = [self._first(by_time, host), self._first(by_id, host)]
            except (IntegrityError, NoMatchingIdentityError) as exc:
                # Maybe another host's, for other identities; what is meant may stand beside it.
                self.closed[source] = exc
                continue
            found += [max(both_found, key=lambda n: n.server_time)] if (both_found := [n for n in both if n]) else []
        return found

    def _first(self, snapshots: Sequence[FoundSnapshot], host: str | None) -> Newest | None:
        for snapshot in snapshots:
            key = snapshot.name.key
            if key not in self._facts:
                self._facts[key] = read_manifest(self._store, snapshot, self._identities)
            facts = self._facts[key]
            if facts.complete and host in (None, facts.host, snapshot.source8):
                return Newest(snapshot, facts.host, facts.server_time)
        return None


def _latest(
    store: Store, found: list[FoundSnapshot], identities: Sequence[Identity], host: str | None
) -> FoundSnapshot:
    """Return the newest complete snapshot of the host or source that is meant; the manifests tell which that is."""
    sources = Sources(store, found, identities)
    newest = sources.newest(None)
    # One that was renamed since is found by its old name too.
    fitting = [n for n in newest if host in (None, n.host, n.snapshot.source8)] or sources.newest(host)
    damaged = [exc for exc in sources.closed.values() if isinstance(exc, IntegrityError)]
    if sources.closed and (not fitting or (damaged and host is None)):
        failure = next(iter(damaged or sources.closed.values()))
        if failure.hint is None:
            failure.hint = f"which one is the newest can't be told; name one by its id: {_shown(found)}"
        raise failure
    if not newest:
        raise SelectionError("latest: no complete snapshot", hint=f"name a partial one by its id: {_shown(found)}")
    if not fitting:
        raise SelectionError(f"host {host!r}: no complete snapshot of it", hint=f"there are: {_named(newest)}")
    if len(fitting) > 1:
        hosts = len({n.host for n in fitting})
        what = f"{hosts} hosts" if hosts > 1 else f"{len(fitting)} sources of host {fitting[0].host}"
        raise SelectionError(
            f"latest: there are {what} in this prefix", hint=f"add --host with a name or a source: {_named(fitting)}"
        )
    return fitting[0].snapshot


def _named(newest: Sequence[Newest]) -> str:
    return ", ".join(
        f"{n.host} ({n.snapshot.source8}, last {when(n.server_time)})" for n in sorted(newest, key=lambda n: n.host)
    )


def _check_lost(spec: str, found: list[FoundSnapshot], alone: list[SnapshotName]) -> None:
    """Check that no manifest is left of what is meant.

    Raises:
        IntegrityError: one is.
    """
    left = [name for name in alone if name.snapshot.startswith(spec)]
    if len({name.snapshot for name in left}) != 1:
        return
    name = left[0]
    others = _nearest([s for s in found if s.source8 == name.source8], spec)
    raise IntegrityError(
        f"snapshot {name.snapshot}: its DB is missing, only its manifest is left",
        hint=f"{WITHOUT_DB}; of the same source there are: {others or 'none'}",
    )


def _nearest(found: list[FoundSnapshot], spec: str) -> str:
    """Name the snapshots on both sides of an id, or the newest, where it is none or lies beyond them."""
    before = [s for s in found if s.name.snapshot < spec]
    after = found[len(before) :]
    if before and after and spec[:1].isdigit():
        return f"{before[-1].name.snapshot} (before it), {after[0].name.snapshot} (after it)"
    return _shown(found)


def _shown(found: list[FoundSnapshot]) -> str:
    names = [s.name.snapshot for s in found[-_SHOWN:]]
    more = f" and {len(found) - len(names)} older; vaultik snapshots lists them all" if len(found) > len(names) else ""
    return ", ".join(names) + more
