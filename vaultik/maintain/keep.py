"""Which snapshots are kept, and why. Pure: facts in, verdicts out (FORMAT.md, "What may be deleted").

Two kinds of reason:

- what the user asks for: the newest N, one an hour, day, week, month, year, all within a span of the newest. They go
  as in restic: calendar units (UTC) that have a snapshot count, the newest of each is kept, and while a rule
  has counts left the oldest snapshot is kept too. A snapshot's time is its server_time, never its id.
- what running backups need: a source's newest, and whatever was its newest at any time since the horizon
  (now less the grace), by LastModified and by id. A run that is going on may rely on any of those.

A partial snapshot fills no rule. One whose two times differ by over a day is kept and fills none either:
nobody knows which of them is true.
"""

from __future__ import annotations

import datetime
import math
from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.lease import DAY_S, HOUR_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vaultik.model import SnapshotId

UNLIMITED = -1
NEWEST = "newest"
NEAR_NEWEST = "within an hour of the newest"
NO_RULE = "no rule given"
TIMES_DIFFER = "its times differ"
_SLACK_S = HOUR_S


class Candidate(NamedTuple):
    """What the rules look at in a snapshot."""

    id: SnapshotId
    source: str
    """The source's UUID."""
    modified: float
    """LastModified of its DB."""
    server_time: float
    """What the writer took for the store's time."""
    complete: bool


class CalendarSpan(NamedTuple):
    """A span that counts in calendar units, as in `1y6m`."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def before(self, at: float) -> float:
        """Return the time that lies the span before another, both in seconds since 1970; -inf before year 1."""
        then = datetime.datetime.fromtimestamp(at, datetime.UTC)
        month = then.year * 12 + then.month - 1 - self.years * 12 - self.months
        try:
            # A day that the month hasn't runs on into the next one.
            first = then.replace(year=month // 12, month=month % 12 + 1, day=1)
            back = datetime.timedelta(days=then.day - 1 - self.days, hours=-self.hours)
            return (first + back).timestamp()
        except (ValueError, OverflowError):
            return -math.inf


class KeepRules(NamedTuple):
    """How many of each kind; 0 is no such rule, UNLIMITED all."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: CalendarSpan | None = None


class Verdict(NamedTuple):
    """What becomes of a snapshot."""

    reasons: tuple[str, ...]
    """Why it is kept; empty if the rules don't name it and it isn't a newest."""
    held_until: float | None
    """It was a newest within the grace: until when that holds it. None if it wasn't, or still is."""


def judge(snapshots: Sequence[Candidate], rules: KeepRules | None, now: float, grace_s: float) -> list[Verdict]:
    """Return a verdict for each snapshot, in their order; each source for itself.

    Args:
        snapshots: all there are, of any number of sources.
        rules: what the user asks for; None keeps all.
        now: the store's time, taken before they were listed.
        grace_s: how long a run may rely on what it found.
    """
    superseded = superseded_at(snapshots, grace_s)
    wanted: dict[int, list[str]] = defaultdict(list)
    newest: set[int] = set()
    for numbers in by_source(snapshots).values():
        newest |= {numbers[-1], max(numbers, key=lambda n: snapshots[n].id)}
        sound = [n for n in numbers if snapshots[n].complete and not times_differ(snapshots[n])]
        if rules is None:
            wanted |= {n: [NO_RULE] for n in numbers}
        else:
            _apply(snapshots, sound, rules, wanted)
    verdicts = []
    for n, snapshot in enumerate(snapshots):
        if superseded[n] == math.inf:
            # One within the slack of the newest may be the newest by a better clock.
            wanted[n].append(NEWEST if n in newest else NEAR_NEWEST)
        if times_differ(snapshot):
            wanted[n].append(TIMES_DIFFER)
        held = now - grace_s <= superseded[n] < math.inf
        verdicts.append(Verdict(tuple(wanted[n]), superseded[n] + grace_s if held else None))
    return verdicts


def superseded_at(snapshots: Sequence[Candidate], grace_s: float) -> list[float]:
    """Return for each snapshot when it was no longer its source's newest in any sense; infinity if it still is.

    Newest by LastModified ends with the first that is later by more than the slack (clocks, whole seconds),
    newest by id with the first of a greater id. So a snapshot was a newest at some time since H
    exactly if what is returned is at least H.
    """
    slack = min(_SLACK_S, grace_s)
    ends = [math.inf] * len(snapshots)
    for numbers in by_source(snapshots).values():
        times = sorted(snapshots[n].modified for n in numbers)
        by_id = math.inf
        greater = ""
        pending = math.inf
        for n in sorted(numbers, key=lambda n: snapshots[n].id, reverse=True):
            if snapshots[n].id != greater:
                by_id, greater = pending, snapshots[n].id
            later = bisect_right(times, snapshots[n].modified + slack)
            ends[n] = max(times[later] if later < len(times) else math.inf, by_id)
            pending = min(pending, snapshots[n].modified)
    return ends


def times_differ(snapshot: Candidate) -> bool:
    """Tell whether a snapshot's two times are too far apart to believe either."""
    return abs(snapshot.server_time - snapshot.modified) > DAY_S


def by_source(snapshots: Iterable[Candidate]) -> Mapping[str, list[int]]:
    """Return the places of each source's snapshots, oldest first by LastModified, then id."""
    found: dict[str, list[int]] = defaultdict(list)
    for n, snapshot in sorted(enumerate(snapshots), key=lambda item: (item[1].modified, item[1].id)):
        found[snapshot.source].append(n)
    return found


def _apply(
    snapshots: Sequence[Candidate], numbers: Iterable[int], rules: KeepRules, wanted: dict[int, list[str]]
) -> None:
    """Note the rules' reasons for the snapshots of one source."""
    newest_first = sorted(numbers, key=lambda n: (snapshots[n].server_time, snapshots[n].modified), reverse=True)
    if rules.within is not None and newest_first:
        since = rules.within.before(snapshots[newest_first[0]].server_time)
        for n in newest_first:
            if snapshots[n].server_time > since:
                wanted[n].append("within")
    for kind, left in zip(("last", *_UNITS), rules[:-1], strict=True):
        _fill(snapshots, newest_first, kind, left, wanted)


_UNITS: dict[str, Callable[[datetime.datetime], object]] = {
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: at.year,
}


def _fill(
    snapshots: Sequence[Candidate], newest_first: list[int], kind: str, left: int, wanted: dict[int, list[str]]
) -> None:
    filled = None
    for n in newest_first:
        if left == 0:
            return
        at = datetime.datetime.fromtimestamp(snapshots[n].server_time, datetime.UTC)
        unit = _UNITS[kind](at) if kind in _UNITS else n
        if unit != filled:
            wanted[n].append(kind)
        elif n == newest_first[-1]:
            wanted[n].append(f"oldest {kind}")
        else:
            continue
        filled = unit
        left -= left > 0
