"""What came of a restore, told from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.restore import plan
from vaultik.restore.attributes import SPECIAL, AttributeWriter
from vaultik.restore.tree import path_of
from vaultik.snapshot.read import get_meta

if TYPE_CHECKING:
    import sqlite3


class RestoreReport(NamedTuple):
    """What a restore did."""

    snapshot: str
    totals: plan.Totals
    damaged: list[tuple[bytes, str]]
    """Path and reason of every file that could not be brought back: something stored is missing or damaged."""
    failed: list[tuple[bytes, str]]
    """Path and reason of every entry that the target would not take."""
    refused: dict[str, int]
    """What this user may not set, and how often."""


def add_refused(copy: sqlite3.Connection, attributes: AttributeWriter | None) -> None:
    """Add to the counts of what this user may not set."""
    for what, count in attributes.refused.items() if attributes else ():
        copy.execute(
            "INSERT INTO refused VALUES (?, ?) ON CONFLICT (what) DO UPDATE SET count = count + excluded.count",
            (what, count),
        )


def make_report(copy: sqlite3.Connection) -> RestoreReport:
    """Return what came of a restore, from its plan: `totals` without what could not be brought back."""
    # With a file that is given up go all its names.
    query = (
        "SELECT coalesce(f.entry, x.entry), x.damaged, x.reason FROM failures AS x"
        " LEFT JOIN files AS f ON f.prime = x.entry ORDER BY 1"
    )
    lost = [(path_of(copy, entry), bool(damaged), reason) for entry, damaged, reason in copy.execute(query).fetchall()]
    refused = dict(copy.execute("SELECT what, count FROM refused"))
    files, size = copy.execute(
        "SELECT count(*), total(CASE WHEN f.entry = f.prime THEN e.size END) FROM failures AS x"
        " JOIN files AS f ON f.prime = x.entry OR (f.entry = x.entry AND f.entry <> f.prime) JOIN entries AS e ON e.id = f.entry"
    ).fetchone()
    planned = plan.totals(copy)
    totals = planned._replace(
        entries=planned.entries - len(lost) - planned.unreadable_files - refused.get(SPECIAL, 0),
        files=planned.files - files,
        bytes=planned.bytes - int(size),
    )
    damaged = [(path, reason) for path, is_damaged, reason in lost if is_damaged]
    failed = [(path, reason) for path, is_damaged, reason in lost if not is_damaged]
    return RestoreReport(get_meta(copy)["snapshot"], totals, damaged, failed, refused)
