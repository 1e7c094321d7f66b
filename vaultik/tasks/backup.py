"""The graph of a backup. Each task is a few lines over vaultik.backup; complete = one committed row.

    Backup(host, run_id)                 the root: yields the scan, then waves, then the commit
      ScanSource(host, run)
      Wave(host, run, number)            up to 32 bundles at a time
        UploadBlob(host, bundle) <- SealBlob(host, bundle) <- ChunkFile(host, bundle)
      WriteSnapshotDB(host, run, attempt)

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
from vaultik.index import bundles, runs
from vaultik.index.bundles import BundleState
from vaultik.targets.spool import SpoolTarget
from vaultik.targets.sqlite import SQLiteTarget
from vaultik.targets.store import store_target
from vaultik.tasks import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.backup.session import Session


def new_run_id() -> str:
    """Return an id that no run had before."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"


class _BackupTask(luigi.Task):
    """A task of the run that this process (or its parent) began."""

    host = luigi.Parameter(description="name of the backed-up host")

    @property
    def session(self) -> Session:
        return runtime.session()

    def row(self, query: str, *params: object) -> SQLiteTarget:
        return SQLiteTarget(self.session.index, query, params)

    def on_failure(self, exception: BaseException) -> str:
        return runtime.note_failure(exception)


class ScanSource(_BackupTask):
    """Walk the sources, note what changed, cut it into bundles."""

    run_id = luigi.Parameter(description="the run")

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM runs WHERE run_id = ? AND scanned = 1", self.run_id)

    def run(self) -> None:
        self.session.scan()


class _BundleTask(_BackupTask):
    """A step of one bundle, complete when the bundle's state says so."""

    bundle = luigi.IntParameter(description="the bundle")
    state: BundleState

    @property
    def priority(self) -> int:  # type: ignore[override] # Luigi reads it, whichever way it is given
        # Lower bundles first, each to its end: later ones wait for their place in the spool.
        return -int(self.bundle)

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM bundles WHERE id = ? AND state >= ?", self.bundle, int(self.state))


class ChunkFile(_BundleTask):
    """Stream a bundle's files once: cut, hash, claim, compress, encrypt into the spool."""

    state = BundleState.CHUNKED

    def requires(self) -> list[luigi.Task]:
        earlier = bundles.bundle_before(self.session.index(), self.bundle, runtime.workers() + 1)
        return [] if earlier is None else [UploadBlob(host=self.host, bundle=earlier)]

    def run(self) -> None:
        self.session.chunk(self.bundle)


class SealBlob(_BundleTask):
    """Make what ChunkFile left a blob, named by its hash."""

    state = BundleState.SEALED

    def requires(self) -> luigi.Task:
        return ChunkFile(host=self.host, bundle=self.bundle)

    def run(self) -> None:
        self.session.seal(self.bundle, lambda path: SpoolTarget(path).exists())


class UploadBlob(_BundleTask):
    """Store a blob under its final name."""

    state = BundleState.UPLOADED

    def requires(self) -> luigi.Task:
        return SealBlob(host=self.host, bundle=self.bundle)

    def run(self) -> None:
        self.session.upload(self.bundle, self._is_stored)

    def _is_stored(self, key: str, size: int) -> bool:
        """Look for the effect before the row; a credential that can only put has no way to."""
        return not self.session.put_only and store_target(self.session.store(), key, size).exists()


class Wave(_BackupTask):
    """A number of bundles, all on their way at once."""

    run_id = luigi.Parameter(description="the run")
    number = luigi.IntParameter(description="place of the wave in the run")

    def requires(self) -> list[luigi.Task]:
        wave = bundles.wave_bundles(self.session.index(), self.session.run, self.number)
        return [UploadBlob(host=self.host, bundle=bundle) for bundle in wave]

    def complete(self) -> bool:
        row = self.session.index().execute(
            "SELECT 1 FROM bundles WHERE run = ? AND wave = ? AND state < 3 LIMIT 1", (self.session.run, self.number)
        )
        return row.fetchone() is None

    def run(self) -> None:
        """Nothing is left to do: the bundles are what it stands for."""


class WriteSnapshotDB(_BackupTask):
    """Reconcile and write the snapshot, or find that something must be read again first."""

    run_id = luigi.Parameter(description="the run")
    attempt = luigi.IntParameter(description="which try of the run this is")

    def output(self) -> SQLiteTarget:
        return self.row("SELECT 1 FROM commits WHERE run = ? AND attempt = ?", self.session.run, self.attempt)

    def run(self) -> None:
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

    def run(self) -> Iterator[luigi.Task]:
        """Yield the run's steps; begun anew by Luigi after each, so the index says where it stands."""
        yield ScanSource(host=self.host, run_id=self.run_id)
        while (attempt := self._next_attempt()) is not None:
            wave = self.session.next_wave()
            # Wave 0 is what an earlier run had sealed: a partial snapshot without it would make it seem unneeded.
            if wave is None or (wave > 0 and is_partial_due(self.session)):
                yield WriteSnapshotDB(host=self.host, run_id=self.run_id, attempt=attempt)
            else:
                yield Wave(host=self.host, run_id=self.run_id, number=wave)
        self.session.finish()

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
