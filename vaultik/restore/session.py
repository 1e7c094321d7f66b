"""A restore's working set: store, identities, plan. Connections and clients never cross a fork.

The state lies in the target (state.py), so that the same command finds it again and goes on.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vaultik import linux
from vaultik.core.names import parse_snapshot_key
from vaultik.errors import RestoreError, VaultikError
from vaultik.restore import ledger, plan
from vaultik.restore.blob import write_blob
from vaultik.restore.clashes import leave_out_clashes
from vaultik.restore.compare import Comparer
from vaultik.restore.directories import Directories
from vaultik.restore.elsewhere import look_elsewhere
from vaultik.restore.finish import LAST, Finisher
from vaultik.restore.likeness import KeptTimes, Likeness
from vaultik.restore.own import Own
from vaultik.restore.report import RestoreReport, make_report
from vaultik.restore.state import STATE, Begun, State
from vaultik.restore.sweep import Sweeper
from vaultik.restore.target import Target, make_directories, names_in, target_errors
from vaultik.snapshot.fetch import can_read
from vaultik.snapshot.find import select
from vaultik.snapshot.nearest import naming_nearest
from vaultik.snapshot.read import fetch_snapshot
from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.restore.asked import Asked
    from vaultik.restore.attributes import AttributeWriter
    from vaultik.store.base import Store

_FETCHED = "snapshot"
_COMPARED = "compared"
_LOOKED = "elsewhere"
_FINISHED = "finished"


class RestoreSession:
    """One restore, as every process of it sees it."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        identities: Sequence[Identity],
        asked: Asked,
        *,
        emit: Callable[..., None] = lambda **_event: None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            open_store: gives a client of the store, once per process.
            identities: any of which may open the backup.
            asked: what is to be restored, where to and how.
            emit: takes progress as numbers by name.

        Raises:
            ConfigError: what is asked for makes no sense.
        """
        self._open_store = open_store
        self._identities = identities
        self._asked = asked._replace(target=asked.target.absolute())
        self._asked.check()
        self.target = self._asked.target
        self._is_fresh = False
        self._goes_on = False
        self.emit = emit
        self._made: list[Path] = []
        self._state = State(self.target)
        self._begun: Begun | None = None
        self._own = Own()

    def store(self) -> Store:
        """Return this process's client of the store."""
        return self._own.get("store", self._open_store)

    def copy(self) -> sqlite3.Connection:
        """Return this process's connection to the copied snapshot and the plan."""
        return self._own.get("copy", lambda: plan.connect(self._state.plan))

    def close(self) -> None:
        """Close what this process opened: before a fork, and at the end."""
        self._own.close()

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

    def spec(self) -> str:
        """Return which snapshot it would be: the one that an unfinished restore of the same began with, or what is asked for."""
        with target_errors(self.target):
            begun = self._state.peek()
        return begun.snapshot if begun is not None and begun.is_same(self._choice()) else self._asked.spec

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
        self._is_fresh = self._begun is None and not names - {STATE}
        self._goes_on = self._begun is not None
        if self._begun is not None:
            self._go_on(self._begun)

    def abandon(self) -> None:
        """Take back what `begin` made, if nothing of the snapshot has come yet."""
        if self._goes_on or (self._state.is_held and self.is_done(_FETCHED)):
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
        """FetchSnapshotDB: download, verify, copy, plan."""
        self.close()
        with target_errors(self.target):
            asked = self._asked
            pinned = self._begun.snapshot if self._begun is not None else asked.spec
            found = select(self.store(), pinned, self._identities, asked.host, asked.signers)
            self._begun = self._state.begin(self._choice(), found.name.snapshot, found.name.key)
            with naming_nearest(self.store(), found, self._identities):
                fetch_snapshot(self.store(), found, self._identities, self._state.path, self._state.plan)
            place, home = self._state.path, self._state.home
            asked.make_plan(self.copy(), lambda copy: leave_out_clashes(copy, place, home, ROOT, STATE.encode()))
            attributes = self._asked.attributes(self.copy())
            if (made := self._state.made_before()) is not None:
                with closing(self._open_target()) as target:
                    Directories(self.copy(), target, attributes).note_standing(made)
            if left_out := plan.leave_out(self.copy(), STATE.encode()):
                attributes.refuse(0, f"/{STATE}", left_out)
            self._done(_FETCHED, attributes)

    def compare(self) -> None:
        """CompareTree: make the directories; settle what is there already, of an earlier try or of the tree that is updated."""
        with target_errors(self.target), closing(self._open_target()) as target:
            attributes = self._asked.attributes(self.copy())
            directories = Directories(self.copy(), target, attributes)
            if self._is_fresh:
                directories.make()
            else:
                directories.ready()
                Comparer(self.copy(), target, attributes, self._likeness(), replace=self._asked.force).run()
            self._done(_COMPARED, attributes)

    def is_compared(self) -> bool:
        """Tell whether this run has looked at what is there."""
        return self.is_done(_COMPARED)

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
                self._asked.attributes(self.copy()),
                blob,
                emit=self.emit,
                others_work=self._others_work,
                salvage=self._asked.salvage,
            )

    def look_elsewhere(self) -> None:
        """LookElsewhere: plan to read what is damaged from other blobs, if other snapshots name some that have it."""
        with target_errors(self.target):
            name = parse_snapshot_key((self._begun or self._state.read()).key)
            if name is not None and ledger.has_damage(self.copy()):
                look_elsewhere(self.store(), name, self._identities, self.copy(), self._state.path)
            self._done(_LOOKED, self._asked.attributes(self.copy()))

    def has_looked(self) -> bool:
        """Tell whether this run has looked elsewhere for what is damaged."""
        return self.is_done(_LOOKED)

    def finish(self) -> None:
        """FinishTree: links, special files, flags, directories."""
        with target_errors(self.target), closing(self._open_target()) as target:
            attributes = self._asked.attributes(self.copy())
            steps = Finisher(self.copy(), target, attributes).steps()
            if not self._is_fresh:
                last = {name: steps.pop(name) for name in LAST}
                steps = {**steps, "swept": self._asked.sweeper(self.copy(), self.store(), target).sweep, **last}
            for name, step in steps.items():
                if not self.is_done(name):
                    step()
                    self._done(name, attributes)
            Finisher(self.copy(), target, attributes).put_back()
            linux.syncfs(target.root_fd)
            self._done(_FINISHED, attributes)

    def is_finished(self) -> bool:
        """Tell whether the tree is finished."""
        return self.is_done(_FINISHED)

    def left(self) -> plan.Left:
        """Return what of it is still to be done."""
        with target_errors(self.target):
            return plan.left(self.copy())

    def report(self) -> RestoreReport:
        """Return what came of it."""
        with target_errors(self.target):
            return make_report(self.copy())

    # -- parts ------------------------------------------------------------------------------------

    def _open_target(self) -> Target:
        likeness = self._likeness()
        return self._asked.open_target(self.copy(), self.store(), self._begun, likeness, self._state.home)

    def _likeness(self) -> Likeness:
        self._begun = self._begun or self._state.read()
        times = self._own.get("times", lambda: KeptTimes(self._state.path))
        return self._asked.likeness(self.copy(), self._begun, times.kept)

    def _others_work(self) -> bool:
        """Tell whether the store still gives what it gave before: the snapshot's own object."""
        begun = self._begun or self._state.read()
        return can_read(self.store(), begun.key)

    def _check_names(self, names: set[str], begun: Begun | None) -> None:
        if begun is None:
            self._asked.check_names(names)
        elif not self._asked.force:
            begun.check_same(self._choice(), self.target)

    def _choice(self) -> dict[str, Any]:
        return self._asked.choice(self.store().location)

    def _go_on(self, begun: Begun) -> None:
        """Look whether the plan is still sound, and begin another try; what was begun of something else is given up."""
        try:
            with target_errors(self.target):
                if not begun.is_same(self._choice()):
                    self._give_up(begun)
                elif not begun.has_plan:
                    self._supersede(begun)
                elif not self.is_done(_FETCHED):
                    # Killed while it was made. Another process makes the next one: this one may keep no connection to it.
                    self.close()
                    self._state.forget_plan()
                elif (
                    self._asked.delete
                    or self._asked.salvage
                    or not self.is_done(_FINISHED)
                    or ledger.may_try_again(self.copy())
                ):
                    ledger.go_on(self.copy())
        except sqlite3.DatabaseError:
            with target_errors(self.target):
                self._supersede(begun)

    def _give_up(self, begun: Begun) -> None:
        """Leave what is done to the update that follows, and nothing else."""
        self._begun = None
        if self.is_done(_FETCHED):
            self.copy().execute("DELETE FROM failures")
            with closing(Target(self.copy(), self._state.home, ROOT, begun.token)) as target:
                Sweeper(self.copy(), target, None).sweep()
        self._supersede(begun)

    def _supersede(self, begun: Begun) -> None:
        """Give up a plan that was complete; what it loosened and opened in the target is as before."""
        try:
            if self.is_done(_FETCHED):
                attributes = self._asked.attributes(self.copy())
                with closing(Target(self.copy(), self._state.home, ROOT, begun.token)) as target:
                    directories = Directories(self.copy(), target, attributes)
                    directories.leave_standing()
                    Finisher(self.copy(), target, attributes).put_back()
                    self._state.note_made(directories.may_be_made())
        except (sqlite3.Error, OSError, VaultikError, TypeError):
            # Torn by a power cut, or of another shape: whatever it says, another one is made.
            self._state.note_made(None)
        self.close()
        self._state.forget_plan()

    def _done(self, step: str, attributes: AttributeWriter) -> None:
        with ledger.transaction(self.copy()):
            attributes.flush()
            self.copy().execute("INSERT OR IGNORE INTO steps VALUES (?)", (step,))
