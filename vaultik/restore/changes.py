"""What a restore would do to what its target has: found out, and nothing done."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY
from vaultik.restore.compare import Comparer
from vaultik.restore.ledger import go_on, iter_ids
from vaultik.restore.likeness import KeptTimes
from vaultik.restore.remove import names_in
from vaultik.restore.state import STATE, State
from vaultik.restore.target import target_errors
from vaultik.snapshot.tree import ROOT, path_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaultik.restore.asked import Asked
    from vaultik.restore.sweep import Sweeper
    from vaultik.restore.target import Target
    from vaultik.store.base import Store

_LEFT = (
    f"SELECT entry FROM wanted WHERE entry <> {ROOT} AND entry NOT IN (SELECT entry FROM done)"
    " AND entry NOT IN (SELECT entry FROM failures) ORDER BY 1"
)
_ENTRY = """
SELECT e.type, f.prime, d.entry IS NOT NULL FROM entries AS e LEFT JOIN files AS f ON f.entry = e.id
LEFT JOIN done AS d ON d.entry = f.prime WHERE e.id = ?"""
_KNOWN = ("done", "written", "salvaged", "lost", "failures")
"""What a plan that was begun knows, and a new one of the same doesn't."""


class Changes:
    """What would become of what is there, as paths that the snapshot has; one is told after the other."""

    def __init__(self, asked: Asked, copy: sqlite3.Connection, target: Target, sweeper: Sweeper) -> None:
        self._asked = asked
        self._copy = copy
        self._target = target
        self._sweeper = sweeper

    def replaced(self) -> Iterator[bytes]:
        """Yield what something else goes in the place of, in the snapshot's order; without `force` nothing of anybody's does."""
        with target_errors(self._asked.target):
            for number in iter_ids(self._copy, _LEFT) if self._asked.force else ():
                if self._is_replaced(number):
                    yield path_of(self._copy, number)

    def removed(self) -> Iterator[bytes]:
        """Yield what the snapshot doesn't have, a directory with all that is in it."""
        with target_errors(self._asked.target):
            yield from self._sweeper.iter_extra()

    def _is_replaced(self, number: int) -> bool:
        with suppress(OSError):  # no way in, yet
            return self._goes_over(number)
        return False

    def _goes_over(self, number: int) -> bool:
        kind, prime, is_prime_done = self._copy.execute(_ENTRY, (number,)).fetchone()
        there = self._target.find(number)
        if there is None or (kind == "f" and prime is None):
            return False
        if stat.S_ISDIR(there.st_mode):
            return kind != "d" and (self._asked.delete or self._is_empty(number))
        if is_prime_done and prime != number:
            first = self._target.find(prime)
            return first is None or not os.path.samestat(first, there)
        return True

    def _is_empty(self, number: int) -> bool:
        directory, name = self._target.place(number)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        try:
            return not names_in(fd)
        finally:
            os.close(fd)


@contextmanager
def looked_at(asked: Asked, store: Store, copy: sqlite3.Connection, directory: Path) -> Iterator[Changes | None]:
    """Plan in a copied snapshot, and settle what of it the target has already. Gives what else would change, for the time of the block.

    Args:
        asked: what for.
        store: where from.
        copy: a copied snapshot; the plan is made in it, nothing else is changed.
        directory: a private one, for what has to be tried out and can't be in the target.

    Raises:
        ConfigError, SelectionError, RestoreError: as a restore would.
    """
    asked.make_plan(copy)
    with ExitStack() as stack:
        with target_errors(asked.target):
            changes = _look(asked, store, copy, directory, stack) if asked.target.exists() else None
        # What goes wrong in the block, such as a reader who has gone, is not the target's.
        yield changes


def _look(asked: Asked, store: Store, copy: sqlite3.Connection, directory: Path, stack: ExitStack) -> Changes:
    begun = None
    if os.path.lexists(asked.target / STATE):
        state = State(asked.target)
        stack.callback(state.close)
        begun = state.open()
        if begun is not None and begun.has_plan and begun.is_same(asked.choice(store.location)):
            _take_over(copy, state.plan, directory / "begun.sqlite")
    likeness = asked.likeness(copy, begun, stack.enter_context(closing(KeptTimes(asked.target, directory))).kept)
    target = stack.enter_context(closing(asked.open_target(copy, store, begun, likeness)))
    Comparer(copy, target, asked.attributes(copy), likeness, replace=asked.force).run()
    return Changes(asked, copy, target, asked.sweeper(copy, store, target))


def _take_over(copy: sqlite3.Connection, plan: Path, aside: Path) -> None:
    """Take over what the plan of an unfinished restore of the same knows; without it everything counts from the beginning.

    It is looked at in a copy: to open a database is to change it, if only what its journal has to say.
    """
    with suppress(FileNotFoundError):
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{plan}{suffix}", f"{aside}{suffix}", follow_symlinks=False)
    if not aside.is_file() or aside.is_symlink():
        return
    with suppress(sqlite3.Error):
        copy.execute("ATTACH ? AS begun", (os.fspath(aside),))
        with suppress(sqlite3.Error):
            for table in _KNOWN:
                copy.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM begun.{table}")
        copy.execute("DETACH begun")
    go_on(copy)
