"""The graph of a backup. Each task is a few lines over vaultik.backup; complete = one committed row.

    Backup(host, run_id)                 the root: after the scan yields waves, then the commit
      ScanSource(host, run)
      Wave(host, run, number)            up to 32 bundles at a time
        UploadBlob(host, run, bundle) <- SealBlob(host, run, bundle) <- ChunkFile(host, run, bundle)
      WriteSnapshotDB(host, run, attempt)

The run is in every identity, so that no central luigid takes a task for that of another host, of another config
of this host, or of a run that was killed. What is done is known by rows, whatever the run.

ChunkFile of a bundle also waits for the UploadBlob of an earlier one: that bounds the spool whatever
order Luigi chooses.
"""

from __future__ import annotations

import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

import luigi
from luigi.parameter import ParameterVisibility

from vaultik.backup.commit import Outcome, commit_snapshot, is_partial_due
from vaultik.index import bundles, runs, standing
from vaultik.index.bundles import BundleState
from vaultik.shown import human_bytes, plural
from vaultik.targets.spool import SpoolTarget
from vaultik.targets.sqlite import SQLiteTarget
from vaultik.targets.store import store_target
from vaultik.tasks import runtime
from vaultik.tasks.visible import Status, VisibleTask, percent

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from vaultik.backup.session import Session

_HIGHEST_PRIORITY = 1 << 40
"""More than a run ever has bundles."""


def new_run_id() -> str:
    """Return an id that no run had before."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"


class _BackupTask(VisibleTask):
    """A task of the run that this process (or its parent) began."""

    host = luigi.Parameter(description="name of the backed-up host")
    run_id = luigi.Parameter(description="the run")

    @property
    def session(self) -> Session:
        return runtime.session()

    def row(self, query: str, *params: object) -> SQLiteTarget:
        return SQLiteTarget(self.session.index, query, params)


class ScanSource(_BackupTask):
    """Walk the sources, note what changed, cut it into bundles."""

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM runs WHERE run_id = ? AND scanned = 1", self.run_id)

    def run(self) -> None:
        with self.showing(self.session, self._seen):
            self.session.scan()

    @staticmethod
    def _seen(counts: Counter[str]) -> Status:
        return Status(
            f"{plural(counts['scanned_files'], 'file')} seen ({human_bytes(counts['scanned_bytes'])}),"
            f" {human_bytes(counts['planned_bytes'])} to read"
        )


class _BundleTask(_BackupTask):
    """A step of one bundle, complete when the bundle's state says so."""

    bundle = luigi.IntParameter(description="the bundle")
    state: BundleState

    @property
    def priority(self) -> int:  # type: ignore[override] # Luigi reads it, whichever way it is given
        # Lower bundles first, each to its end: later ones wait for their place in the spool. Luigi raises it to that
        # of whatever needs the task, and a wave's is 0: below that all bundles would have the same.
        return _HIGHEST_PRIORITY - int(self.bundle)

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM bundles WHERE id = ? AND state >= ?", self.bundle, int(self.state))


class ChunkFile(_BundleTask):
    """Stream a bundle's files once: cut, hash, claim, compress, encrypt into the spool."""

    state = BundleState.CHUNKED

    def requires(self) -> list[luigi.Task]:
        earlier = bundles.bundle_before(self.session.index(), self.bundle, runtime.workers() + 1)
        return [] if earlier is None else [UploadBlob(host=self.host, run_id=self.run_id, bundle=earlier)]

    def run(self) -> None:
        planned = standing.get_planned_bytes(self.session.index(), self.bundle)

        def describe(counts: Counter[str]) -> Status:
            read, new = counts["read"], counts["new"]
            return Status(
                f"{human_bytes(read)} of {human_bytes(planned)} read, {human_bytes(new)} new", percent(read, planned)
            )

        with self.showing(self.session, describe):
            self.session.chunk(self.bundle, runtime.cores_per_worker())


class SealBlob(_BundleTask):
    """Make what ChunkFile left a blob, named by its hash."""

    state = BundleState.SEALED

    def requires(self) -> luigi.Task:
        return ChunkFile(host=self.host, run_id=self.run_id, bundle=self.bundle)

    def run(self) -> None:
        self.session.seal(self.bundle, lambda path: SpoolTarget(path).exists())


class UploadBlob(_BundleTask):
    """Store a blob under its final name."""

    state = BundleState.UPLOADED

    def requires(self) -> luigi.Task:
        return SealBlob(host=self.host, run_id=self.run_id, bundle=self.bundle)

    def run(self) -> None:
        with self.showing(self.session, lambda counts: Status(f"{human_bytes(counts['stored'])} sent")):
            self.session.upload(self.bundle, self._is_stored)

    def _is_stored(self, key: str, size: int) -> bool:
        """Look for the effect before the row; a credential that can only put has no way to."""
        return not self.session.put_only and store_target(self.session.store(), key, size).exists()


