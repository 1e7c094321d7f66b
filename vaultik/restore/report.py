"""What came of a restore, told from its plan: as numbers, and as the lines that a person reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import Mark
from vaultik.restore import plan
from vaultik.restore.attributes import SPECIAL
from vaultik.restore.ledger import Kind, may_try_again
from vaultik.restore.salvage import Salvaged, all_salvaged, zeros
from vaultik.shown import human_bytes, plural, printable
from vaultik.snapshot.read import get_meta
from vaultik.snapshot.tree import path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


_LONGEST = 4096
"""Bytes of a path that is told. A snapshot of some kilobytes can have thousands of a megabyte each."""


class RestoreReport(NamedTuple):
    """What a restore did."""

    snapshot: str
    complete: bool
    """Whether the backup had ended that the snapshot is of."""
    stale: int
    """Files that come as an earlier snapshot had them."""
    gaps: int
    """Directories in which the backup could not look at everything."""
    totals: plan.Totals
    damaged: list[tuple[bytes, str]]
    """Path and reason of every file that could not be brought back: something stored is missing, damaged or refused."""
    failed: list[tuple[bytes, str]]
    """Path and reason of every entry that the target would not take, and of what could not be removed."""
    refused: dict[str, int]
    """What this user may not set, and how often."""
    may_go_on: bool
    """Whether another try may bring back more: what the target would not take, what the store refused."""
    unchanged: int
    """Files that were there already, with the right content: nothing was fetched for them."""
    removed: int
    """Names that were removed because the snapshot doesn't have them."""
    notes: list[tuple[bytes, str]]
    """Paths of which something should be known that is no failure."""
    salvaged: list[Salvaged]
    """What could be read of damaged files, and where that stands."""


class Line(NamedTuple):
    """Something to tell, safe to print."""

    text: str
    hint: str | None = None


def make_report(copy: sqlite3.Connection) -> RestoreReport:
    """Return what came of a restore, from its plan: `totals` without what could not be brought back."""
    # With a file that is given up go all its names.
    query = (
        "SELECT coalesce(f.entry, x.entry), x.kind, x.reason FROM failures AS x"
        " LEFT JOIN files AS f ON f.prime = x.entry ORDER BY 1"
    )
    lost = [
        (_shown(path_of(copy, entry)), Kind(kind), reason) for entry, kind, reason in copy.execute(query).fetchall()
    ]
    refused = dict(copy.execute("SELECT what, sum(count) FROM refused GROUP BY what"))
    files, size = copy.execute(
        "SELECT count(*), total(CASE WHEN f.entry = f.prime THEN e.size END) FROM failures AS x"
        " JOIN files AS f ON f.prime = x.entry OR (f.entry = x.entry AND f.entry <> f.prime) JOIN entries AS e ON e.id = f.entry"
    ).fetchone()
    planned = plan.totals(copy)
    totals = planned._replace(
        entries=planned.entries
        - sum(kind != Kind.CLASH for _, kind, _ in lost)
        - planned.unreadable_files
        - refused.get(SPECIAL, 0),
        files=planned.files - files,
        bytes=planned.bytes - int(size),
    )
    damaged = [(path, reason) for path, kind, reason in lost if kind in (Kind.DAMAGED, Kind.REFUSED)]
    failed = [(path, reason) for path, kind, reason in lost if kind in (Kind.TARGET, Kind.CLASH)]
    notes = [
        (_shown(path), *rest) for path, *rest in copy.execute("SELECT path, text, failed FROM notes ORDER BY path")
    ]
    failed += [(path, text) for path, text, is_failure in notes if is_failure]
    may_go_on = may_try_again(copy)
    (unchanged,) = copy.execute(
        "SELECT count(*) FROM files AS f JOIN done AS d ON d.entry = f.prime WHERE d.found"
    ).fetchone()
    (removed,) = copy.execute("SELECT coalesce(sum(count), 0) FROM removed").fetchone()
    said = [(path, text) for path, text, is_failure in notes if not is_failure]
    meta = get_meta(copy)
    stale, gaps = copy.execute(
        "SELECT count(*) FILTER (WHERE e.marks & ?), count(*) FILTER (WHERE e.marks & ?)"
        " FROM wanted AS w JOIN entries AS e ON e.id = w.entry",
        (Mark.STALE, Mark.GAP),
    ).fetchone()
    return RestoreReport(
        meta["snapshot"],
        bool(meta["complete"]),
        stale,
        gaps,
        totals,
        damaged,
        failed,
        refused,
        may_go_on,
        unchanged,
        removed,
        said,
        [s._replace(path=_shown(s.path), place=_shown(s.place)) for s in all_salvaged(copy)],
    )


