"""A restore's working set: store, identities, plan. Connections and clients never cross a fork.

The state lies in the target (state.py), so that the same command finds it again and goes on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vaultik import linux
from vaultik.errors import RestoreError
from vaultik.restore import ledger, plan
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.blob import can_read, write_blob
from vaultik.restore.finish import Finisher
from vaultik.restore.report import RestoreReport, make_report
from vaultik.restore.state import STATE, Begun, State
from vaultik.restore.target import Target, make_directories, names_in, target_errors
from vaultik.restore.tree import ROOT
from vaultik.snapshot.find import select
from vaultik.snapshot.read import fetch_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store

_FETCHED = "snapshot"
_FINISHED = "finished"


T = TypeVar("T")


class RestoreSession:
    """One restore, as every process of it sees it."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        identities: Sequence[Identity],
        spec: str,
        target: Path,
        *,
        host: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        force: bool = False,
        emit: Callable[..., None] = lambda **_event: None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            open_store: gives a client of the store, once per process.
            identities: any of which may open the backup.
            spec: which snapshot (`snapshot.find.select`).
            target: directory to restore into.
            host: for `latest` where a prefix holds several.
            include: patterns of what is wanted; none is all.
            exclude: patterns of what isn't.
            force: restore into a directory that isn't empty, replacing what is in the way.
            emit: takes progress as numbers by name.
        """
        self._open_store = open_store
        self._identities = identities
        self._spec = spec
        self.target = target.absolute()
        self._host = host
        self._include = include
        self._exclude = exclude
        self._force = force
        self.emit = emit
        self._made: list[Path] = []
        self._state = State(self.target)
        self._begun: Begun | None = None
        self._pid = 0
        self._open: dict[str, Any] = {}

    def store(self) -> Store:
        """Return this process's client of the store."""
        return self._own("store", self._open_store)

    def copy(self) -> sqlite3.Connection:
        """Return this process's connection to the copied snapshot and the plan."""
        return self._own("copy", lambda: plan.connect(self._state.plan))

    def close(self) -> None:
        """Close what this process opened: before a fork, and at the end."""
        if self._pid == os.getpid():
            for opened in self._open.values():
                opened.close()
        self._open = {}

    # -- beginning and end ------------------------------------------------------------------------

    def check(self) -> None:
        """Look whether `begin` would take the target; nothing is made.

        Raises:
            RestoreError: it wouldn't.
        """
        with target_errors(self.target):
            names = names_in(self.target)
            begun = self._state.peek()
        self._check_names(names, begun)

    def begin(self) -> None:
        """Make the target ready: empty, forced, or this restore's own unfinished one.

        Raises:
            RestoreError: it is none of these, or a restore into it is going on.
        """
        with target_errors(self.target):
            names = names_in(self.target)
            if STATE not in names:
                self._check_names(names, None)
            self._made = make_directories(self.target)
            self._begun = self._state.open()
        try:
            self._check_names(names, self._begun)
        except RestoreError:
            if self._begun is None:
                self.abandon()
            self._state.close()
            raise
        if self._begun is not None:
            self._go_on()

    def abandon(self) -> None:
        """Take back what `begin` made, if nothing of the snapshot has come yet."""
        if self._state.is_held and self.is_done(_FETCHED):
            return
        self.clean()
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def end(self, report: RestoreReport) -> None:
        """Remove the state, unless another try may bring back more."""
        if not report.may_go_on:
            self.clean()

    def clean(self) -> None:
        """Remove the state."""
        self.close()
        self._state.remove()

    def leave(self) -> None:
        """End without removing the state: the same command goes on."""
        self.close()
        self._state.close()

    # -- steps ------------------------------------------------------------------------------------

    def is_done(self, step: str) -> bool:
        """Tell whether a step is complete."""
        if not self._state.plan.exists():
            return False
        with target_errors(self.target):
            return ledger.is_done(self.copy(), step)

    def fetch_snapshot(self) -> None:
        """FetchSnapshotDB: download, verify, copy, plan, make the directories."""
        self.close()
        with target_errors(self.target):
            pinned = self._begun.snapshot if self._begun is not None else self._spec
            found = select(self.store(), pinned, self._identities, self._host)
            self._begun = self._state.begin(self._choice(), found.name.snapshot, found.name.key)
            fetch_snapshot(self.store(), found, self._identities, self._state.path, self.copy())
            plan.make_plan(self.copy(), ROOT, include=self._include, exclude=self._exclude)
            attributes = AttributeWriter(self.copy())
            if left_out := plan.leave_out(self.copy(), STATE.encode()):
                attributes.refuse(0, f"/{STATE}", left_out)
            with closing(self._open_target()) as target:
                Finisher(self.copy(), target, attributes).make_directories()
            self._done(_FETCHED, attributes)

    def next_wave(self) -> int | None:
        """Return the number of the next blobs to read, None if all have been."""
        with target_errors(self.target):
            return ledger.next_wave(self.copy())

    def wave_blobs(self, wave: int) -> list[int]:
        """Return the rows of some blobs, not too many to be on their way at once."""
        with target_errors(self.target):
            return ledger.wave_blobs(self.copy(), wave)

    def is_read(self, blob: int) -> bool:
        """Tell whether a blob has been read."""
        with target_errors(self.target):
            return ledger.is_read(self.copy(), blob)

    def restore_blob(self, blob: int) -> None:
        """RestoreBlob: read a blob once and write what is wanted of it."""
        with target_errors(self.target), closing(self._open_target()) as target:
            write_blob(
                self.store(),
                self._identities,
                self.copy(),
                target,
                AttributeWriter(self.copy()),
                blob,
                emit=self.emit,
                others_work=self._others_work,
            )

    def finish(self) -> None:
        """FinishTree: links, special files, flags, directories."""
        with target_errors(self.target), closing(self._open_target()) as target:
            attributes = AttributeWriter(self.copy())
            for name, step in Finisher(self.copy(), target, attributes).steps().items():
                if not self.is_done(name):
                    step()
                    self._done(name, attributes)
            linux.syncfs(target.root_fd)
            self._done(_FINISHED, attributes)

    def is_finished(self) -> bool:
        """Tell whether the tree is finished."""
        return self.is_done(_FINISHED)

    def planned(self) -> plan.Totals:
        """Return what the plan comes to."""
        with target_errors(self.target):
            return plan.totals(self.copy())

    def report(self) -> RestoreReport:
        """Return what came of it."""
        with target_errors(self.target):
            return make_report(self.copy())

    # -- parts ------------------------------------------------------------------------------------

    def _open_target(self) -> Target:
        self._begun = self._begun or self._state.read()
        return Target(self.copy(), self.target, ROOT, self._begun.token)

    def _choice(self) -> dict[str, Any]:
        return {
            "store": self.store().location,
            "snapshot": self._spec,
            "host": self._host,
            "include": list(self._include),
            "exclude": list(self._exclude),
        }

    def _others_work(self) -> bool:
        """Tell whether the store still gives what it gave before: the snapshot's own object."""
        begun = self._begun or self._state.read()
        return can_read(self.store(), begun.key)

    def _check_names(self, names: set[str], begun: Begun | None) -> None:
        if begun is not None:
            begun.check_same(self._choice(), self.target)
        elif names - {STATE} and not self._force:
            raise RestoreError(
                f"target {self.target}: not empty", hint="name an empty or new directory, or pass --force"
            )

    def _go_on(self) -> None:
        """Look whether the plan is still sound, and give what failed another try."""
        try:
            if self.is_done(_FETCHED):
                with target_errors(self.target), closing(self._open_target()) as target:
                    self._try_again(target)
        except sqlite3.DatabaseError:
            self.close()
            self._state.forget_plan()

    def _try_again(self, target: Target) -> None:
        copy = self.copy()
        if ledger.try_again(copy):
            Finisher(copy, target, AttributeWriter(copy)).reopen_directories()
        lost = [entry for entry in ledger.written_files(copy) if not target.has_temporary(entry)]
        with ledger.transaction(copy):
            for entry in lost:
                ledger.forget_written(copy, entry)
            ledger.read_again(copy)

    def _done(self, step: str, attributes: AttributeWriter) -> None:
        with ledger.transaction(self.copy()):
            attributes.flush()
            self.copy().execute("INSERT OR IGNORE INTO steps VALUES (?)", (step,))

    def _own(self, what: str, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), {}
        if what not in self._open:
            self._open[what] = make()
        return cast("T", self._open[what])
