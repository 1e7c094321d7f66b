"""A restore's working set: store, identities, state. The state lies in the target and goes away at the end.

    TARGET/.vaultik-restore/plan.sqlite     the copied snapshot, the plan, and which steps are done

The same command finds it again and goes on. Connections and clients never cross a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from vaultik.errors import RestoreError
from vaultik.restore import plan
from vaultik.restore.attributes import SPECIAL, AttributeWriter
from vaultik.restore.fetch import fetch_chunks
from vaultik.restore.finish import Finisher, make_directories
from vaultik.restore.target import Target, target_errors
from vaultik.restore.tree import ROOT, path_of
from vaultik.restore.write import FileWriter
from vaultik.snapshot.find import FoundSnapshot, select
from vaultik.snapshot.read import fetch_snapshot, get_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.store.base import Store

STATE = ".vaultik-restore"
_FETCHED = "snapshot"
_FINISHED = "finished"


T = TypeVar("T")


class RestoreReport(NamedTuple):
    """What a restore did."""

    snapshot: str
    totals: plan.Totals
    damaged: list[tuple[bytes, str]]
    """Path and reason of every file that could not be brought back."""
    refused: dict[str, int]
    """What this user may not set, and how often."""


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
        self._pid = 0
        self._open: dict[str, Any] = {}

    @property
    def state_dir(self) -> Path:
        """The private directory of this restore's state."""
        return self.target / STATE

    def store(self) -> Store:
        """Return this process's client of the store."""
        return self._own("store", self._open_store)

    def copy(self) -> sqlite3.Connection:
        """Return this process's connection to the copied snapshot and the plan."""
        return self._own("copy", lambda: connect(self.state_dir / "plan.sqlite"))

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
        if not (self.state_dir / "plan.sqlite").exists():
            return False
        try:
            return self.copy().execute("SELECT 1 FROM steps WHERE name = ?", (step,)).fetchone() is not None
        except sqlite3.OperationalError:
            return False  # no such table: the plan isn't made yet

    def begin(self) -> None:
        """Make the target ready: empty, forced, or this restore's own unfinished one.

        Raises:
            RestoreError: it is somebody else's.
        """
        with target_errors(self.target):
            self._made_target = not os.path.lexists(self.target)
            if not self._made_target and not self.target.is_dir():
                raise RestoreError(f"target {self.target}: not a directory", hint="name an empty or new directory")
            self.target.mkdir(parents=True, exist_ok=True)
            present = any(path.name != STATE for path in self.target.iterdir())
        if self.is_done(_FETCHED):
            self._check_same()
        elif present and not self._force and not self.state_dir.exists():
            raise RestoreError(
                f"target {self.target}: not empty", hint="name an empty or new directory, or pass --force"
            )
        with target_errors(self.target):
            self.state_dir.mkdir(mode=0o700, exist_ok=True)

    def abandon(self) -> None:
        """Take back what `begin` made, if nothing of the snapshot has come yet."""
        if not self.is_done(_FETCHED):
            self.clean()
            if self._made_target:
                with contextlib.suppress(OSError):
                    self.target.rmdir()

    def fetch_snapshot(self) -> None:
        """FetchSnapshotDB: download, verify, copy, plan, make the directories."""
        self.close()
        with target_errors(self.target):
            (self.state_dir / "plan.sqlite").unlink(missing_ok=True)
            found = self.select()
            fetch_snapshot(self.store(), found, self._identities, self.state_dir, self.copy())
            plan.make_plan(self.copy(), ROOT, include=self._include, exclude=self._exclude)
            with closing(Target(self.copy(), self.target, ROOT)) as target:
                make_directories(self.copy(), target)
        self.copy().execute("INSERT INTO meta VALUES ('restore', ?)", (self._choice(),))
        self._done(_FETCHED)

    def blobs(self) -> list[int]:
        """Return the rows of the blobs to read."""
        return plan.needed_blobs(self.copy())

    def restore_blob(self, blob: int) -> None:
        """RestoreBlob: read a blob once and write what is wanted of it."""
        with target_errors(self.target), closing(Target(self.copy(), self.target, ROOT)) as target:
            attributes = AttributeWriter(self.copy())
            damaged = write_blob(self.store(), self._identities, self.copy(), target, attributes, blob, self.emit)
            self._done(f"blob {blob}", damaged, attributes)

    def finish(self) -> None:
        """FinishTree: links, special files, directories, flags."""
        with target_errors(self.target), closing(Target(self.copy(), self.target, ROOT)) as target:
            attributes = AttributeWriter(self.copy())
            Finisher(self.copy(), target, attributes).run()
            self._done(_FINISHED, {}, attributes)

    def is_finished(self) -> bool:
        """Tell whether the tree is finished."""
        return self.is_done(_FINISHED)

    def planned(self) -> plan.Totals:
        """Return what the plan comes to."""
        return plan.totals(self.copy())

    def report(self) -> RestoreReport:
        """Return what came of it."""
        return make_report(self.copy())

    def clean(self) -> None:
        """Remove the state."""
        self.close()
        shutil.rmtree(self.state_dir, ignore_errors=True)

    # -- parts ------------------------------------------------------------------------------------

    def _choice(self) -> str:
        return json.dumps([self._spec, self._host, list(self._include), list(self._exclude)])

    def _check_same(self) -> None:
        """Check that the unfinished restore in the target is this one; `latest` stays what it was when that began.

        Raises:
            RestoreError: it is another.
        """
        meta = get_meta(self.copy())
        begun = json.loads(meta["restore"])
        if meta["restore"] == self._choice():
            return
        if begun[2:] == json.loads(self._choice())[2:] and self.select().name.snapshot == meta["snapshot"]:
            return
        chosen = "".join(f" --include {i}" for i in begun[2]) + "".join(f" --exclude {e}" for e in begun[3])
        raise RestoreError(
            f"target {self.target}: holds an unfinished restore of {begun[0]} ({meta['snapshot']}){chosen}",
            hint="finish it by the command that began it, or empty the directory",
        )

    def _done(
        self, step: str, damaged: dict[int, str] | None = None, attributes: AttributeWriter | None = None
    ) -> None:
        copy = self.copy()
        copy.execute("BEGIN IMMEDIATE")
        copy.executemany("INSERT OR IGNORE INTO damage VALUES (?, ?)", (damaged or {}).items())
        add_refused(copy, attributes)
        copy.execute("INSERT OR IGNORE INTO steps VALUES (?)", (step,))
        copy.execute("COMMIT")

    def _own(self, what: str, make: Callable[[], T]) -> T:
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), {}
        if what not in self._open:
            self._open[what] = make()
        return cast("T", self._open[what])


