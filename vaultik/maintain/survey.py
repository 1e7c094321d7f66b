"""Read every snapshot: its manifest, and with the identity that opens it its DB, which must say the same.

Who has only the audit identity opens manifests; of the DB name and size are then held against the manifest's.
What can't be read or doesn't agree is noted, and left to who decides.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.age_stream import RangeOpener
from vaultik.core.ids import source8
from vaultik.core.manifest import NAMESPACE
from vaultik.errors import (
    IntegrityError,
    MisplacedError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
    SignatureError,
)
from vaultik.maintain.inventory import check_still_there, find_manifest
from vaultik.snapshot.find import read_manifest, with_its_size
from vaultik.snapshot.read import open_snapshot
from vaultik.snapshot.signed import check_signed
from vaultik.snapshot.untrusted import find_meta

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.core.manifest import Manifest
    from vaultik.core.sshsig import Signer
    from vaultik.errors import VaultikError
    from vaultik.maintain.blob_table import References
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_HEADER_AT_MOST = 1 << 16
_SAME = ("source", "host", "snapshot", "complete", "started", "server_time", "entries", "bytes")
"""What manifest and DB both say."""


class Surveyed(NamedTuple):
    """A snapshot and what could be read of it."""

    found: FoundSnapshot
    facts: Manifest | None
    """Its manifest without the list of blobs; None if it can't be believed."""
    number: int | None
    """Its number among the references, which are its DB's where its manifest is damaged."""
    problem: VaultikError | None
    signer: Signer | None = None
    """Who signed it, where that matters."""
    has_db: bool = False
    """Whether its DB could be opened, and agrees."""


class Surveyor:
    """Reads snapshots one after the other."""

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        directory: Path,
        references: References,
        signers: Sequence[Signer] | None = None,
    ) -> None:
        """Prepare.

        Args:
            store: where they lie.
            identities: any of which may open one.
            directory: a private one for a DB while it is looked into.
            references: takes what they refer to.
            signers: whose signature each must have; None if that doesn't matter.
        """
        self._store = store
        self._identities = identities
        self._directory = directory
        self._references = references
        self._signers = signers

    def read(self, found: FoundSnapshot, *, with_db: bool = True) -> Surveyed:
        """Read a snapshot. What is wrong with it is in what is returned.

        Args:
            found: which.
            with_db: hold its DB against its manifest.

        Raises:
            PruneRefusedError: it was dropped by another prune since it was listed.
            StoreError: the store failed.
            OSError: the directory's disk is full.
        """
        if found.manifest is None:
            found = find_manifest(self._store, found)
        try:
            facts = read_manifest(self._store, found, self._identities)
        except (IntegrityError, NoMatchingIdentityError, ObjectNotFoundError) as exc:
            check_still_there(self._store, found)
            number = self._said_by_db(found) if with_db and isinstance(exc, IntegrityError) else None
            return Surveyed(found, None, number, exc)
        try:
            found = with_its_size(self._store, found, facts.dbs[0][1])
            blobs = {bytes.fromhex(blob): size for blob, size in facts.blobs}
            _check_names(found, facts, len(blobs))
            signer = check_signed(found, facts, self._signers) if self._signers is not None else None
            has_db = with_db and self._opens_db(found)
            if has_db:
                self._check_db(found, facts, blobs)
        except (IntegrityError, NoMatchingIdentityError, ObjectNotFoundError) as exc:
            check_still_there(self._store, found)
            return Surveyed(found, None, None, exc)
        number = self._references.add(blobs)
        return Surveyed(found, dataclasses.replace(facts, blobs=()), number, None, signer, has_db)

    def _opens_db(self, found: FoundSnapshot) -> bool:
        """Tell whether an identity opens the snapshot's DB; an audit identity opens manifests only."""
        with self._store.open(found.name.key, length=min(found.size_bytes, _HEADER_AT_MOST)) as stream:
            start = stream.read()
        try:
            RangeOpener(start, self._identities)
        except NoMatchingIdentityError:
            return False
        return True

    def _said_by_db(self, found: FoundSnapshot) -> int | None:
        """Take what a snapshot refers to from its DB; returns its number, None if nobody vouches for that."""
        if self._signers is not None:
            return None
        try:
            if not self._opens_db(found):
                return None
            with open_snapshot(self._store, found, self._identities, self._directory) as db:
                return self._references.add(dict(db.execute("SELECT hash, size FROM blobs")))
        except (IntegrityError, ObjectNotFoundError):
            return None

    def _check_db(self, found: FoundSnapshot, facts: Manifest, blobs: dict[bytes, int]) -> None:
        with open_snapshot(self._store, found, self._identities, self._directory) as db:
            for name in _SAME:
                if find_meta(db, name) != getattr(facts, name):
                    raise IntegrityError(f"manifest and DB disagree ({name})")
            left = dict(blobs)
            for blob, size in db.execute("SELECT hash, size FROM blobs"):
                if left.pop(blob, None) != size:
                    raise IntegrityError("manifest and DB disagree (a blob)")
            if left:
                raise IntegrityError("manifest and DB disagree (a blob)")


def refuse_strangers(surveyed: Sequence[Surveyed]) -> list[Surveyed]:
    """Return the snapshots, with a problem of those that are signed by who may not sign for every host of their source.

    Each host signs in its own name, and may write where it likes.
    """
    hosts: dict[str, set[str]] = defaultdict(set)
    for one in surveyed:
        if one.facts is not None and one.signer is not None:
            hosts[one.found.source8].add(one.facts.host)
    return [
        one._replace(problem=_stranger(one, others), facts=None) if one.signer is not None and others else one
        for one in surveyed
        for others in [[h for h in hosts[one.found.source8] if one.signer and not one.signer.is_of(h, NAMESPACE)]]
    ]


def _stranger(one: Surveyed, others: Sequence[str]) -> SignatureError:
    assert one.facts is not None
    return SignatureError(
        f"manifest of {one.found.name.snapshot}: signed for {one.facts.host!r}, in a source that has snapshots of"
        f" {', '.join(sorted(others))} too"
    )


def _check_names(found: FoundSnapshot, facts: Manifest, blobs: int) -> None:
    what = f"manifest of {found.name.snapshot}"
    if facts.dbs != ((found.name.key, found.size_bytes),):
        if all(key.endswith(f"/{found.name.key}") for key, _ in facts.dbs):
            raise MisplacedError(f"{what}: says that the DB is {facts.dbs[0][0]}, and it is {found.name.key}")
        raise IntegrityError(f"{what}: it and the DB disagree (name or size)")
    if source8(facts.source) != found.source8:
        raise IntegrityError(f"{what}: says another source than its name")
    if blobs != len(facts.blobs):
        raise IntegrityError(f"{what}: names a blob twice")
