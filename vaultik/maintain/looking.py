"""The first step of a verification: list everything, hold against each other what is listed and what is said.

Without an identity: which objects there are. With one, also: does each snapshot's manifest agree with its DB, is every
blob stored that it names, with its size, and does the chain of manifests hold.
"""

from __future__ import annotations

import functools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaultik.core.names import BLOBS_PREFIX, blob_key, parse_blob_key, parse_snapshot_key
from vaultik.errors import IntegrityError, NoMatchingIdentityError, PruneRefusedError, SelectionError, SignatureError
from vaultik.maintain import blob_table, content, findings, memory
from vaultik.maintain.blob_table import Hold, References
from vaultik.maintain.chain import Link, find_breaks
from vaultik.maintain.findings import Kind
from vaultik.maintain.inventory import size_behind
from vaultik.maintain.survey import Surveyor, refuse_strangers
from vaultik.model import BlobId
from vaultik.snapshot.find import WITHOUT_DB, list_snapshots, select
from vaultik.snapshot.listing import iter_outside_blobs
from vaultik.snapshot.read import fetch_snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.maintain.survey import Surveyed
    from vaultik.maintain.verify_request import VerifyRequest
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

SCHEMA = """
CREATE TABLE objects (key TEXT PRIMARY KEY, sha256 BLOB NOT NULL, size INTEGER NOT NULL, modified REAL NOT NULL, snapshot TEXT)
    STRICT, WITHOUT ROWID;
CREATE TABLE chosen (number INTEGER, snapshot TEXT NOT NULL, key TEXT NOT NULL) STRICT;
CREATE TABLE gone (blob BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE vanished (key TEXT PRIMARY KEY, snapshot TEXT NOT NULL) STRICT, WITHOUT ROWID
"""
"""Objects outside blobs/ name their snapshot; chosen snapshots that could be read have their number among the references."""
_BLOB_KEY = "'blobs/' || substr(lower(hex(id)), 1, 2) || '/' || substr(lower(hex(id)), 3, 2) || '/' || lower(hex(id))"
_SHOWN = 20