def write_blob(
    store: Store,
    identities: Sequence[Identity],
    copy: sqlite3.Connection,
    target: Target,
    attributes: AttributeWriter,
    blob: int,
    emit: Callable[..., None],
) -> dict[int, str]:
    """Read a blob once and write what the plan wants of it.

    Returns:
        The files that can't be brought back, with the reason.

    Raises:
        StoreError: the store failed.
        OSError: the target did.
    """
    uses = plan.uses_of_blob(copy, blob)
    writer = FileWriter(copy, target, attributes, uses)
    try:
        for fetched in fetch_chunks(store, identities, plan.get_blob(copy, blob), uses.chunks):
            for entry, offset in uses.places[fetched.chunk.id]:
                if fetched.damage is None:
                    writer.write(entry, offset, fetched.data)
                else:
                    writer.damage(entry, fetched.damage)
            emit(bytes=fetched.chunk.size * len(uses.places[fetched.chunk.id]))
        emit(blobs=1, files=writer.finished)
    finally:
        writer.close()
    return writer.damaged


def add_refused(copy: sqlite3.Connection, attributes: AttributeWriter | None) -> None:
    """Add to the counts of what this user may not set."""
    for what, count in attributes.refused.items() if attributes else ():
        copy.execute(
            "INSERT INTO refused VALUES (?, ?) ON CONFLICT (what) DO UPDATE SET count = count + excluded.count",
            (what, count),
        )


def make_report(copy: sqlite3.Connection) -> RestoreReport:
    """Return what came of a restore, from its plan: `totals` without what could not be brought back."""
    query = "SELECT f.entry, d.reason FROM damage AS d JOIN files AS f ON f.prime = d.entry ORDER BY f.entry"
    damaged = [(path_of(copy, entry), reason) for entry, reason in copy.execute(query).fetchall()]
    refused = dict(copy.execute("SELECT what, count FROM refused"))
    (lost,) = copy.execute(
        "SELECT total(e.size) FROM damage AS d JOIN entries AS e ON e.id = d.entry JOIN files AS f ON f.entry = e.id"
    ).fetchone()
    planned = plan.totals(copy)
    totals = planned._replace(
        entries=planned.entries - len(damaged) - planned.unreadable_files - refused.get(SPECIAL, 0),
        files=planned.files - len(damaged),
        bytes=planned.bytes - int(lost),
    )
    return RestoreReport(get_meta(copy)["snapshot"], totals, damaged, refused)


def connect(path: Path) -> sqlite3.Connection:
    """Open a private database for a copied snapshot and its plan, making it if it isn't there."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -16384")
    return connection
