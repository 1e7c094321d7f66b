"""When the daemon runs: decisions over simulated days, with clocks that sleep, stop and jump."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaultik.daemon.schedule import Intervals, Known, Moment, Rest, Run, Wait, decide, pause_after, restored

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0
DEFAULT = Intervals(HOUR, DAY, 900.0)
START = Moment(1000.0, 1.8e9)


class Machine:
    """A daemon without processes: clocks that a test moves, and runs that take and do what it says."""

    def __init__(self, intervals=DEFAULT, *, known=None, fails=lambda _number: False, takes=60.0):
        self.intervals = intervals
        self.now = START
        self.known = known or Known(doubt="the start")
        self.fails = fails
        self.takes = takes
        self.runs = []
        self.rests = []

    def pass_time(self, seconds, *, step=30.0):
        """Let time pass as the daemon lives it: it naps for half a minute at most."""
        end = self.now.boot + seconds
        while self.now.boot < end:
            decision = decide(self.known, self.now, self.intervals)
            if isinstance(decision, Run):
                self.run(decision)
            elif isinstance(decision, Rest):
                self.rests.append(self.now)
                self.known = self.known._replace(looked=self.now)
            else:
                self.move(min(max(decision.until - self.now.boot, 1e-3), step, end - self.now.boot))

    def run(self, decision):
        begun, before = self.now, self.known
        self.runs.append((begun, decision))
        self.move(self.takes)
        failed = self.fails(len(self.runs))
        self.known = before._replace(
            looked=begun,
            ended=self.now,
            asked=False,
            busy=None,
            failures=before.failures + 1 if failed else 0,
            dirty=before.dirty if failed else 0,
            doubt=before.doubt if failed or not decision.full else None,
            answered=before.doubt if decision.full and not failed else before.answered,
            full=begun if decision.full and not failed else before.full,
        )

    def move(self, boot, wall=None):
        self.now = Moment(self.now.boot + boot, self.now.wall + (boot if wall is None else wall))

    def dirty(self):
        self.known = self.known._replace(dirty=self.known.dirty + 1)

    def gaps(self):
        """Seconds between the end of each run and the start of the next."""
        starts = [begun.boot for begun, _ in self.runs]
        return [later - (earlier + self.takes) for earlier, later in itertools.pairwise(starts)]


def settled(**more):
    """A daemon that has just scanned everything."""
    return Known(looked=START, ended=START, full=START, **more)


def test_the_first_run_is_a_full_scan_and_comes_at_once():
    machine = Machine()
    machine.pass_time(1)
    assert machine.runs == [(START, Run(full=True, why="the start"))]


def test_a_daemon_that_is_started_every_minute_runs_no_more_often():
    ended, runs, now = None, [], START
    for _ in range(120):
        decision = decide(Known(doubt="the start", ended=restored(ended, now)), now, DEFAULT)
        if isinstance(decision, Run):
            runs.append(now.wall)
            ended = now.wall + 5
        now = Moment(now.boot + 60, now.wall + 60)
    assert len(runs) == 8  # two hours, a quarter of an hour and the next full minute apart
    assert all(later - earlier >= 900 for earlier, later in itertools.pairwise(runs))


def test_nothing_dirty_is_no_run_until_the_full_scan_is_due():
    machine = Machine(known=settled())
    machine.pass_time(DAY - 1)
    assert machine.runs == []
    assert len(machine.rests) == 23
    machine.pass_time(2)
    assert [decision for _, decision in machine.runs] == [Run(full=True, why="every 1 d")]


def test_it_says_when_it_rests_what_is_due_next():
    decision = decide(settled(), Moment(START.boot + HOUR, START.wall + HOUR), DEFAULT)
    assert decision == Rest("nothing changed: no run; the next full scan is due in 23 h")


def test_a_change_waits_for_the_interval_and_no_longer():
    machine = Machine(known=settled())
    machine.pass_time(100)
    machine.dirty()
    machine.pass_time(HOUR)
    ((begun, decision),) = machine.runs
    assert begun.boot - START.boot == HOUR
    assert decision == Run(full=False, why="1 dirty")


def test_a_doubt_is_answered_as_soon_as_may_be_and_one_that_stays_at_the_interval():
    machine = Machine(known=settled(doubt="the queue overflowed"))
    machine.pass_time(900 + 1)
    assert [begun.boot - START.boot for begun, _ in machine.runs] == [900]
    for _ in range(3):
        machine.known = machine.known._replace(doubt="the queue overflowed")
        machine.pass_time(HOUR)
    assert all(decision.full for _, decision in machine.runs)
    assert all(gap >= HOUR - machine.takes for gap in machine.gaps())


def test_asked_for_is_now_whatever_the_time():
    soon = Moment(START.boot + 1, START.wall + 1)
    assert decide(settled(asked=True, dirty=2), soon, DEFAULT) == Run(full=False, why="asked for; 2 dirty")
    assert decide(settled(asked=True), soon, DEFAULT) == Run(full=True, why="asked for; nothing is known to be dirty")
    assert decide(settled(asked=True, dirty=2, doubt="why not"), soon, DEFAULT).full
    assert isinstance(decide(settled(asked=True, failures=7), soon, DEFAULT), Run)


def test_a_failed_run_is_tried_again_with_growing_pauses():
    quick = Intervals(HOUR, DAY, 0.0)
    machine = Machine(quick, fails=lambda number: number < 12, takes=1.0)
    machine.pass_time(DAY / 2)
    gaps = machine.gaps()
    assert gaps[:6] == [60, 120, 240, 480, 960, 1920]
    assert set(gaps[6:11]) == {HOUR}
    assert all(decision.full for _, decision in machine.runs[:12])
    assert machine.runs[1][1].why == "again, after it failed once; the start"
    assert machine.known.failures == 0
    assert max(pause_after(failures, quick) for failures in range(1, 100_000, 777)) == HOUR


def test_pauses_are_not_shorter_than_what_lies_between_two_runs():
    machine = Machine(fails=lambda _number: True)
    machine.pass_time(DAY)
    assert machine.gaps()[:6] == [900, 900, 900, 900, 960, 1920]


def test_a_dirty_run_that_failed_is_a_dirty_run_again():
    known = settled(dirty=3, failures=2)
    later = Moment(START.boot + 900, START.wall + 900)
    assert decide(known, later, DEFAULT) == Run(full=False, why="again, after it failed 2 times; 3 dirty")


def test_another_run_that_holds_the_lock_is_waited_for_and_no_failure():
    known = settled(dirty=1)._replace(ended=None, looked=None, busy=START)
    assert decide(known, START, DEFAULT) == Wait(START.boot + 60)
    assert decide(known, Moment(START.boot + 60, START.wall + 60), DEFAULT) == Run(full=False, why="1 dirty")


def test_a_laptop_that_slept_runs_when_it_wakes():
    machine = Machine(known=settled(dirty=1))
    machine.pass_time(60)
    machine.move(8 * HOUR)
    woken = machine.now
    machine.pass_time(30)
    assert [begun for begun, _ in machine.runs] == [woken]


def test_a_virtual_machine_that_was_stopped_runs_when_it_goes_on():
    """Only the wall clock knows of the time in between."""
    machine = Machine(known=settled(dirty=1))
    machine.pass_time(1000)
    machine.move(0, 3 * DAY)
    machine.pass_time(1)
    assert [decision.full for _, decision in machine.runs] == [True]


def test_a_wall_clock_that_jumps_forwards_makes_one_run():
    machine = Machine(known=settled())
    machine.pass_time(1000)
    machine.move(0, 10 * YEAR)
    machine.pass_time(HOUR - 100)
    assert len(machine.runs) == 1


def test_a_wall_clock_that_jumps_backwards_stops_nothing():
    machine = Machine(known=settled())
    machine.move(0, -10 * YEAR)
    machine.dirty()
    machine.pass_time(HOUR + 1)
    assert [decision.full for _, decision in machine.runs] == [False]
    machine.pass_time(DAY)
    assert [decision.full for _, decision in machine.runs] == [False, True]


def test_what_was_noted_by_a_clock_that_was_wrong_is_taken_for_now():
    assert restored(START.wall + YEAR, START) == START
    assert restored(START.wall - 5, START) == Moment(START.boot - 5, START.wall - 5)
    assert restored(None, START) is None


def test_intervals_of_zero_make_no_busy_loop():
    machine = Machine(Intervals(1.0, 1.0, 0.0), known=settled(dirty=1), takes=0.5)
    for _ in range(20):
        machine.dirty()
        machine.pass_time(1)
    assert len(machine.runs) <= 21


events = st.lists(
    st.tuples(st.sampled_from(["dirty", "doubt", "sleep", "forwards", "backwards", "nothing"]), st.floats(1, 3 * DAY)),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(
    intervals=st.builds(
        Intervals,
        st.sampled_from([60.0, 1800.0, HOUR, DAY]),
        st.sampled_from([600.0, DAY, 7 * DAY]),
        st.sampled_from([0.0, 60.0, 900.0, 2 * HOUR]),
    ),
    takes=st.sampled_from([1.0, 300.0, 2 * HOUR]),
    failing=st.sets(st.integers(1, 40)),
    happenings=events,
)
@example(DEFAULT, 60.0, set(), [("dirty", 10.0), ("backwards", YEAR), ("dirty", DAY)])
def test_never_too_close_and_never_too_late(intervals, takes, failing, happenings):
    machine = Machine(intervals, fails=failing.__contains__, takes=takes)
    for what, seconds in happenings:
        if what == "dirty":
            machine.dirty()
        elif what == "doubt":
            machine.known = machine.known._replace(doubt=f"at {machine.now.boot}")
        elif what == "sleep":
            machine.move(seconds)
        elif what in ("forwards", "backwards"):
            machine.move(0, seconds * (400 if what == "forwards" else -400))
        machine.pass_time(min(seconds, 3 * HOUR), step=300.0)
    runs, longest = len(machine.runs), max(intervals.backup, intervals.least)
    machine.dirty()
    machine.fails = lambda _number: False
    machine.pass_time(longest + 300 + 1, step=300.0)
    assert len(machine.runs) > runs, "dirty, and no run within an interval"
    machine.pass_time(intervals.full_scan + longest + 300 + 2 * takes, step=300.0)
    assert machine.now.boot - machine.known.full.boot <= intervals.full_scan + longest + 300 + 3 * takes
    assert all(gap >= intervals.least - 1e-6 for gap in machine.gaps())