@contextmanager
def copied(store: Store, found: FoundSnapshot, identities: Sequence[Identity], directory: Path) -> Iterator[Path]:
    """Copy a snapshot with its layers into a database that is there for the block.

    Raises:
        IntegrityError, NoMatchingIdentityError, StoreError, OSError: as `fetch_snapshot`.
    """
    copy = directory / "copy.sqlite"
    try:
        fetch_snapshot(store, found, identities, directory, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


class Looker:
    """Looks at a store once."""

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        db: sqlite3.Connection,
        directory: Path,
        request: VerifyRequest,
        emit: Callable[..., None],
    ) -> None:
        """Prepare.

        Args:
            store: what to look at.
            identities: any of which may open something; may be none.
            db: the verification's working state, its memory attached.
            directory: a private one.
            request: what to look at.
            emit: takes progress.
        """
        self._store = store
        self._identities = identities
        self._db = db
        self._directory = directory
        self._request = request
        self._emit = emit
        self._strangers: list[str] = []

    def run(self) -> None:
        """Look, and note what is wrong.

        Raises:
            SelectionError: there is nothing, or nothing of that name.
            NoMatchingIdentityError: the identities open nothing of it, or not what is asked for.
            StoreError: the store failed.
        """
        self._list_outside()
        found = list_snapshots(self._store)
        surveyed = self._survey(self._choose(found))
        self._list_blobs()
        if self._db.execute("SELECT NOT EXISTS (SELECT 1 FROM objects)").fetchone()[0]:
            raise SelectionError(
                f"nothing is stored in {self._store.location}",
                hint="check bucket and prefix; vaultik backup makes the first snapshot",
            )
        self._note_strangers()
        self._find_lost(surveyed)
        if not self._request.snapshots:
            self._check_chains(surveyed)
            self._check_seen(found)
        if self._request.deep:
            self._take_places([s.found for s in surveyed if s.number is not None])

    # -- what there is ----------------------------------------------------------------------------

    def _list_outside(self) -> None:
        first: dict[tuple[str, str, str], str] = {}
        for info in iter_outside_blobs(self._store):
            name = parse_snapshot_key(info.key)
            if name is None:
                self._strangers.append(info.key)
                continue
            row = (info.key, name.sha256, info.size_bytes, info.modified, name.snapshot)
            self._db.execute("INSERT INTO objects VALUES (?, ?, ?, ?, ?)", row)
            other = first.setdefault((name.prefix, name.snapshot, name.kind), info.key)
            if other != info.key:
                self._problem(
                    Kind.CHAIN, info.key, f"stands beside {other}: no backup writes a second one", name.snapshot
                )
        for (prefix, snapshot, kind), key in first.items():
            if kind == "db" and (prefix, snapshot, "manifest") not in first and not self._identities:
                self._note(f"{key}: a snapshot without its manifest, which every backup puts first")
            if kind == "manifest" and (prefix, snapshot, "db") not in first:
                self._note(f"{key}: a manifest without its DB: {WITHOUT_DB}; a prune removes it in time")

    def _list_blobs(self) -> None:
        self._emit(stage="listing blobs", objects=0, bytes=0)
        blob_table.add_blobs(self._db, self._iter_blobs())
        which = "WHERE id IN (SELECT blob FROM spans)" if self._request.snapshots else ""
        self._db.execute(f"INSERT INTO objects SELECT {_BLOB_KEY}, id, size, modified, NULL FROM blobs {which}")
        if self._request.snapshots:
            self._db.execute("DELETE FROM objects WHERE snapshot NOT IN (SELECT snapshot FROM chosen)")

    def _iter_blobs(self) -> Iterator[tuple[BlobId, int, float]]:
        for info in self._store.walk(BLOBS_PREFIX):
            if (blob := parse_blob_key(info.key)) is None:
                self._strangers.append(info.key)
                continue
            self._emit(done=1, done_bytes=info.size_bytes)
            yield blob, info.size_bytes, info.modified

    def _note_strangers(self) -> None:
        for key in self._strangers[:_SHOWN]:
            self._note(f"{key}: not something that vaultik stores")
        if (more := len(self._strangers) - _SHOWN) > 0:
            self._note(f"and {more:,} more such objects")

    # -- what is said -----------------------------------------------------------------------------

    def _choose(self, found: list[FoundSnapshot]) -> list[FoundSnapshot]:
        """Return the snapshots that are asked for, a source's in a row."""
        specs, host = self._request.snapshots, self._request.host
        chosen = [select(self._store, spec, self._identities, host) for spec in specs] if specs else found
        return sorted({s.name.key: s for s in chosen}.values(), key=lambda s: (s.source8, s.name.snapshot))

    def _survey(self, chosen: Sequence[FoundSnapshot]) -> list[Surveyed]:
        if not self._identities:
            return []
        size = sum(s.size_bytes + s.manifest_bytes for s in chosen)
        self._emit(stage="reading snapshots", objects=len(chosen), bytes=size)
        references = References(self._db)
        surveyor = Surveyor(self._store, self._identities, self._directory, references, self._request.signers)
        surveyed: list[Surveyed] = []
        for found in chosen:
            try:
                surveyed.append(surveyor.read(found))
            except PruneRefusedError:
                # A prune dropped it since it was listed; or it is listed and isn't there, which is seen in the end.
                self._db.execute("INSERT OR IGNORE INTO vanished VALUES (?, ?)", (found.name.key, found.name.snapshot))
            self._emit(done=1, done_bytes=found.size_bytes + found.manifest_bytes)
        references.finish()
        surveyed = refuse_strangers(surveyed)
        self._note_survey(surveyed)
        return surveyed

    def _note_survey(self, surveyed: Sequence[Surveyed]) -> None:
        closed = [s for s in surveyed if isinstance(s.problem, NoMatchingIdentityError)]
        if closed and len(closed) == len(surveyed):
            assert closed[0].problem is not None
            raise closed[0].problem
        opens_dbs = any(s.has_db for s in surveyed)
        for one in surveyed:
            name = one.found.name
            if isinstance(one.problem, NoMatchingIdentityError) and self._request.signers is None:
                self._note(f"snapshot {name.snapshot}: for other identities; what it needs is not known here")
            elif one.problem is not None:
                kind = Kind.CONTENT
                if (
                    isinstance(one.problem, SignatureError | NoMatchingIdentityError)
                    and self._request.signers is not None
                ):
                    kind = Kind.SIGNATURE
                self._problem(kind, name.key, str(one.problem), name.snapshot)
            elif opens_dbs and not one.has_db:
                self._note(
                    f"snapshot {name.snapshot}: its DB is for other identities than its manifest; no file of it is known here"
                )
            self._db.execute("INSERT INTO chosen VALUES (?, ?, ?)", (one.number, name.snapshot, name.key))

    def _find_lost(self, surveyed: Sequence[Surveyed]) -> None:
        """Note what the snapshots refer to and isn't stored as they say."""
        blob_table.hold(self._db, {s.number: Hold.KEPT for s in surveyed if s.number is not None})
        if blob_table.find_lost(self._db):
            for blob in blob_table.mend_sizes(self._db, functools.partial(size_behind, self._store)):
                self._problem(
                    Kind.REPLACED, blob_key(BlobId(blob)), "has another size than its older version, which is right"
                )
            blob_table.find_lost(self._db)
        self._db.execute("INSERT INTO gone SELECT DISTINCT blob FROM lost WHERE blob NOT IN (SELECT id FROM blobs)")
        rows = self._db.execute(
            "SELECT DISTINCT b.id, b.size, EXISTS (SELECT 1 FROM spans AS s WHERE s.blob = b.id AND s.size = b.size)"
            " FROM lost AS l JOIN blobs AS b ON b.id = l.blob ORDER BY b.id"
        ).fetchall()
        for blob, size, is_agreed in rows:
            if is_agreed:
                self._blame(blob, size)
            else:
                self._problem(Kind.SIZE, blob_key(blob), f"has {size:,} bytes, and its snapshots say otherwise")
                content.note_bad(self._db, blob, None)

    def _blame(self, blob: bytes, size: int) -> None:
        """Note the snapshots that say another size of a blob than is stored, where others say that one."""
        rows = self._db.execute(
            "SELECT DISTINCT c.snapshot, c.key FROM chosen AS c JOIN spans AS s ON c.number BETWEEN s.first AND s.last"
            " WHERE s.blob = ? AND s.size <> ?",
            (blob, size),
        ).fetchall()
        for snapshot, key in rows:
            text = f"says another size of blob {blob.hex()[:16]}... than is stored, and than other snapshots say"
            self._problem(Kind.CONTENT, key, text, snapshot)

    def _check_chains(self, surveyed: Sequence[Surveyed]) -> None:
        links = []
        for one in surveyed:
            if one.found.manifest is not None:
                place = (one.found.source8, one.found.name.snapshot, one.found.manifest.sha256.hex())
                facts = one.facts
                links.append(
                    Link(*place, facts.previous, facts.previous_manifest) if facts else Link(*place, is_open=False)
                )
        keys: dict[str, str] = {s.found.name.snapshot: s.found.name.key for s in surveyed}
        for found in find_breaks(links):
            if found.is_problem:
                self._problem(Kind.CHAIN, keys[found.snapshot], found.text, found.snapshot)
            else:
                self._note(f"snapshot {found.snapshot}: {found.text}")

    def _check_seen(self, found: Sequence[FoundSnapshot]) -> None:
        """Hold what is listed against what was seen before: who steals the newest snapshots leaves a gap that no prune does."""
        listed = {s.name.key: memory.Seen(s.source8, s.modified) for s in found}
        vanished = {} if self._request.accept else memory.find_vanished(self._db, listed, time.time())
        for key, one in vanished.items():
            name = parse_snapshot_key(key)
            snapshot = name.snapshot if name is not None else key
            text = f"seen by an earlier verification among the newest of source {one.source}, and gone: --accept if it was you, by a prune"
            self._problem(Kind.CHAIN, key, text, snapshot)
        memory.set_seen(self._db, listed | vanished)

    def _take_places(self, chosen: Sequence[FoundSnapshot]) -> None:
        """Read snapshots whole, and take where their files have their chunks."""
        self._emit(stage="reading trees", objects=len(chosen), bytes=sum(s.size_bytes for s in chosen))
        closed: list[tuple[FoundSnapshot, NoMatchingIdentityError]] = []
        for found in chosen:
            try:
                with copied(self._store, found, self._identities, self._directory) as copy:
                    content.add_places(self._db, copy)
            except NoMatchingIdentityError as exc:
                closed.append((found, exc))
            except IntegrityError as exc:
                if self._store.head(found.name.key) is not None:
                    self._problem(Kind.CONTENT, found.name.key, str(exc), found.name.snapshot)
            self._emit(done=1, done_bytes=found.size_bytes)
        if closed and len(closed) == len(chosen):
            hint = "an audit identity opens manifests only; --deep takes one that restores"
            raise NoMatchingIdentityError(f"--deep: {closed[0][1]}", hint=hint)
        for found, _ in closed:
            self._note(f"snapshot {found.name.snapshot}: not looked into: its DB is for other identities")

    # -- parts ------------------------------------------------------------------------------------

    def _problem(self, kind: Kind, key: str, text: str, *snapshots: str) -> None:
        findings.add_problem(self._db, kind, key, text, snapshots)

    def _note(self, text: str) -> None:
        findings.add_note(self._db, text)
