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
from vaultik.restore import plan
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.blob import write_blob
from vaultik.restore.finish import Finisher
from vaultik.restore.report import RestoreReport, add_refused, make_report
from vaultik.restore.state import STATE, Begun, State
from vaultik.restore.target import Target, target_errors
from vaultik.restore.tree import ROOT
from vaultik.snapshot.find import FoundSnapshot, select
from vaultik.snapshot.read import fetch_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.restore.plan import Failure
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
        self._made_target = False
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

    def select(self) -> FoundSnapshot:
        """Find the snapshot that is meant."""
        return select(self.store(), self._spec, self._identities, self._host)

    # -- steps ------------------------------------------------------------------------------------

    def is_done(self, step: str) -> bool:
        """Tell whether a step is complete."""
        if not self._state.plan.exists():
            return False
        try:
            return self.copy().execute("SELECT 1 FROM steps WHERE name = ?", (step,)).fetchone() is not None
        except sqlite3.OperationalError:
            return False  # no such table: the plan isn't made yet

    def begin(self) -> None:
        """Make the target ready: empty, forced, or this restore's own unfinished one.

        Raises:
            RestoreError: it is none of these, or a restore into it is going on.
        """
        with target_errors(self.target):
            self._made_target = not os.path.lexists(self.target)
            if not self._made_target and not self.target.is_dir():
                raise RestoreError(f"target {self.target}: not a directory", hint="name an empty or new directory")
            self.target.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in self.target.iterdir()}
            if names - {STATE} and STATE not in names and not self._force:
                raise RestoreError(
                    f"target {self.target}: not empty", hint="name an empty or new directory, or pass --force"
                )
            self._begun = self._state.open()
        if self._begun is not None:
            self._check_same(self._begun)
            self._go_on()
        elif names - {STATE} and not self._force:
            self.abandon()
            raise RestoreError(
                f"target {self.target}: not empty", hint="name an empty or new directory, or pass --force"
            )

    def abandon(self) -> None:
        """Take back what `begin` made, if nothing of the snapshot has come yet."""
        if self._state.is_held and self.is_done(_FETCHED):
            return
        self.clean()
        if self._made_target:
            with contextlib.suppress(OSError):
                self.target.rmdir()

    def fetch_snapshot(self) -> None:
        """FetchSnapshotDB: download, verify, copy, plan, make the directories."""
        self.close()
        with target_errors(self.target):
            pinned = self._begun.snapshot if self._begun is not None else self._spec
            found = select(self.store(), pinned, self._identities, self._host)
            self._begun = self._state.begin(self._choice(), found.name.snapshot)
            fetch_snapshot(self.store(), found, self._identities, self._state.path, self.copy())
            plan.make_plan(self.copy(), ROOT, include=self._include, exclude=self._exclude)
            attributes = AttributeWriter(self.copy())
            if left_out := plan.leave_out(self.copy(), STATE.encode()):
                attributes.refused[f"/{STATE}"] += left_out
            with closing(self._open_target()) as target:
                Finisher(self.copy(), target, attributes).make_directories()
        self._done(_FETCHED, attributes=attributes)

    def blobs(self) -> list[int]:
        """Return the rows of the blobs to read."""
        return plan.needed_blobs(self.copy())

    def restore_blob(self, blob: int) -> None:
        """RestoreBlob: read a blob once and write what is wanted of it."""
        with target_errors(self.target), closing(self._open_target()) as target:
            attributes = AttributeWriter(self.copy())
            failures = write_blob(self.store(), self._identities, self.copy(), target, attributes, blob, self.emit)
            self._done(f"blob {blob}", failures, attributes)

    def finish(self) -> None:
        """FinishTree: links, special files, flags, directories."""
        with target_errors(self.target), closing(self._open_target()) as target:
            for name, step in Finisher(self.copy(), target, attributes := AttributeWriter(self.copy())).steps().items():
                if not self.is_done(name):
                    step()
                    self._done(name, attributes=attributes)
                    attributes.refused.clear()
            linux.syncfs(target.root_fd)
            self._done(_FINISHED)

    def is_finished(self) -> bool:
        """Tell whether the tree is finished."""
        return self.is_done(_FINISHED)

    def planned(self) -> plan.Totals:
        """Return what the plan comes to."""
        return plan.totals(self.copy())

    def report(self) -> RestoreReport:
        """Return what came of it."""
        return make_report(self.copy())

    def end(self, report: RestoreReport) -> None:
        """Remove the state; if the target would not take something, keep it for another try."""
        if not report.failed:
            self.clean()

    def clean(self) -> None:
        """Remove the state."""
        self.close()
        self._state.remove()

    def leave(self) -> None:
        """End without removing the state: the same command goes on."""
        self.close()
        self._state.close()

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

    def _check_same(self, begun: Begun) -> None:
        """Check that the unfinished restore in the target is this one; `latest` stays what it was when that began.

        Raises:
            RestoreError: it is another.
        """
        mine, other = self._choice(), begun.choice
        if mine == other or (
            {**mine, "snapshot": "", "host": ""} == {**other, "snapshot": "", "host": ""}
            and begun.snapshot.startswith(self._spec)
        ):
            return
        self._state.close()
        chosen = "".join(f" --{kind} {p}" for kind in ("include", "exclude") for p in other.get(kind, ()))
        raise RestoreError(
            f"target {self.target}: holds an unfinished restore of {begun.snapshot} ({other.get('snapshot')}) from"
            f" {other.get('store')}{chosen}",
            hint="finish it by the command that began it, or empty the directory",
        )

    def _go_on(self) -> None:
        """Look whether the plan is still sound, and give what failed another try."""
        try:
            if self.is_done(_FETCHED) and plan.forget_failures(self.copy()):
                with target_errors(self.target), closing(self._open_target()) as target:
                    Finisher(self.copy(), target, AttributeWriter(self.copy())).reopen_directories()
        except sqlite3.DatabaseError:
            self.close()
            self._state.plan.unlink(missing_ok=True)

    def _done(
        self, step: str, failures: dict[int, Failure] | None = None, attributes: AttributeWriter | None = None
    ) -> None:
        copy = self.copy()
        copy.execute("BEGIN IMMEDIATE")
        plan.add_failures(copy, failures or {})
        add_refused(copy, attributes)
        copy.execute("INSERT OR IGNORE INTO steps VALUES (?)", (step,))
        copy.execute("COMMIT")

    def _own(self, what: str, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), {}
        if what not in self._open:
            self._open[what] = make()
        return cast("T", self._open[what])