class Wave(_BackupTask):
    """A number of bundles, all on their way at once."""

    number = luigi.IntParameter(description="place of the wave in the run")
    sums_up = True

    def requires(self) -> list[luigi.Task]:
        wave = bundles.wave_bundles(self.session.index(), self.session.run, self.number)
        return [UploadBlob(host=self.host, run_id=self.run_id, bundle=bundle) for bundle in wave]

    def complete(self) -> bool:
        row = self.session.index().execute(
            "SELECT 1 FROM bundles WHERE run = ? AND wave = ? AND state < 3 LIMIT 1", (self.session.run, self.number)
        )
        return row.fetchone() is None

    def run(self) -> None:
        """Nothing is left to do: the bundles are what it stands for."""
        part = standing.get_standing(self.session.index(), self.session.run, self.number)
        self.show(Status(f"{plural(part.bundles, 'bundle')}, {human_bytes(part.stored_bytes)} stored", 100))


class WriteSnapshotDB(_BackupTask):
    """Reconcile and write the snapshot, or find that something must be read again first."""

    attempt = luigi.IntParameter(description="which try of the run this is")

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM commits WHERE run = ? AND attempt = ?", self.session.run, self.attempt)

    def run(self) -> None:
        self.show(Status("looking what the store holds, writing the snapshot"))
        commit_snapshot(self.session, self.attempt)


class Backup(_BackupTask):
    """One backup of one config: `luigi --module vaultik.tasks Backup`."""

    host = luigi.Parameter(
        default=socket.gethostname(), description="name of this host in snapshots and on the dashboard"
    )
    run_id = luigi.Parameter(default=new_run_id(), description="identity of this run, new each time")
    config = luigi.Parameter(
        default="", visibility=ParameterVisibility.PRIVATE, significant=False, description="path of vaultik.yaml"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Under the stock luigi command nobody else began the run; forked workers inherit it.
        if not runtime.is_active(self.run_id):
            runtime.begin_under_luigi(self.config, self.host, self.run_id)

    def complete(self) -> bool:
        if not runtime.is_active(self.run_id):
            return False
        run = runs.find_run(self.session.index(), self.run_id)
        return run is not None and run.exit_code is not None

    def requires(self) -> luigi.Task:
        return ScanSource(host=self.host, run_id=self.run_id)

    def run(self) -> Iterator[luigi.Task]:
        """Yield the run's steps; begun anew by Luigi after each, so the index says where it stands."""
        while (attempt := self._next_attempt()) is not None:
            wave = self.session.next_wave()
            # Wave 0 is what an earlier run had sealed: a partial snapshot without it would make it seem unneeded.
            if wave is None or (wave > 0 and is_partial_due(self.session)):
                yield WriteSnapshotDB(host=self.host, run_id=self.run_id, attempt=attempt)
            else:
                yield Wave(host=self.host, run_id=self.run_id, number=wave)
        self.session.finish()
        self.show(self._outcome())

    def statuses(self) -> Iterable[tuple[luigi.Task, Status]]:
        index, run = self.session.index(), self.session.run
        receipt = runs.find_run(index, self.run_id)
        if receipt is None or not receipt.scanned:
            yield self, Status("scanning")
            return
        whole = standing.get_standing(index, run)
        wave = bundles.next_wave(index, run)
        where = "all content is stored" if wave is None else f"wave {wave} of {whole.last_wave}"
        yield (
            self,
            Status(
                f"{where}: {whole.uploaded:,} of {plural(whole.bundles, 'bundle')},"
                f" {human_bytes(whole.uploaded_bytes)} of {human_bytes(whole.planned_bytes)} read,"
                f" {human_bytes(whole.stored_bytes)} stored",
                percent(whole.uploaded_bytes, whole.planned_bytes),
            ),
        )
        if wave is not None:
            part = standing.get_standing(index, run, wave)
            yield (
                Wave(host=self.host, run_id=self.run_id, number=wave),
                Status(f"{part.uploaded:,} of {plural(part.bundles, 'bundle')}", percent(part.uploaded, part.bundles)),
            )

    def _outcome(self) -> Status:
        run = runs.find_run(self.session.index(), self.run_id)
        assert run is not None
        unreadable = runs.count_problems(self.session.index(), run.id, runs.UNREADABLE)
        return Status(
            f"snapshot {run.snapshot}: {plural(run.counts['files'], 'file')} ({human_bytes(run.counts['bytes'])}),"
            f" {human_bytes(run.counts['bytes_new'])} new, {human_bytes(run.counts['bytes_stored'])} stored,"
            f" {unreadable:,} unreadable",
            100,
        )

    def _next_attempt(self) -> int | None:
        """Return the number of the next try to commit, None once one succeeded."""
        tries, committed = (
            self.session.index()
            .execute(
                "SELECT count(*), coalesce(max(committed = ?), 0) FROM commits WHERE run = ?",
                (int(Outcome.COMMITTED), self.session.run),
            )
            .fetchone()
        )
        return None if committed else int(tries)
