"""Write one entry, with all that is below it, to a place of its own: the steps of a restore, in one process, with no state kept."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik import interrupts, linux
from vaultik.core.names import parse_snapshot_key
from vaultik.directories import OPEN_DIRECTORY
from vaultik.restore import kept, ledger, plan
from vaultik.restore.attributes import AttributeWriter, default_mode
from vaultik.restore.blob import write_blob
from vaultik.restore.directories import Directories
from vaultik.restore.elsewhere import look_elsewhere
from vaultik.restore.finish import FINISH, LAST, Finisher
from vaultik.restore.naming import clear_way, open_directory, rename, rename_new
from vaultik.restore.remove import names_in
from vaultik.restore.report import RestoreReport, make_report
from vaultik.restore.salvage import bring_beside
from vaultik.restore.target import Target
from vaultik.scratch import ScratchDirectory
from vaultik.snapshot.fetch import can_read
from vaultik.snapshot.tree import ROOT, Entry, path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from vaultik.core.identity import Identity
    from vaultik.restore.kept import Kept
    from vaultik.restore.progress import Progress
    from vaultik.store.base import Store

_DIRECTORIES = "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd'"


def goes_into(entry: Entry, place: Path) -> bool:
    """Tell whether an entry comes into a directory that is there, and not aside, to be renamed."""
    return entry.type == "d" and place.is_dir() and (any(place.iterdir()) or _is_mount(place))


def _is_mount(place: Path) -> bool:
    """Tell whether a directory is a mount point, or a file system's own part (a subvolume): nothing is renamed onto it."""
    found = set()
    for path in (place, place.parent):
        fd = os.open(path, OPEN_DIRECTORY & ~os.O_NOFOLLOW | os.O_PATH)
        try:
            found.add((linux.mount_of(fd), os.fstat(fd).st_dev))
        finally:
            os.close(fd)
    return len(found) > 1


class Writing:
    """The steps of a restore for one entry."""

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        copy: sqlite3.Connection,
        entry: Entry,
        key: str,
        progress: Progress,
        keeps: Kept,
        *,
        salvage: bool,
    ) -> None:
        self._salvage = salvage
        self._salvaged_as: Path | None = None
        self._store = store
        self._identities = identities
        self._copy = copy
        self._entry = entry
        self._key = key
        self._progress = progress
        self._attributes = AttributeWriter(copy, keeps)
        self._token = secrets.token_hex(8)

    def run(self, place: Path, *, force: bool) -> None:
        """Bring it to its place."""
        if goes_into(self._entry, place):
            self.into(place)
        else:
            self.aside(place, force=force)
        self._attributes.flush()

    def into(self, place: Path) -> None:
        """Write a directory's entries into one that is there. However that ends, no flag that forbids changes stays off by it."""
        with closing(self._target(place)) as target:
            try:
                # What stands for / gets no attributes, so nothing else takes them off it.
                self._attributes.loosen(self._entry, target.root_fd, keep=True)
                self._finish(self._filled(target, Directories.ready), LAST)
            finally:
                with interrupts.deferred():
                    Finisher(self._copy, target, self._attributes).put_back()

    def aside(self, place: Path, *, force: bool) -> None:
        """Write aside, then rename: whatever ends this early leaves nothing behind."""
        aside = Path()
        try:
            with interrupts.deferred():
                aside = Path(tempfile.mkdtemp(prefix=".vaultik-", dir=place.parent))
            self._aside(aside, place, force=force)
        finally:
            with interrupts.deferred():
                if aside.name:
                    shutil.rmtree(aside, ignore_errors=True)

    def _aside(self, aside: Path, place: Path, *, force: bool) -> None:
        inner = aside / place.name
        with closing(self._target(aside if self._entry.type == "d" else inner)) as target:
            finisher = self._filled(target, Directories.make)
            if self._entry.type == "d":
                if self._entry.id == ROOT or not self._attributes.keeps.has(kept.MODE):
                    with suppress(OSError):  # a file system that has no modes
                        os.fchmod(target.root_fd, default_mode("d"))
                aside.rename(place)
                self._finish(finisher, LAST)
            elif os.path.lexists(inner):
                _rename(inner, place, force=force)
                with closing(self._target(place)) as final:
                    self._finish(Finisher(self._copy, final, self._attributes), LAST)
            else:
                self._salvaged_as = bring_beside(self._copy, self._entry.id, aside, place)

    def report(self, place: Path) -> RestoreReport:
        """Return what came of it; what was salvaged by where it stands now."""
        report = make_report(self._copy)
        above = path_of(self._copy, self._entry.id).rstrip(b"/")
        salvaged = [
            one._replace(
                place=os.fsencode(self._salvaged_as or os.fspath(place) + os.fsdecode(one.place[len(above) :]))
            )
            for one in report.salvaged
        ]
        return report._replace(salvaged=salvaged)

    def _target(self, place: Path) -> Target:
        if self._entry.type == "d":
            return Target(self._copy, place, self._entry.id, self._token)
        alias = (self._entry.id, os.fsencode(place.name))
        return Target(self._copy, place.parent, self._entry.parent or self._entry.id, self._token, alias)

    def _filled(self, target: Target, make: Callable[[Directories], None]) -> Finisher:
        """Write all but what comes last. However that ends, nothing stands under a temporary name."""
        try:
            finisher = self._content(target, make)
            self._finish(finisher, [step for step in FINISH if step not in LAST])
        finally:
            with interrupts.deferred():
                self._remove_temporaries(target)
        return finisher

    def _remove_temporaries(self, target: Target) -> None:
        # Nothing is written to the plan: its disk may be what is full.
        for (number,) in self._copy.execute(_DIRECTORIES):
            with suppress(OSError):
                directory = target.directory(number)
                for name in names_in(directory):
                    if target.entry_of_temporary(name) is not None:
                        clear_way(directory, name)

    def _content(self, target: Target, make: Callable[[Directories], None]) -> Finisher:
        copy = self._copy
        totals = plan.totals(copy)
        self._progress.total(files=totals.files, bytes=totals.bytes, blobs=totals.blobs)
        finisher = Finisher(copy, target, self._attributes)
        make(Directories(copy, target, self._attributes))
        self._read_blobs(target)
        name = parse_snapshot_key(self._key)
        if name is not None and ledger.has_damage(copy):
            with ScratchDirectory() as scratch:
                look_elsewhere(self._store, name, self._identities, copy, scratch.path)
            self._read_blobs(target)
        return finisher

    def _read_blobs(self, target: Target) -> None:
        copy = self._copy
        for blob in ledger.needed_blobs(copy):
            if ledger.is_read(copy, blob):
                continue
            write_blob(
                self._store,
                self._identities,
                copy,
                target,
                self._attributes,
                blob,
                emit=self._progress.advance,
                others_work=lambda: can_read(self._store, self._key),
                salvage=self._salvage,
            )

    def _finish(self, finisher: Finisher, names: Iterable[str]) -> None:
        steps = finisher.steps()
        for name in names:
            steps[name]()


def _rename(aside: Path, place: Path, *, force: bool) -> None:
    """Give a file that was written aside, in a directory beside its place, its name there."""
    old, new = os.fsencode(Path(*aside.parts[-2:])), os.fsencode(place.name)
    with ExitStack() as stack:
        directory = open_directory(stack, place.parent)
        if force:
            rename(directory, old, new)
        elif not rename_new(directory, old, new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(place))
