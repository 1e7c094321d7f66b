"""Which snapshots there are, and under which names they are shown.

    hosts/HOST/SNAPSHOT/              what SNAPSHOT holds, from / on
    hosts/HOST/latest                 -> the newest complete one
    by-date/YEAR/MONTH/DAY/TIME-HOST-ID  -> ../../../../hosts/HOST/SNAPSHOT
    latest                            -> hosts/HOST/latest, where there is one host

A snapshot has one place; all other names are links to it, so that whoever walks through everything comes by once. Where a
host has several sources, each is a HOST of its own: HOST-SOURCE8. Which host a source is of, its newest manifest says; where
signatures are asked for every manifest is read, and what isn't signed in its own host's name isn't shown.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vaultik.errors import IntegrityError, NoMatchingIdentityError, SelectionError, VaultikError
from vaultik.shown import printable
from vaultik.snapshot.find import Sources, list_snapshots, read_manifest, with_its_size
from vaultik.snapshot.signed import check_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

FRESH_S = 60.0
"""So long the store isn't listed again."""
_LATEST = b"latest"
_LONGEST_HOST = 200


class Link(NamedTuple):
    """A name that leads to another."""

    target: bytes


Directory: TypeAlias = "dict[bytes, Directory | Link | FoundSnapshot]"
"""What a directory that no snapshot holds lists."""
Place: TypeAlias = "Directory | Link | FoundSnapshot"


class _Group(NamedTuple):
    """The snapshots of a source."""

    host: str
    source8: str
    snapshots: tuple[FoundSnapshot, ...]
    latest: FoundSnapshot | None


class Catalog:
    """What is shown above the snapshots."""

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        *,
        host: str | None,
        signers: Sequence[Signer] | None,
        report: Callable[[str], None],
    ) -> None:
        """List the store.

        Args:
            store: where.
            identities: to open manifests.
            host: show those of one host (or source, by its 8 digits) only.
            signers: whose signature a snapshot must have, None if that doesn't matter.
            report: takes a line on what can't be shown; each once.

        Raises:
            SelectionError: there is none to show.
            NoMatchingIdentityError: they are all for somebody else.
            IntegrityError, StoreError: it can't be told.
        """
        self._store = store
        self._identities = identities
        self._host = host
        self._signers = signers
        self._report = report
        self._reported: set[str] = set()
        self._lock = threading.Lock()
        self._found: list[FoundSnapshot] = []
        self._top: Directory = {}
        self._list()
        if not self._top:
            raise self._nothing()

    def top(self) -> Directory:
        """Return the top directory; the store is listed again if that was long ago and nobody else does."""
        if time.monotonic() - self._listed > FRESH_S and self._lock.acquire(blocking=False):
            try:
                self._list()
            except VaultikError as exc:
                self._report(f"what is new is not shown: {exc}")
            finally:
                self._lock.release()
        return self._top

    def hosts(self) -> list[str]:
        """Return the hosts that are shown."""
        return sorted({group.host for group in self._groups})

    def count(self) -> int:
        """Return how many snapshots are shown."""
        return sum(len(group.snapshots) for group in self._groups)

    def _list(self) -> None:
        # Whatever comes of it: a store that fails isn't asked at every turn.
        self._listed = time.monotonic()
        found = list_snapshots(self._store)
        if found != self._found:
            groups = self._signed(found) if self._signers is not None else self._by_source(found)
            self._groups = [g for g in groups if self._host in (None, g.host, g.source8)]
            self._top = _layout(self._groups)
            self._found = found

    def _nothing(self) -> VaultikError:
        if not self._found:
            return SelectionError(
                f"no snapshot in {self._store.location}",
                hint="check bucket and prefix; vaultik backup makes the first one",
            )
        if self._host is not None:
            return SelectionError(
                f"host {self._host!r}: no snapshot of it", hint="vaultik snapshots lists hosts and sources"
            )
        return self._failure or SelectionError("no snapshot can be shown")

    _failure: VaultikError | None = None
    """Why something isn't shown."""

    def _by_source(self, found: Sequence[FoundSnapshot]) -> list[_Group]:
        sources = Sources(self._store, found, self._identities)
        newest = {n.snapshot.source8: n for n in sources.newest(None)}
        by_source: dict[str, list[FoundSnapshot]] = {}
        for snapshot in found:
            by_source.setdefault(snapshot.source8, []).append(snapshot)
        groups = []
        for source8, snapshots in by_source.items():
            failure = sources.closed.get(source8)
            if failure is not None:
                self._say(f"source {source8}: {failure}", failure)
            if not isinstance(failure, NoMatchingIdentityError):
                latest = newest[source8].snapshot if source8 in newest else None
                host = newest[source8].host if source8 in newest else self._host_of(snapshots[-1])
                groups.append(_Group(host, source8, tuple(snapshots), latest))
        return groups

    def _host_of(self, snapshot: FoundSnapshot) -> str:
        """Return the host of a source that has no complete snapshot, or whose newest manifest is damaged."""
        try:
            return read_manifest(self._store, snapshot, self._identities).host
        except (IntegrityError, NoMatchingIdentityError):
            return f"source-{snapshot.source8}"

    def _signed(self, found: Sequence[FoundSnapshot]) -> list[_Group]:
        """Group what is signed by source and host: one host may write into another's source, but not in its name."""
        signed: dict[tuple[str, str], list[tuple[float, FoundSnapshot]]] = {}
        for snapshot in found:
            try:
                facts = read_manifest(self._store, snapshot, self._identities)
                sized = with_its_size(self._store, snapshot, facts.dbs[0][1])
                check_signed(sized, facts, self._signers or ())
            except (IntegrityError, NoMatchingIdentityError) as exc:
                self._say(f"snapshot {snapshot.name.snapshot} is not shown: {exc}", exc)
                continue
            when = facts.server_time if facts.complete else -1.0
            signed.setdefault((facts.host, snapshot.source8), []).append((when, sized))
        groups = []
        for (host, source8), snapshots in signed.items():
            when, newest = max(snapshots, key=lambda s: (s[0], s[1].name.snapshot))
            groups.append(_Group(host, source8, tuple(s for _, s in snapshots), newest if when >= 0 else None))
        return groups

    def _say(self, line: str, failure: VaultikError) -> None:
        self._failure = self._failure or failure
        if line not in self._reported:
            self._reported.add(line)
            self._report(line)


