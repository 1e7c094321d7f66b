"""What a restore would do to what its target has: found out, and nothing done."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from vaultik.restore.compare import Comparer
from vaultik.restore.ledger import iter_ids
from vaultik.restore.likeness import KeptTimes
from vaultik.restore.state import State
from vaultik.restore.target import target_errors
from vaultik.snapshot.tree import ROOT, path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from vaultik.restore.asked import Asked
    from vaultik.restore.target import Target
    from vaultik.store.base import Store

_LEFT = f"SELECT entry FROM wanted WHERE entry <> {ROOT} AND entry NOT IN (SELECT entry FROM done) ORDER BY 1"
_ENTRY = """
SELECT e.type, f.prime, d.entry IS NOT NULL FROM entries AS e LEFT JOIN files AS f ON f.entry = e.id
LEFT JOIN done AS d ON d.entry = f.prime WHERE e.id = ?"""


class Changes(NamedTuple):
    """Paths of a target, as the snapshot has them."""

    replaced: list[bytes]
    removed: list[bytes]


def look(asked: Asked, store: Store, copy: sqlite3.Connection, directory: Path) -> Changes:
    """Plan in a copied snapshot, settle what of it the target has already, and tell what else would become of what is there.

    Args:
        asked: what for.
        store: where from.
        copy: a copied snapshot; the plan is made in it, nothing else is changed.
        directory: a private one, for what has to be tried out.

    Raises:
        ConfigError, SelectionError, RestoreError: as a restore would.
    """
    asked.make_plan(copy)
    if not asked.target.exists():
        return Changes([], [])
    with target_errors(asked.target), closing(KeptTimes(directory)) as times:
        begun = State(asked.target).peek()
        likeness = asked.likeness(copy, begun, times.kept)
        with closing(asked.open_target(copy, store, begun, likeness)) as target:
            Comparer(copy, target, asked.attributes(copy), likeness, replace=True).run()
            replaced = sorted(path_of(copy, entry) for entry in _iter_replaced(copy, target))
            return Changes(replaced, list(asked.sweeper(copy, store, target).iter_extra()))


def _iter_replaced(copy: sqlite3.Connection, target: Target) -> Iterator[int]:
    """Yield the entries that go where something else stands."""
    for number in iter_ids(copy, _LEFT):
        kind, prime, is_prime_done = copy.execute(_ENTRY, (number,)).fetchone()
        there = target.find(number)
        if there is None or (kind == "d" and stat.S_ISDIR(there.st_mode)):
            continue
        if is_prime_done and prime != number:
            first = target.find(prime)
            if first is not None and os.path.samestat(first, there):
                continue
        yield number
