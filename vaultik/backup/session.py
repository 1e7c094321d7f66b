"""A run's working set: its config, its connections, its place in the index.

Made once, in the process that holds the lock, before any fork. Connections, clients and threads
never cross a fork: each process opens its own on first use.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vaultik.backup import dirty, plan, reseal, scan, spool
from vaultik.backup.binding import bind_store, ensure_sound_index, open_bound_store
from vaultik.backup.chunk import BundleSealer
from vaultik.backup.exclude import excludes_of
from vaultik.backup.heal import forget_damaged
from vaultik.backup.read import BundleReader, find_data_ranges
from vaultik.backup.reconcile import reconcile
from vaultik.backup.seal import seal_bundle
from vaultik.backup.streams import Streams
from vaultik.backup.upload import upload_bundle
from vaultik.core.chunker import Chunker
from vaultik.core.ids import source8
from vaultik.core.lease import DAY_S
from vaultik.index import bundles, chunks, contents, db, runs, state, streams, unplanned
from vaultik.index.db import mapped, transaction
from vaultik.recipients import check_recipient
from vaultik.signing import load_signing_key
from vaultik.snapshot.write import plain_path
from vaultik.store.pace import Pace

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.backup.changes import Changes
    from vaultik.backup.dirty import Dirty
    from vaultik.backup.pieces import Reader
    from vaultik.backup.reconcile import Reliance
    from vaultik.config import Config
    from vaultik.index.bundles import Slice
    from vaultik.model import BlobId
    from vaultik.store.base import Store


T = TypeVar("T")

_YOUNG_S = 8 * DAY_S
"""A file whose last content is younger than this is one that changes often."""
_RESEAL_BLOBS = 2
"""How many full blobs' worth of files a run reads beyond what changed, to give space back."""