def _shown(path: bytes) -> bytes:
    """Return a path as it is told: whole, but for one that is longer than any system call takes."""
    half = (_LONGEST - 3) // 2
    return path if len(path) <= _LONGEST else path[:half] + b"..." + path[-half:]


def problem_lines(report: RestoreReport, target: Path | None = None) -> Iterator[Line]:
    """Yield what a person should know besides that it is done; of a whole tree what is on the disk by its place there."""
    top = os.fsencode(target).rstrip(b"/") if target is not None else b""
    there = [(top + path, reason) for path, reason in (*report.failed, *report.notes)]
    for path, reason in [*report.damaged, *there]:
        yield Line(f"{printable(path)}: {printable(reason)}")
    for _, place, lost in report.salvaged:
        yield Line(f"{printable(top + place)}: what could be read of it; {zeros(lost)}")
    if report.damaged:
        hint = "older snapshots may hold other copies of them"
        if report.totals.entries:
            hint = f"everything else was; {hint}"
        if report.may_go_on:
            hint += "; the same command tries those again that the store refused"
        elif target is None:
            hint += "" if report.salvaged else "; --salvage keeps what can be read"
        else:
            keeps = "" if report.salvaged else ", and with --salvage keeps what can be read"
            hint += f"; the same command with --force tries again{keeps}"
        yield Line(f"{plural(len(report.damaged), 'file')} could not be brought back", hint)
    if report.failed:
        n = plural(len(report.failed), "entry", "entries")
        yield Line(
            f"{n} could not be written or removed, or left alone on purpose",
            "once that is mended, the same command does what is missing"
            if report.may_go_on
            else "on another file system, or one by one with vaultik fetch, they come back",
        )
    for what, count in report.refused.items():
        yield Line(f"{printable(what)}: could not be set {plural(count, 'time')}, no right or not supported here")
    yield from _what_it_lacks(report)


def _what_it_lacks(report: RestoreReport) -> Iterator[Line]:
    """Yield what no restore of the snapshot brings, though all of it came."""
    if not report.complete:
        yield Line(
            f"snapshot {report.snapshot} is of a backup that had not ended: files may be missing, or older",
            "the next one of this host has the rest; `latest` is always complete",
        )
    if report.stale:
        yield Line(
            f"{plural(report.stale, 'file')} had not been read yet when the backup was cut off: as an earlier one has it"
        )
    if report.gaps:
        n = plural(report.gaps, "directory", "directories")
        yield Line(f"{n} could not be looked at in full when the backup was made")
    if report.totals.unreadable:
        n = plural(report.totals.unreadable, "entry", "entries")
        yield Line(f"{n} could not be read when the backup was made; no content of theirs comes back")


def summary(report: RestoreReport, target: Path) -> str:
    """Return what was done, in a line."""
    t = report.totals
    return (
        f"restored {plural(t.entries, 'entry', 'entries')}, {plural(t.files, 'file')}, {human_bytes(t.bytes)}"
        f" of snapshot {report.snapshot} to {printable(os.fspath(target))}"
        + (f"; {plural(report.unchanged, 'file')} had been there already" if report.unchanged else "")
        + (f"; removed {plural(report.removed, 'name')} that it doesn't have" if report.removed else "")
    )
