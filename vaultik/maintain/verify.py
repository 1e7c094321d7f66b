"""A verification's working set and its steps. Nothing is written to the store.

    look     list everything, and hold against each other what is listed and what is said (`looking`)
    read     are the bytes of each object what its name says; of a deep one also, is each chunk what the snapshots say
    trace    which snapshots, and which files, what is wrong belongs to

What was read and right is remembered (`memory`): a verification that was broken off goes on, and one that reads
a part takes what has gone unread for longest.
"""

from __future__ import annotations

import functools
import math
import time
from contextlib import closing
from typing import TYPE_CHECKING

from vaultik.core.names import blob_key, parse_blob_key
from vaultik.errors import IdentityError, IntegrityError, NoMatchingIdentityError
from vaultik.maintain import content, findings, looking, memory
from vaultik.maintain.findings import Kind
from vaultik.maintain.looking import Looker, copied
from vaultik.maintain.plan import Tally
from vaultik.maintain.reading import Item, read_all, read_item
from vaultik.maintain.steps import StepSession
from vaultik.maintain.verify_report import VerifyReport
from vaultik.snapshot.fetch import can_read
from vaultik.snapshot.find import list_snapshots

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vaultik.core.identity import Identity
    from vaultik.maintain.reading import Reading, Witness
    from vaultik.maintain.verify_request import VerifyRequest
    from vaultik.model import BlobId
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

LOOK, READ, TRACE = "look", "read", "trace"
_SCHEMA = f"""
{looking.SCHEMA};
CREATE TABLE reads (place INTEGER PRIMARY KEY, key TEXT NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL,
    modified REAL NOT NULL) STRICT;
CREATE TABLE tallies (what TEXT PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE bad_spans (first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
{findings.SCHEMA};
{content.SCHEMA}
"""
_SIDE_BY_SIDE = 4
_DEEP_SIDE_BY_SIDE = 2
"""Each of these decodes on threads of its own."""
_PATHS_SHOWN = 1000
_RIGHT, _BEFORE = "right", "before"
_IS_HIT = "EXISTS (SELECT 1 FROM bad_spans AS b WHERE c.number BETWEEN b.first AND b.last)"


