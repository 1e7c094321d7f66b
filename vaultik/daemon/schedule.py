"""When to run and what to look at: a decision from what is known, and nothing else.

It knows no clock, no process and no index: whoever calls says what time it is. Two clocks are looked at.
CLOCK_BOOTTIME never jumps and counts the time asleep: no two runs are closer by it than `least`, whatever
the wall clock does. The wall clock may only make a run due earlier, once per jump: it alone knows of the
time for which a virtual machine was stopped. Set back, it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.shown import human_duration

if TYPE_CHECKING:
    from vaultik.config import Config

FIRST_PAUSE_S = 60.0
"""After a first failure, and while another run holds the lock. Doubled with each failure in a row."""

_SHORTEST_S = 1.0
"""In place of an interval of 0: a run that follows itself would never leave the processor alone."""
_MOST_DOUBLINGS = 30


class Moment(NamedTuple):
    """A time by both clocks, in seconds."""

    boot: float
    wall: float

    def until(self, now: Moment) -> float:
        """Return how much time has passed, by the clock by which it was more."""
        return max(now.boot - self.boot, now.wall - self.wall)


class Intervals(NamedTuple):
    """The config's durations, in seconds."""

    backup: float
    full_scan: float
    least: float
    """Between the end of a run and the start of the next."""

    @classmethod
    def of(cls, config: Config) -> Intervals:
        """Take them from a config; 0 stands for as often as is sensible."""
        return cls(
            max(float(config.backup_interval), _SHORTEST_S),
            max(float(config.full_scan_interval), _SHORTEST_S),
            float(config.min_time_between_run),
        )


class Known(NamedTuple):
    """What a decision depends on."""

    dirty: int = 0
    """In how many places something may have changed."""
    doubt: str | None = None
    """Why only a full scan can tell what changed, if that is so."""
    answered: str | None = None
    """The doubt that the last full scan answered: one that persists must not scan at every possible time."""
    looked: Moment | None = None
    """When the last run began, or when there was last nothing to do."""
    ended: Moment | None = None
    """When the last run ended, whatever came of it."""
    full: Moment | None = None
    """When the last full scan that succeeded began."""
    failures: int = 0
    """Of the last runs, in a row."""
    busy: Moment | None = None
    """When another process was last found to be backing up; None once a run was possible again."""
    asked: bool = False
    """Somebody wants a run now."""


class Run(NamedTuple):
    """Run now."""

    full: bool
    why: str


class Rest(NamedTuple):
    """It was time to look, and there is nothing to do."""

    why: str


class Wait(NamedTuple):
    """Nothing is due before a time by CLOCK_BOOTTIME."""

    until: float


def decide(known: Known, now: Moment, intervals: Intervals) -> Run | Rest | Wait:
    """Return what to do now.

    Guarantees: unless somebody asked, a run begins at least `least` after the end of the last one by CLOCK_BOOTTIME;
    while anything is dirty, a run begins at most `backup` after the last look, or as soon as `least`, the pause after
    a failure, or another process allow; the pause is never longer than `backup` or `least`, whichever is more.
    """
    full = _why_full(known, now, intervals)
    earliest = _earliest(known, intervals)
    if now.boot < earliest and not known.asked:
        return Wait(earliest)
    if known.asked or known.failures:
        return _run(_occasion(known), known, full)
    if full and known.doubt and known.doubt != known.answered:
        return Run(full=True, why=full)
    rest = intervals.backup - known.looked.until(now) if known.looked else 0.0
    until_full = _until_full(known, now, intervals)
    if min(rest, until_full) > 0:
        return Wait(now.boot + min(rest, until_full))
    if full or known.dirty:
        return Run(full=full is not None, why=full or f"{known.dirty:,} dirty")
    return Rest(f"nothing changed: no run; the next full scan is due in {human_duration(until_full)}")


def _why_full(known: Known, now: Moment, intervals: Intervals) -> str | None:
    if known.doubt:
        return known.doubt
    if _until_full(known, now, intervals) <= 0:
        return f"every {human_duration(intervals.full_scan)}"
    return None


def _until_full(known: Known, now: Moment, intervals: Intervals) -> float:
    return intervals.full_scan - known.full.until(now) if known.full else 0.0


def _occasion(known: Known) -> str:
    if known.asked:
        return "asked for"
    return "again, after it failed " + ("once" if known.failures == 1 else f"{known.failures:,} times")


def _run(what: str, known: Known, full: str | None) -> Run:
    if full or not known.dirty:
        return Run(full=True, why=f"{what}; {full or 'nothing is known to be dirty'}")
    return Run(full=False, why=f"{what}; {known.dirty:,} dirty")


def pause_after(failures: int, intervals: Intervals) -> float:
    """Return how many seconds lie between a failed run and the next: 60, 120, 240 ... up to the interval."""
    growing = FIRST_PAUSE_S * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
    return max(min(growing, intervals.backup), intervals.least)


def _earliest(known: Known, intervals: Intervals) -> float:
    times = []
    if known.ended:
        times.append(known.ended.boot + (pause_after(known.failures, intervals) if known.failures else intervals.least))
    if known.busy:
        times.append(known.busy.boot + min(FIRST_PAUSE_S, intervals.backup))
    return max(times, default=float("-inf"))


def restored(last: float | None, now: Moment) -> Moment | None:
    """Return a time that an earlier process noted by the wall clock; one in the future counts as now."""
    if last is None:
        return None
    age = max(now.wall - last, 0.0)
    return Moment(now.boot - age, now.wall - age)
