"""A prune's working set and its steps: plan, then delete in the one order that is safe to break off.

    snapshots    the DBs of dropped snapshots: from then on nobody refers to their blobs
    manifests    of those DBs
    blobs        that nobody kept refers to, older than the grace
    orphans      manifests without a DB, older than the grace

Killed anywhere, what is left is a store in which every DB has its manifest and its blobs; the next prune finds
the rest again. The state lies in a private temporary directory and is of no use to another prune.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from vaultik.core.lease import FENCE_S, GRACE_S
from vaultik.core.names import blob_key
from vaultik.errors import PruneRefusedError, StoreError
from vaultik.maintain import blob_table, decide, inventory, locks
from vaultik.maintain.blob_table import Hold, References
from vaultik.maintain.plan import DROP, Held, Plan, Tally, dump, load
from vaultik.maintain.steps import StepSession
from vaultik.maintain.survey import Surveyed, Surveyor, refuse_strangers

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.maintain.decide import Decision, GivenUp
    from vaultik.maintain.inventory import Inventory, Orphan
    from vaultik.maintain.request import PruneRequest
    from vaultik.model import BlobId
    from vaultik.store.base import Store

PLAN = "plan"
LOCKS = "locks"
SNAPSHOTS, MANIFESTS, BLOBS, ORPHANS = "snapshots", "manifests", "blobs", "orphans"
STEPS = (SNAPSHOTS, MANIFESTS, BLOBS, ORPHANS)
"""In the order in which they must run."""
_BATCH = 1000
FORMER = "of snapshots that were the newest within the grace"
UNREFERENCED = "in no snapshot, but a backup that is going on may need them"
RECENT = "in no snapshot, but newer than some source's newest snapshot; its next backup decides"
LOCKED = "locked"
GIVEN_UP = "of what --drop gives up, in case a backup began before"


class PruneSession(StepSession):
    """One prune, as every process of it sees it."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        identities: Sequence[Identity],
        request: PruneRequest,
        emit: Callable[..., None] = lambda **_event: None,
    ) -> None:
        """Prepare, as `StepSession`.

        Args:
            open_store: gives a client of the store, once per process.
            identities: any of which may open manifests, or DBs too.
            request: what to keep and what to give up.
            emit: takes progress.
        """
        super().__init__(open_store, identities, emit)
        self._request = request

    def _connect(self) -> sqlite3.Connection:
        db = super()._connect()
        db.execute(locks.SCHEMA)
        return db

    # -- plan -------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Look at everything and decide; nothing is deleted.

        Raises:
            PruneRefusedError: something is in the way; the hint names the way out.
            SelectionError: what is given up isn't there.
            ConfigError: locks are asked for where there are none.
            NoMatchingIdentityError: the identities open nothing.
            StoreError: the store failed.
            LocalIndexError: the disk under the temporary directory failed.
        """
        if self._request.lock_s is not None:
            locks.check_can_lock(self.store())
        now = inventory.check_clock(self.store())
        with self._disk_errors():
            found = inventory.take_inventory(self.store())
            given_up = decide.give_up(found, self._request)
            decide.check_grace(found.sources, self._request)
            surveyed = self._survey(found, given_up)
            decide.check_readable(surveyed, given_up)
            decision = decide.decide(surveyed, given_up, self._request, now)
            decision, has_locks = locks.hold_locked(self.store(), surveyed, decision)
            self._list_blobs()
            blob_table.hold(self.db(), decision.holds)
            self._check_lost(surveyed)
            self._doom(surveyed, found.orphans, decision, now)
            locked = locks.spare_locked(self.db(), self.store()) if has_locks else (0, 0, None)
            if self._request.lock_s is not None:
                locks.plan_locks(self.db(), surveyed, decision, now, self._request.lock_s)
            self._keep(self._describe(decision, now, Held(LOCKED, *locked)))

    def read_plan(self) -> Plan:
        """Return what was planned."""
        return load(self.db().execute("SELECT value FROM facts WHERE name = ?", (PLAN,)).fetchone()[0])

    def freed(self) -> dict[str, Tally]:
        """Return what was deleted so far, by step."""
        rows = self.db().execute("SELECT step, objects, bytes FROM freed")
        return {step: Tally(objects, size) for step, objects, size in rows}

    def _survey(self, found: Inventory, given_up: GivenUp) -> list[Surveyed]:
        snapshots = found.snapshots
        size = sum(s.size_bytes + s.manifest_bytes for s in snapshots)
        self.emit(stage="reading snapshots", objects=len(snapshots), bytes=size)
        references = References(self.db())
        surveyor = Surveyor(self.store(), self._identities, self._directory, references, self._request.signers)
        surveyed = []
        for snapshot in snapshots:
            gone = given_up.names(snapshot)
            if gone and snapshot.source8 in given_up.sources:
                surveyed.append(Surveyed(snapshot, None, None, None))
            else:
                surveyed.append(surveyor.read(snapshot, with_db=not gone))
            self.emit(done=1, done_bytes=snapshot.size_bytes + snapshot.manifest_bytes)
        references.finish()
        return refuse_strangers(surveyed)

    def _list_blobs(self) -> None:
        self.emit(stage="listing blobs", objects=0, bytes=0)
        blob_table.add_blobs(self.db(), self._counted(inventory.iter_blobs(self.store())))

    def _counted(self, blobs: Iterable[tuple[BlobId, int, float]]) -> Iterator[tuple[BlobId, int, float]]:
        for blob in blobs:
            self.emit(done=1, done_bytes=blob[1])
            yield blob

    def _check_lost(self, surveyed: Sequence[Surveyed]) -> None:
        if not blob_table.find_lost(self.db()):
            return
        blob_table.mend_sizes(self.db(), functools.partial(inventory.size_behind, self.store()))
        lost = blob_table.find_lost(self.db())
        if not lost:
            return
        found = {s.number: s.found for s in surveyed}
        for one in lost:
            inventory.check_still_there(self.store(), found[one.snapshot])
        first = found[lost[0].snapshot].name.snapshot
        more = f" ({len(lost) - 1} more snapshots lack some too)" if len(lost) > 1 else ""
        raise PruneRefusedError(
            f"snapshot {first}: {lost[0].blobs:,} of its blobs missing or of another size,"
            f" {lost[0].example.hex()[:16]}... first{more}",
            hint=f"a backup of that host stores what it still has anew; then {decide.drops(found[one.snapshot] for one in lost)}"
            " what stays broken",
        )

    def _doom(self, surveyed: Sequence[Surveyed], orphans: Iterable[Orphan], decision: Decision, now: float) -> None:
        dropped = [s.found for s, fate in zip(surveyed, decision.fates, strict=True) if fate.fate == DROP]
        horizon = now - self._request.grace_s
        rows = [(SNAPSHOTS, s.name.key, s.size_bytes) for s in dropped]
        rows += [(MANIFESTS, s.manifest.key, s.manifest_bytes) for s in dropped if s.manifest is not None]
        # Whatever the grace: a run that is going on may be about to put the DB.
        old = min(horizon, now - GRACE_S)
        rows += [(ORPHANS, o.name.key, o.size_bytes) for o in orphans if o.modified < old]
        db = self.db()
        db.execute("BEGIN")
        db.executemany("INSERT INTO doomed (step, name, size) VALUES (?, ?, ?)", rows)
        blob_table.doom_blobs(db, BLOBS, self._cut(decision, now))
        db.execute("COMMIT")

    def _cut(self, decision: Decision, now: float) -> float:
        """Return before which time a blob must have been stored to be freed."""
        horizon = now - self._request.grace_s
        # With a short grace nothing but the newest DBs tells what a run may still rely on.
        return min([horizon, *decision.newest]) if self._request.grace_s < GRACE_S else horizon

    def _describe(self, decision: Decision, now: float, locked: Held) -> Plan:
        db, grace_s, cut = self.db(), self._request.grace_s, self._cut(decision, now)
        horizon = now - grace_s
        former, once = blob_table.share(db, Hold.GRACE), blob_table.share(db, Hold.ONCE)
        young = blob_table.share(db, Hold.NONE, since=horizon)
        recent = blob_table.share(db, Hold.NONE, since=cut, before=horizon)
        until = max((fate.until for fate in decision.fates if fate.until is not None), default=now)
        held = (
            Held(FORMER, former.blobs, former.bytes, until),
            Held(UNREFERENCED, young.blobs, young.bytes, young.newest + grace_s),
            Held(RECENT, recent.blobs, recent.bytes, None),
            Held(GIVEN_UP, once.blobs, once.bytes, max(now + FENCE_S, once.newest + grace_s)),
            locked,
        )
        rows = db.execute("SELECT step, count(*), sum(size) FROM doomed GROUP BY step")
        doomed = {step: Tally(objects, size) for step, objects, size in rows}
        stored = Tally(*db.execute("SELECT count(*), coalesce(sum(size), 0) FROM blobs").fetchone())
        fates = tuple(decision.fates)
        return Plan(self.store().location, now, grace_s, fates, stored, doomed, tuple(h for h in held if h.blobs))

    def _keep(self, plan: Plan) -> None:
        self.db().execute("BEGIN")
        self.db().execute("INSERT INTO facts VALUES (?, ?)", (PLAN, dump(plan)))
        self.db().execute("INSERT INTO steps VALUES (?)", (PLAN,))
        self.db().execute("COMMIT")

    def extend_locks(self) -> None:
        """Lock what is kept for as long as was asked, if it was.

        Raises:
            StoreError: the store can't, or refused; nothing was deleted.
        """
        with self._disk_errors():
            if self._request.lock_s is not None:
                count = locks.extend(self.db(), self.store(), self.emit)
                self.db().execute("INSERT INTO facts VALUES (?, ?)", (LOCKS, str(count)))
            self._done(LOCKS)

    def extended(self) -> int | None:
        """Return the number of objects whose lock was extended; None if that wasn't asked for, or has not come to pass."""
        row = self.db().execute("SELECT value FROM facts WHERE name = ?", (LOCKS,)).fetchone()
        return None if row is None else int(row[0])

    # -- delete -----------------------------------------------------------------------------------

    def delete(self, step: str) -> None:
        """Delete what the plan says for a step, in batches; each is confirmed key by key.

        Raises:
            StoreError: the store failed, or would not delete a key; nothing after it was tried.
        """
        earlier = STEPS[: STEPS.index(step)]
        assert all(self.is_done(name) for name in (PLAN, *earlier)), "deleted in another order than is safe"
        tally = self.read_plan().doomed.get(step, Tally(0, 0))
        self.emit(stage=f"deleting {step}", objects=tally.objects, bytes=tally.bytes)
        with self._disk_errors():
            last = 0
            while batch := self._batch(step, last):
                last = batch[-1][0]
                self._delete_batch(step, batch)
            self._done(step)

    def _batch(self, step: str, after: int) -> list[tuple[int, str | BlobId, int]]:
        rows = self.db().execute(
            "SELECT id, name, size FROM doomed WHERE step = ? AND id > ? ORDER BY id LIMIT ?", (step, after, _BATCH)
        )
        return rows.fetchall()

    def _delete_batch(self, step: str, batch: Sequence[tuple[int, str | BlobId, int]]) -> None:
        sizes = {name if isinstance(name, str) else blob_key(name): size for _, name, size in batch}
        failed = self.store().delete(sizes)
        done = Tally(len(sizes) - len(failed), sum(size for key, size in sizes.items() if key not in failed))
        self.db().execute(
            "INSERT INTO freed VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET objects = objects + excluded.objects,"
            " bytes = bytes + excluded.bytes",
            (step, done.objects, done.bytes),
        )
        self.emit(done=done.objects, done_bytes=done.bytes)
        if failed:
            key, reason = min(failed.items())
            more = f" (and {len(failed) - 1:,} more like it)" if len(failed) > 1 else ""
            raise StoreError(
                f"delete {key}: {reason}{more}",
                hint="may the credential delete? Every snapshot that is listed is whole; once that is mended, prune again",
            )