def _layout(groups: Sequence[_Group]) -> Directory:
    hosts: Directory = {}
    dates: Directory = {}
    several = Counter(_file_name(group.host) for group in groups)
    for group in groups:
        host = _file_name(group.host)
        name = host if several[host] == 1 else host + b"-" + group.source8.encode()
        while name in hosts:
            name += b"_"
        own: Directory = {snapshot.name.snapshot.encode(): snapshot for snapshot in group.snapshots}
        for snapshot in own:
            day = dates
            for part in (snapshot[:4], snapshot[4:6], snapshot[6:8]):
                below = day.setdefault(part, {})
                assert isinstance(below, dict)
                day = below
            target = b"/".join((b"../../../..", b"hosts", name, snapshot))
            day[b"-".join((snapshot[9:16], name, snapshot[17:]))] = Link(target)
        if group.latest is not None:
            own[_LATEST] = Link(group.latest.name.snapshot.encode())
        hosts[name] = own
    top: Directory = {b"hosts": hosts, b"by-date": dates} if hosts else {}
    if len(hosts) == 1:
        (name,) = hosts
        (only,) = hosts.values()
        if isinstance(only, dict) and _LATEST in only:
            top[_LATEST] = Link(b"/".join((b"hosts", name, _LATEST)))
    return top


def _file_name(host: str) -> bytes:
    """Return a host's name as that of a directory: it is whatever the writer of a manifest put there."""
    name = printable(host).replace("/", "_").encode("utf-8", "backslashreplace")[:_LONGEST_HOST]
    return name if name not in (b"", b".", b"..") else b"host-" + name
