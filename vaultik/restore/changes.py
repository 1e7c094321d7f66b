"""What a restore would do to what its target has: found out, and nothing done."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

from vaultik.restore.compare import Comparer
from vaultik.restore.ledger import iter_ids
from vaultik.restore.likeness import KeptTimes
from vaultik.restore.state import PLAN, State
from vaultik.restore.target import target_errors
from vaultik.snapshot.tree import ROOT, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
_KNOWN = ("done", "written")
"""What a plan that was begun knows, and a new one of the same doesn't."""


class Changes:
    """What would become of what is there, as paths that the snapshot has; one is told after the other."""

    def __init__(self, copy: sqlite3.Connection, target: Target, sweeper: Sweeper) -> None:
        self._copy = copy
        self._target = target
        self._sweeper = sweeper

    def replaced(self) -> Iterator[bytes]:
        """Yield what something else goes in the place of, in the snapshot's order."""
        for number in iter_ids(self._copy, _LEFT):
            if self._is_replaced(number):
                yield path_of(self._copy, number)

    def removed(self) -> Iterable[bytes]:
        """Yield what the snapshot doesn't have, a directory with all that is in it."""
        return self._sweeper.iter_extra()

    def _is_replaced(self, number: int) -> bool:
        kind, prime, is_prime_done = self._copy.execute(_ENTRY, (number,)).fetchone()
        try:
            there = self._target.find(number)
            first = self._target.find(prime) if is_prime_done and prime != number else None
        except OSError:  # no way in, yet
            return False
        if there is None or (kind == "f" and prime is None) or (kind == "d" and stat.S_ISDIR(there.st_mode)):
            return False
        return first is None or not os.path.samestat(first, there)


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
    with target_errors(asked.target), ExitStack() as stack:
        if not asked.target.exists():
            yield None
            return
        state = State(asked.target)
        begun = state.peek()
        if begun is not None and begun.has_plan and begun.is_same(asked.choice(store.location)):
            _take_over(copy, asked.target / PLAN)
        likeness = asked.likeness(copy, begun, stack.enter_context(closing(KeptTimes(asked.target, directory))).kept)
        target = stack.enter_context(closing(asked.open_target(copy, store, begun, likeness)))
        Comparer(copy, target, asked.attributes(copy), likeness, replace=asked.force).run()
        yield Changes(copy, target, asked.sweeper(copy, store, target))


def _take_over(copy: sqlite3.Connection, plan: Path) -> None:
    """Take over what the plan of an unfinished restore of the same knows; without it everything counts from the beginning."""
    with suppress(sqlite3.Error):
        copy.execute("ATTACH ? AS begun", (os.fspath(plan),))
        with suppress(sqlite3.Error):
            for table in _KNOWN:
                copy.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM begun.{table}")
        copy.execute("DETACH begun")