class Session:
    """One run of one config, as every process of it sees it."""

    def __init__(
        self,
        config: Config,
        *,
        host: str,
        run_id: str,
        changes: Changes | None = None,
        emit: Callable[..., None] = lambda **_event: None,
        clock: Callable[[], float] = time.time,
        stdin: str | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            config: the run's configuration.
            host: name under which snapshots say where they come from.
            run_id: identity of the run, new for each.
            changes: what changed since the last run, if a watcher can tell; None has everything looked at.
            emit: takes progress (numbers by name), notices (`notice=text`) and what commands say (`output=line`).
            clock: this machine's wall clock.
            stdin: name that standard input gets in the snapshot, None if it isn't read.

        Raises:
            RecipientError: a recipient can't be used.
            ConfigError: fastcdc isn't compiled, the signing key can't sign, or an exclude pattern can never fit.
        """
        self.config = config
        self.host = host
        self.run_id = run_id
        self.changes = changes
        self.emit = emit
        self.recipients = [check_recipient(text) for text in config.recipients]
        if config.audit_recipient:
            check_recipient(config.audit_recipient)
        self.signing_key = load_signing_key(config.signing_key) if config.signing_key else None
        self.chunker = Chunker(config.chunk_size)
        self.spool_dir = config.spool_dir
        self.put_only = config.s3.access == "put_only"
        self._clock = clock
        self.started = clock()
        self.run = 0
        self._pid = 0
        self._open: dict[str, Any] = {}
        excludes_of(config)
        self._streams = Streams(config, stdin)
        # Shared by all processes that are forked later.
        self._pace = Pace(config.upload_limit) if config.upload_limit else None

    @property
    def facts(self) -> dict[str, str]:
        """What every command that the config names gets to know of the run."""
        return {"CONFIG": str(self.config.path), "HOST": self.host, "RUN_ID": self.run_id}

    @property
    def chunker_name(self) -> str:
        """The chunking parameters, as snapshots record them."""
        return f"fastcdc-1 {self.chunker.minimum} {self.chunker.average} {self.chunker.maximum}"

    # -- what each process has of its own ---------------------------------------------------------

    def index(self) -> sqlite3.Connection:
        """Return this process's connection to the index."""
        return self._own("index", lambda: db.open_index(self.config.index_path))

    def claims(self) -> sqlite3.Connection:
        """Return this process's second connection, for the claims of threads."""
        return self._own("claims", lambda: db.open_index(self.config.index_path))

    def store(self) -> Store:
        """Return this process's client of the store."""
        return self._own("store", self._open_store)

    def close(self) -> None:
        """Close what this process opened: before a fork, and at the end."""
        if self._pid == os.getpid():
            for opened in self._open.values():
                opened.close()
        self._open = {}

    def end(self) -> None:
        """Close everything: the run is over."""
        self.close()
        self._streams.close()
        if self._pace is not None:
            self._pace.close()
            self._pace = None

    def source(self) -> str:
        """Return the source's UUID."""
        return state.source_uuid(self.index(), self.config.index_path)

    def reconcile(self) -> Reliance:
        """Forget what can't be relied on (`backup.reconcile`)."""
        return reconcile(self.index(), self.store(), self.source(), self.recipients, put_only=self.put_only)

    def _own(self, what: str, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            # What the parent opened is left alone: closing it here would reach into the parent's.
            self._pid, self._open = os.getpid(), {}
        if what not in self._open:
            self._open[what] = make()
        return cast("T", self._open[what])

    # -- the steps --------------------------------------------------------------------------------

    def begin(self, *, adopt: bool = False, heal: Sequence[BlobId] = ()) -> None:
        """Open the index for a new run and take over what an interrupted one left.

        Args:
            adopt: take over an index that belongs to a config file which was moved.
            heal: blobs that are damaged in the store, or missing.

        Raises:
            LocalIndexError: it can't be used; a damaged one is moved aside and a fresh one made.
        """
        ensure_sound_index(self)
        index = self.index()
        with mapped(self.config.index_path), transaction(index):
            if adopt:
                state.adopt(index, self.config.path)
            state.bind_config(index, self.config.path)
            # One folder per source: several configs may name the same spool_dir.
            self.spool_dir = self.config.spool_dir / source8(state.source_uuid(index, self.config.index_path))
            if state.bind_chunker(index, self.chunker_name):
                self.emit(notice="the chunk size changed: every file is read and uploaded again")
            self.run = runs.add_run(index, self.run_id, self.started)
            bundles.take_over(index, self.run, self.recipients)
            if heal:
                self.emit(notice=forget_damaged(index, heal))
        plain_path(self.config.index_path).unlink(missing_ok=True)
        spool.make_spool(self.config.spool_dir, self.spool_dir)
        spool.clean(self.spool_dir, bundles.iter_spooled(index))

    def scan(self) -> None:
        """ScanSource: reconcile, scan, plan."""
        index = self.index()
        bind_store(self)
        scope = dirty.scope_of(self.config, self.chunker_name)
        changed = self._dirty(scope)
        if changed is None:
            dirty.begin_full_scan(index)
        self._streams.retire(index)
        counts = scan.Scan(
            index,
            self.run,
            source_dirs=self.config.source_dirs,
            excludes=excludes_of(self.config),
            one_file_system=self.config.one_file_system,
            dirty=changed,
            progress=lambda files, size: self.emit(scanned_files=files, scanned_bytes=size),
        ).run()
        self._streams.place(index)
        with transaction(index):
            resealed = reseal.leave_out(
                index,
                blob_size_limit=self.config.blob_size_limit,
                budget=_RESEAL_BLOBS * self.config.blob_size_limit,
                lately=runs.total_since(index, self.started - reseal.LATELY_S, "bytes_resealed"),
                now=self.started,
            )
        planned = self.plan()
        with transaction(index):
            runs.add_counts(
                index, self.run, counts.as_dict() | {"blobs_resealed": resealed.blobs, "bytes_resealed": resealed.bytes}
            )
            runs.set_scanned(index, self.run, full=changed is None)
            if changed is None:
                dirty.end_full_scan(index, scope)
        self.emit(planned_bundles=planned, planned_bytes=bundles.planned_bytes(index, self.run))

    def plan(self) -> int:
        """Put every changed file that has none into a new bundle. Returns how many bundles that makes."""
        index = self.index()
        with transaction(index):
            if not bundles.are_interrupted(index, self.run):
                # Streamed again, they may bring back what else would be read for nothing.
                chunks.mark_lost(index)
            contents.link_groups(index)
            total = unplanned.count_bytes(index)
            plan_them = functools.partial(
                plan.plan_bundles,
                limit=max(plan.bundle_limit(total, self.config.blob_size_limit), 2 * self.chunker.maximum),
                longest_chunk=self.chunker.maximum,
                data_ranges=functools.partial(find_data_ranges, index),
            )
            young_ns = int((self.started - _YOUNG_S) * 1e9)
            # A blob whose files live about as long dies whole, and little of it has to be sealed again.
            made = (b for kind in unplanned.Kind for b in plan_them(unplanned.iter_files(index, kind, young_ns)))
            alone = plan.plan_streams(streams.iter_unplanned(index))
            added = bundles.add_bundles(index, self.run, itertools.chain(alone, made))
            # Within the transaction: what can't be is not planned either.
            plan.check_room(*bundles.count_blobs(index), self.config.blob_size_limit)
            return added

    def chunk(self, bundle: int, threads: int = 1) -> None:
        """ChunkFile: stream a bundle's files into the spool, on so many cores."""
        BundleSealer(
            self.index(),
            self.claims(),
            bundle,
            run=self.run,
            read=functools.partial(self._reader, bundle),
            level=self.config.compression_level,
            recipients=self.recipients,
            spool_dir=self.spool_dir,
            threads=threads,
            progress=lambda files, read, new: self.emit(files=files, read=read, new=new),
        ).run()

    def seal(self, bundle: int, is_spooled: Callable[[Path], bool]) -> None:
        """SealBlob: make what ChunkFile left a blob."""
        seal_bundle(
            self.index(), bundle, spool_dir=self.spool_dir, store_time=self.store().now(), is_spooled=is_spooled
        )

    def upload(self, bundle: int, is_stored: Callable[[str, int], bool]) -> None:
        """UploadBlob: store a sealed blob."""
        sent = upload_bundle(self.index(), bundle, store=self.store(), spool_dir=self.spool_dir, is_stored=is_stored)
        self.emit(stored=sent, blobs=1 if sent else 0)

    def next_wave(self) -> int | None:
        """Return the wave to build next; None when all content is uploaded and nothing needs mending."""
        index = self.index()
        wave = bundles.next_wave(index, self.run)
        if wave is None and self.plan():
            wave = bundles.next_wave(index, self.run)
        return wave

    def finish(self) -> None:
        """Leave the receipt of a run whose snapshot is written."""
        index = self.index()
        with transaction(index):
            unreadable = runs.count_problems(index, self.run, runs.UNREADABLE)
            runs.add_counts(index, self.run, {**bundles.totals(index, self.run), "unreadable": unreadable})
            runs.set_receipt(index, self.run, snapshot=None, exit_code=3 if unreadable else 0, finished=self._clock())
        spool.clean(self.spool_dir)
        with contextlib.suppress(OSError):
            self.spool_dir.rmdir()

    # -- parts ------------------------------------------------------------------------------------

    def _dirty(self, scope: str) -> Dirty | None:
        """Return what is to be looked at, None for everything."""
        if self.changes is None:
            return None
        found, doubt = dirty.plan_dirty(self.index(), self.config, self.changes, scope=scope, run=self.run)
        if found is None:
            self.emit(notice=f"everything is scanned: {doubt}")
        return found

    def _reader(self, bundle: int, slices: Sequence[Slice]) -> Reader:
        index = self.index()
        stream = streams.find_of_bundle(index, bundle)
        if stream is not None:
            return self._streams.reader(
                index,
                stream,
                chunker=self.chunker,
                run=self.run,
                facts=self.facts,
                say=lambda line: self.emit(output=line),
            )
        largest = 2 * self.config.blob_size_limit
        return BundleReader(index, slices, self.chunker, started=self.started, largest=largest)

    def _open_store(self) -> Store:
        return open_bound_store(self.index(), self.config.s3, self._pace)
