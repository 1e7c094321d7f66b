"""The graph of a restore. State lies in the target; complete = one committed row.

Restore                       the root: yields the snapshot, the comparison, then waves of blobs, then the finish
  FetchSnapshotDB
  CompareTree                 what is there already, of an earlier try or of the tree that is updated
  RestoreWave(number)         up to 32 blobs at a time: Luigi's cost grows with the square of what is yielded at once
    RestoreBlob(blob)         one per blob, each read once
  LookElsewhere               what is damaged: other snapshots may name other blobs for it, which are waves then
  FinishTree
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import luigi
from luigi.parameter import ParameterVisibility

from vaultik.errors import LocalIndexError, TaskFailedError
from vaultik.restore.progress import NoProgress, Progress
from vaultik.shown import human_bytes, plural
from vaultik.tasks import runtime
from vaultik.tasks.backup import new_run_id
from vaultik.tasks.build import build
from vaultik.tasks.process import Record
from vaultik.tasks.run import Watcher
from vaultik.tasks.several import Several
from vaultik.tasks.visible import Status, VisibleTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultik.restore.report import RestoreReport
    from vaultik.restore.session import RestoreSession

_sessions: dict[str, RestoreSession] = {}


class _RestoreTask(VisibleTask):
    """A task of a restore that this process (or its parent) began."""

    restore_id = luigi.Parameter(
        description="identity of this restore, new each time; where it stands lies in the target"
    )

    @property
    def session(self) -> RestoreSession:
        return _sessions[self.restore_id]


class FetchSnapshotDB(_RestoreTask):
    """Download and verify the snapshot DB, make the plan."""

    def complete(self) -> bool:
        return self.session.is_done("snapshot")

    def run(self) -> None:
        self.session.fetch_snapshot()


class CompareTree(_RestoreTask):
    """Look at what the target has already, once in every run; only what it lacks is read."""

    def complete(self) -> bool:
        return self.session.is_compared()

    def run(self) -> None:
        self.session.compare()


class RestoreBlob(_RestoreTask):
    """Read one blob and write what is wanted of it."""

    blob = luigi.IntParameter(description="the blob's row in the snapshot")
    again = luigi.IntParameter(default=0, description="1 after what is damaged was looked for elsewhere")

    def complete(self) -> bool:
        return self.session.is_read(self.blob)

    def run(self) -> None:
        with self.showing(
            self.session,
            lambda counts: Status(
                f"{human_bytes(counts['bytes'])} written, {plural(counts['files'], 'file')} finished"
            ),
        ):
            self.session.restore_blob(self.blob)


class RestoreWave(_RestoreTask):
    """A number of blobs, all on their way at once."""

    number = luigi.IntParameter(description="place of the wave in the restore")
    again = luigi.IntParameter(default=0, description="1 after what is damaged was looked for elsewhere")
    sums_up = True

    def requires(self) -> list[luigi.Task]:
        blobs = self.session.wave_blobs(self.number)
        return [RestoreBlob(restore_id=self.restore_id, blob=blob, again=self.again) for blob in blobs]

    def complete(self) -> bool:
        return all(self.session.is_read(blob) for blob in self.session.wave_blobs(self.number))

    def run(self) -> None:
        """Nothing is left to do: the blobs are what it stands for."""


class LookElsewhere(_RestoreTask):
    """Look for what is damaged in other blobs; what is found there is waves of its own."""

    def complete(self) -> bool:
        return self.session.has_looked()

    def run(self) -> None:
        self.session.look_elsewhere()


class FinishTree(_RestoreTask):
    """Links, special files, directories' attributes."""

    def complete(self) -> bool:
        return self.session.is_finished()

    def run(self) -> None:
        self.session.finish()


class RestoreTree(_RestoreTask):
    """All steps of one restore."""

    def complete(self) -> bool:
        return self.session.is_finished()

    def run(self) -> Iterator[Any]:
        """Yield the steps in their order; begun anew by Luigi after each, so the plan says where it stands."""
        yield FetchSnapshotDB(restore_id=self.restore_id)
        yield CompareTree(restore_id=self.restore_id)
        for again in (0, 1):
            while (wave := self.session.next_wave()) is not None:
                yield RestoreWave(
                    restore_id=self.restore_id, number=wave, again=int(again or self.session.has_looked())
                )
            yield LookElsewhere(restore_id=self.restore_id)
        yield FinishTree(restore_id=self.restore_id)


