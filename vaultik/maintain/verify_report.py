"""What a verification came to, in the forms in which it is shown and sent."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.names import BLOBS_PREFIX
from vaultik.shown import human_bytes, plural, printable
from vaultik.snapshot.find import when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.maintain.findings import HitFiles, Problem
    from vaultik.maintain.plan import Tally

_FILES_NAMED = 20
_SNAPSHOTS_NAMED = 5
_HEAL = "what --json says of this, `vaultik backup CONFIG --heal FILE` takes on the host: what its sources still have is stored anew"


class VerifyReport(NamedTuple):
    """What a verification came to."""

    location: str
    deep: bool
    has_surveyed: bool
    """Whether an identity opened the manifests."""
    snapshots: int
    blobs: Tally
    """What is stored below blobs/, of what was asked for."""
    read: Tally
    """What was read and right, snapshots' own objects included."""
    before: Tally
    """What of that had been read before this verification was broken off."""
    unread: Tally
    """Blobs that no verification has read yet."""
    oldest: float | None
    """When the blob that has gone unread for longest was read, by this machine's clock."""
    problems: list[Problem]
    notes: list[str]
    files: list[HitFiles]


def lines(report: VerifyReport) -> Iterator[str]:
    """Yield what is wrong, and whose it is; then what a person should know besides."""
    for problem in report.problems:
        yield f"{problem.kind}: {printable(problem.key)}: {printable(problem.text)}"
        if problem.snapshots and not any(snapshot in problem.key for snapshot in problem.snapshots):
            yield f"    needed by {_named(problem.snapshots, problem.snapshot_count)}"
        elif report.has_surveyed and problem.key.startswith(BLOBS_PREFIX):
            yield "    needed by no snapshot; a prune frees it in time"
    for (files, paths), alike in groupby(report.files, key=lambda hit: (hit.files, hit.paths)):
        yield from _hit([hit.snapshot for hit in alike], files, paths, deep=report.deep)
    yield from (f"note: {printable(note)}" for note in report.notes)
    if any(p.key.startswith(BLOBS_PREFIX) and (p.snapshots or not report.has_surveyed) for p in report.problems):
        yield f"  hint: {_HEAL}"


def _hit(snapshots: list[str], files: int, paths: list[bytes], *, deep: bool) -> Iterator[str]:
    """Yield which files of one snapshot, or of several the same, are hit."""
    whose = f"snapshot {snapshots[0]}" if len(snapshots) == 1 else f"snapshots {_named(snapshots, len(snapshots))}"
    what = "can't be brought back whole" if deep else "need something of these blobs (--deep tells which are lost)"
    yield f"{whose}: {plural(files, 'file')} of {'it' if len(snapshots) == 1 else 'each'} {what}:"
    yield from (f"    {printable(path)}" for path in paths[:_FILES_NAMED])
    if files > _FILES_NAMED:
        yield f"    and {files - _FILES_NAMED:,} more; --json names {len(paths):,}"


def summary(report: VerifyReport) -> str:
    """Return what was verified, in two lines, and how many problems there are."""
    stored = f"{plural(report.snapshots, 'snapshot')}, {_amount(report.blobs, 'blob')} in {printable(report.location)}"
    if report.has_surveyed and not report.problems:
        stored += ": every blob that they name is stored, with its size"
    elif not report.has_surveyed:
        stored += "; not all lists of blobs could be opened: whether one is missing can't be told"
    read = f"{'read to the last chunk' if report.deep else 'read'}: {_amount(report.read, 'object')}"
    if report.before.objects:
        read += f", {report.before.objects:,} of them before it was interrupted"
    if report.unread.objects:
        read += f"; never read yet: {_amount(report.unread, 'blob')}"
    elif report.oldest is not None:
        read += f"; every blob was read since {when(report.oldest)[:10]}"
    return "\n".join([stored, read, *([plural(len(report.problems), "problem")] if report.problems else [])])


def _amount(tally: Tally, what: str) -> str:
    return f"{plural(tally.objects, what)} ({human_bytes(tally.bytes)})"


def _named(snapshots: list[str], count: int) -> str:
    shown, more = snapshots[-_SNAPSHOTS_NAMED:], count - _SNAPSHOTS_NAMED
    return ", ".join(shown) + (f" and {more:,} older" if more > 0 else "")