class VerifySession(StepSession):
    """One verification, as every process of it sees it."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        identities: Sequence[Identity],
        request: VerifyRequest,
        emit: Callable[..., None] = lambda **_event: None,
    ) -> None:
        """Prepare, as `StepSession`.

        Args:
            open_store: gives a client of the store; several are used side by side.
            identities: any of which may open manifests, or DBs and blobs too; without one only bytes are looked at.
            request: what to look at.
            emit: takes progress.

        Raises:
            IdentityError: what is asked for takes one, and there is none.
        """
        takes_one = {"--deep": request.deep, "SNAPSHOT": request.snapshots, "--signers": request.signers is not None}
        asked = [what for what, is_asked in takes_one.items() if is_asked]
        if asked and not identities:
            raise IdentityError(
                f"{asked[0]}: takes an identity, which opens the list of a snapshot's blobs",
                hint="pass --identity FILE or set VAULTIK_PRIVATE_KEY; without any, every stored byte can be verified",
            )
        super().__init__(open_store, identities, emit)
        self._request = request

    def look(self) -> None:
        """List and hold against each other; settle what is to be read.

        Raises:
            SelectionError, NoMatchingIdentityError, StoreError: as `Looker.run`.
            LocalIndexError: the disk under the temporary directory or the memory failed.
        """
        with self._disk_errors():
            Looker(self.store(), self._identities, self.db(), self._directory, self._request, self.emit).run()
            self._settle()
            self._done(LOOK)

    def _settle(self) -> None:
        db, sample = self.db(), self._request.sample
        (stored,) = db.execute("SELECT total(size) FROM objects WHERE snapshot IS NULL").fetchone()
        db.execute(
            # What has gone unread for longest comes first, and what was wrong the last time always comes.
            "INSERT INTO reads (key, sha256, size, modified) SELECT key, sha256, size, modified FROM (SELECT o.*,"
            " o.snapshot IS NULL AS is_blob, v.is_right IS 0 AS is_wrong, sum(o.size) OVER (PARTITION BY o.snapshot IS NULL"
            " ORDER BY v.is_right IS 0, coalesce(v.at, 0), o.sha256) - o.size AS sooner"
            " FROM objects AS o LEFT JOIN remembered AS v USING (sha256)) WHERE NOT is_blob OR is_wrong OR sooner < ?"
            " ORDER BY is_blob, is_wrong DESC, sooner",
            (sample.of(int(stored)) if sample else math.inf,),
        )

    # -- read -------------------------------------------------------------------------------------

    def read(self) -> None:
        """Read what is settled, several objects at a time.

        Raises:
            StoreError: the store failed; what was right until then is remembered.
            LocalIndexError: as `look`.
        """
        with self._disk_errors():
            db, kind = self.db(), self._request.kind
            since = memory.begin_pass(db, kind, time.time()) if self._request.sample is None else math.inf
            objects, size = db.execute("SELECT count(*), total(size) FROM reads").fetchone()
            self.emit(stage="reading", objects=objects, bytes=int(size))
            count = _DEEP_SIDE_BY_SIDE if self._request.deep else _SIDE_BY_SIDE
            # Of their own: a store that has looked behind an object doesn't show any more what stands there.
            stores = [self._open_store() for _ in range(count)]
            try:
                for reading in read_all(self._iter_items(since), stores, self._read):
                    self._take(reading)
            finally:
                for store in stores:
                    store.close()
            if self._request.sample is None:
                memory.end_pass(db, kind)
            self._done(READ)

    def _iter_items(self, since: float) -> Iterator[Item]:
        """Yield what wasn't read and right since the verification began, or has changed since."""
        place = 0
        query = (
            "SELECT r.place, r.key, r.sha256, r.size, v.at >= ? AND v.at >= r.modified AND v.size = r.size, v.content"
            " FROM reads AS r LEFT JOIN remembered AS v ON v.sha256 = r.sha256 AND v.is_right"
            " WHERE r.place > ? ORDER BY r.place LIMIT 1"
        )
        while row := self.db().execute(query, (since, place)).fetchone():
            place, key, sha256, size, is_read, seen = row
            if is_read and (not self._request.deep or seen == self._content(key)):
                self._count(_BEFORE, size)
            else:
                yield Item(key, sha256, size)

    def _content(self, key: str) -> bytes | None:
        blob = parse_blob_key(key)
        return content.digest(self.db(), blob) if blob is not None and self._request.deep else None

    def _read(self, store: Store, item: Item) -> Reading:
        """Read an object, on a thread."""
        blob = parse_blob_key(item.key)
        others_work = functools.partial(self._others_work, item.key)
        if blob is None or not self._request.deep:
            return read_item(store, item, others_work)
        with closing(self._connect_plain()) as db:
            return read_item(store, item, others_work, lambda witness: self._look_into(witness, db, blob))

    def _look_into(self, witness: Witness, db: sqlite3.Connection, blob: BlobId) -> list[bytes]:
        return content.bad_chunks(witness, self._identities, db, blob)

    def _others_work(self, key: str, store: Store) -> bool:
        with closing(self._connect_plain()) as db:
            row = db.execute(
                "SELECT key FROM objects WHERE key <> ? ORDER BY snapshot IS NULL LIMIT 1", (key,)
            ).fetchone()
        return row is not None and can_read(store, row[0])

    def _take(self, reading: Reading) -> None:
        db, item = self.db(), reading.item
        blob = parse_blob_key(item.key)
        self.emit(done=1, done_bytes=item.size)
        is_right = reading.problem is None
        memory.note(db, item.sha256, item.size, time.time(), is_right=is_right)
        if is_right and self._request.deep:
            memory.note_depth(db, item.sha256, time.time(), self._content(item.key))
        if reading.problem is None:
            self._count(_RIGHT, item.size)
            return
        kind, text = reading.problem
        row = db.execute("SELECT snapshot FROM objects WHERE key = ? AND snapshot IS NOT NULL", (item.key,)).fetchone()
        if kind == Kind.MISSING:
            # Whether it should be there is settled in the end.
            where = "gone VALUES (?)" if blob is not None else "vanished VALUES (?, ?)"
            db.execute(f"INSERT OR IGNORE INTO {where}", (blob,) if blob is not None else (item.key, *row))
            return
        findings.add_problem(db, kind, item.key, text, row or ())
        if blob is not None:
            content.note_bad(db, blob, reading.bad_chunks)

    # -- trace ------------------------------------------------------------------------------------

    def trace(self) -> None:
        """Find out which snapshots and which files what is wrong belongs to.

        Raises:
            StoreError, LocalIndexError: as `read`.
        """
        with self._disk_errors():
            db = self.db()
            db.execute("INSERT OR IGNORE INTO bad_blobs SELECT blob FROM gone")
            db.execute(
                "INSERT INTO bad_spans SELECT DISTINCT first, last FROM spans"
                " WHERE blob IN (SELECT blob FROM bad_blobs UNION SELECT blob FROM bad_chunks)"
            )
            is_wanted = db.execute(
                "SELECT EXISTS (SELECT 1 FROM bad_spans UNION ALL SELECT 1 FROM vanished)"
            ).fetchone()[0]
            there = {s.name.key: s for s in list_snapshots(self.store())} if is_wanted else {}
            if is_wanted:
                self._settle_vanished()
                self._forget_dropped(there)
            self._settle_gone()
            rows = db.execute(f"SELECT key FROM chosen AS c WHERE {_IS_HIT} ORDER BY number").fetchall()
            self.emit(stage="looking which files", objects=len(rows), bytes=0)
            for (key,) in rows:
                self._trace_files(there[key])
                self.emit(done=1)
            self._done(TRACE)

    def _settle_vanished(self) -> None:
        """Call missing what is listed still, and can't be read."""
        db = self.db()
        for key, snapshot in db.execute("SELECT key, snapshot FROM vanished ORDER BY key").fetchall():
            if self._is_listed(key):
                findings.add_problem(db, Kind.MISSING, key, "is listed, and is not there", [snapshot])

    def _forget_dropped(self, there: Mapping[str, FoundSnapshot]) -> None:
        """Forget the snapshots that a prune dropped meanwhile: they may lack what they like."""
        db = self.db()
        rows = db.execute("SELECT key FROM chosen").fetchall()
        db.executemany("DELETE FROM chosen WHERE key = ?", ((key,) for (key,) in rows if key not in there))

    def _settle_gone(self) -> None:
        """Call missing what a snapshot needs, or the store still lists; the rest a prune may have removed."""
        db = self.db()
        needed = (
            "SELECT 1 FROM chosen AS c JOIN spans AS s ON c.number BETWEEN s.first AND s.last WHERE s.blob = ? LIMIT 1"
        )
        for (blob,) in db.execute("SELECT blob FROM gone ORDER BY blob").fetchall():
            key = blob_key(blob)
            if db.execute(needed, (blob,)).fetchone():
                findings.add_problem(db, Kind.MISSING, key, "is not stored")
            elif self._is_listed(key):
                findings.add_problem(db, Kind.MISSING, key, "is listed, and is not there")
            else:
                findings.add_note(db, f"{key}: gone since it was listed; a prune may be at work")

    def _is_listed(self, key: str) -> bool:
        return any(info.key == key for info in self.store().walk(key))

    def _trace_files(self, found: FoundSnapshot) -> None:
        db, snapshot = self.db(), found.name.snapshot
        try:
            with copied(self.store(), found, self._identities, self._directory) as copy:
                content.add_hit_files(db, snapshot, copy)
        except NoMatchingIdentityError:
            return  # an audit identity sees no files
        except IntegrityError as exc:
            if not db.execute("SELECT 1 FROM problems WHERE key = ?", (found.name.key,)).fetchone():
                findings.add_problem(db, Kind.CONTENT, found.name.key, str(exc), [snapshot])

    # -- report -----------------------------------------------------------------------------------

    def report(self) -> VerifyReport:
        """Return what came of it."""
        db = self.db()
        blobs = "SELECT count(*), total(o.size) FROM objects AS o LEFT JOIN remembered AS v USING (sha256) WHERE snapshot IS NULL"
        (oldest,) = db.execute(
            "SELECT min(v.at) FROM objects AS o JOIN remembered AS v USING (sha256) WHERE snapshot IS NULL"
        ).fetchone()
        (snapshots,) = db.execute("SELECT count(DISTINCT snapshot) FROM objects").fetchone()
        (is_any_closed,) = db.execute("SELECT EXISTS (SELECT 1 FROM chosen WHERE number IS NULL)").fetchone()
        right, before = self._tally(_RIGHT), self._tally(_BEFORE)
        return VerifyReport(
            location=self.store().location,
            deep=self._request.deep,
            has_surveyed=bool(self._identities) and not is_any_closed,
            snapshots=snapshots,
            blobs=_sum(db, blobs),
            read=Tally(right.objects + before.objects, right.bytes + before.bytes),
            before=before,
            unread=_sum(db, f"{blobs} AND v.at IS NULL"),
            oldest=oldest,
            problems=list(findings.iter_problems(db)),
            notes=findings.get_notes(db),
            files=findings.hit_files(db, _PATHS_SHOWN),
        )

    # -- parts ------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        db = self._connect_plain()
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'objects'").fetchone():
            db.executescript(f"BEGIN; {_SCHEMA}; COMMIT")
        memory.attach(db, self._request.state, self.store(), deep=self._request.deep)
        return db

    def _connect_plain(self) -> sqlite3.Connection:
        return super()._connect()

    def _count(self, what: str, size: int) -> None:
        self.db().execute(
            "INSERT INTO tallies VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET objects = objects + 1, bytes = bytes + excluded.bytes",
            (what, size),
        )

    def _tally(self, what: str) -> Tally:
        row = self.db().execute("SELECT objects, bytes FROM tallies WHERE what = ?", (what,)).fetchone()
        return Tally(*row) if row else Tally(0, 0)


def _sum(db: sqlite3.Connection, query: str) -> Tally:
    objects, size = db.execute(query).fetchone()
    return Tally(objects, int(size))