class Restore(VisibleTask):
    """`luigi --module vaultik.tasks Restore --bucket B --prefix P --snapshot latest --target DIR`."""

    bucket = luigi.Parameter(default="", description="bucket of the store", visibility=ParameterVisibility.PRIVATE)
    prefix = luigi.Parameter(default="", description="prefix in the bucket", visibility=ParameterVisibility.PRIVATE)
    snapshot = luigi.Parameter(default="latest", description="which snapshot")
    target = luigi.Parameter(
        default="", description="directory to restore into", visibility=ParameterVisibility.PRIVATE
    )
    host = luigi.Parameter(default="", description="which host, for latest")
    endpoint = luigi.Parameter(
        default="", description="S3 endpoint, or file:///dir", visibility=ParameterVisibility.PRIVATE
    )
    region = luigi.Parameter(default="", description="region of the bucket", visibility=ParameterVisibility.PRIVATE)
    signers = luigi.Parameter(
        default="", description="allowed_signers file: whose signature counts", visibility=ParameterVisibility.PRIVATE
    )
    include = Several(default=(), description="patterns of what is wanted", visibility=ParameterVisibility.PRIVATE)
    exclude = Several(default=(), description="patterns of what isn't", visibility=ParameterVisibility.PRIVATE)
    without = Several(default=(), description="classes of attributes that are left out")
    map_owner = Several(default=(), description="OLD:NEW", visibility=ParameterVisibility.PRIVATE)
    map_group = Several(default=(), description="OLD:NEW", visibility=ParameterVisibility.PRIVATE)
    numeric_ids = luigi.BoolParameter(description="owners by their numbers")
    no_owner = luigi.BoolParameter(description="whose it was is left out")
    force = luigi.BoolParameter(description="update a directory that isn't empty")
    delete = luigi.BoolParameter(description="with force: remove what the snapshot doesn't have")
    checksum = luigi.BoolParameter(description="tell what is equal by its bytes, not by size and time")
    salvage = luigi.BoolParameter(description="of damaged files keep what can be read, under other names")
    restore_id = luigi.Parameter(default=new_run_id(), description="identity of this restore, new each time")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done = False
        if self.restore_id not in _sessions:
            from vaultik.tasks import luigi_command  # noqa: PLC0415 - only this way in needs it

            _sessions[self.restore_id] = luigi_command.begin_restore(self)

    def complete(self) -> bool:
        return self._done or _sessions[self.restore_id].is_finished()

    def run(self) -> Iterator[Any]:
        """Yield the restore."""
        yield RestoreTree(restore_id=self.restore_id)


def restore(
    session: RestoreSession,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    tell: Callable[[RestoreReport], None] = lambda _report: None,
) -> RestoreReport:
    """Restore, or continue an interrupted restore into the same target.

    Args:
        session: what, from where, into where.
        workers: Luigi processes; None for as many as the blobs merit.
        progress: told of totals and advances.
        tell: given the report before the state goes away: killed before it returns, the same command tells again.

    Returns:
        What was done. Files that can't be brought back are in it, not an error.

    Raises:
        VaultikError: the restore failed; the same command continues.
    """
    watch = progress or NoProgress()
    record = Record()
    number = new_run_id()
    watcher = Watcher(record, lambda event: watch.advance(**event))
    session.emit = record.add
    _sessions[number] = session
    runtime.take_record(record)
    try:
        session.begin()
        watcher.start()
        build([FetchSnapshotDB(restore_id=number)])
        _raise_first(watcher, complete=session.is_done("snapshot"))
        if not session.is_finished():
            build([CompareTree(restore_id=number)])
            _raise_first(watcher, complete=session.is_compared())
        left = session.left()
        watch.total(files=left.files, bytes=left.bytes, blobs=left.blobs)
        session.close()
        build([RestoreTree(restore_id=number)], workers=workers or (2 if left.blobs > 2 else 1))  # noqa: PLR2004 - one does for two
        _raise_first(watcher, complete=session.is_finished())
        watcher.stop()
        report = session.report()
        tell(report)
        session.end(report)
    except BaseException:
        session.abandon()
        raise
    else:
        return report
    finally:
        watcher.stop()
        runtime.take_record(None)
        session.leave()
        record.close()
        del _sessions[number]


def _raise_first(watcher: Watcher, *, complete: bool) -> None:
    if complete:
        return
    watcher.stop()
    if watcher.errors:
        first = watcher.errors[0]
        raise TaskFailedError(first["error"], first["hint"], first["exit_code"])
    raise LocalIndexError("the restore ended without a result", hint="a worker was killed? the same command continues")
