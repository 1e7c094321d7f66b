"""No snapshot ever breaks (P4, P8): random histories of backups, prunes, kills, clones and lost indexes, by the real code.

After every step each snapshot that stands in the store has all its blobs; in the end they come back byte for byte.
The actors take turns at every call of the store, so a prune may list before and delete after a backup's commit.
"""

import os
import shutil
import tempfile
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.faulty_store import FAULTS
from tests.support.machine import run_histories
from tests.support.world import DAY, HOUR, World
from vaultik.errors import VaultikError

EXAMPLES = 24
STEPS = 60

SPANS = [2.5 * DAY, 60.0, 5 * HOUR, DAY, 4 * DAY, 6.3 * DAY, 7.1 * DAY, 8 * DAY]
OFTEN = ["change", "back_up", "back_up_a_little", "wait", "prune", "prune_a_little"]
SELDOM = [
    "kill", "kill_prune", "save", "roll_back", "clone", "lose_index", "fail_a_put", "set_clock", "write_a_lot", "remove_a_blob",
    "remove_a_snapshot", "lag", "stand_still",
]  # fmt: skip
FAILING = [*FAULTS, *["put"] * 5, "walk", "open"]
"""Methods of the store."""


class Histories(RuleBasedStateMachine):
    """One prefix, one source or several, with clones, rolled-back machines and lost indexes."""

    sources = 1
    put_only = False
    grace = None
    copies = True
    top_rows = 4

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="history-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.world = World(self.folder, top_rows=self.top_rows)
        self._clocks = self.world.clocks()
        self._clocks.__enter__()
        self.prunes = [None, None]

    def teardown(self):
        try:
            for prune in self.prunes:
                if prune is not None:
                    prune.kill()
            for host in self.world.hosts:
                host.kill()
            self.world.lag = False
            self.world.faults.begin()
            whole = [key for key, snapshot in self.world.snapshots.items() if snapshot["complete"]]
            for key in [key for key in whole if not self.world.snapshots[key]["blobs"] & self.world.by_hand.keys()][
                -3:
            ]:
                self.world.restore(key)
        finally:
            self._clocks.__exit__(None, None, None)
            shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(coarse=st.sampled_from([0.0, 1.0, 1.0]))
    def begin(self, coarse):
        self.world.coarse = coarse
        for _ in range(self.sources):
            host = self.world.add_host(put_only=self.put_only)
            self._change(host, 1)

    @rule(what=st.sampled_from(OFTEN * 4 + SELDOM), number=st.integers(0, 7), count=st.integers(0, 7))
    def act(self, what, number, count):
        """One thing happens; the numbers say to whom, and how much."""
        getattr(self, f"_{what}")(self.world.hosts[number % len(self.world.hosts)], count)

    # -- hosts ----------------------------------------------------------------------------------------

    def _change(self, host, count):
        """A file comes, goes, or is what it was before."""
        file, version = count % 3, count % 2
        if host.is_idle and version:
            host.write(f"file {file}", 3_000, seed=f"{host.uuid} {file}")
        elif host.is_idle:
            (host.source / f"file {file}").unlink(missing_ok=True)

    def _write_a_lot(self, host, count):
        """More than one blob can hold."""
        if host.is_idle:
            host.write("large", 1_700_000, seed=f"{host.uuid} {count % 2}")

    def _back_up(self, host, _count):
        self._all(self._backup_of(host))

    def _back_up_a_little(self, host, count):
        self._some(self._backup_of(host), 1 + 2 * count)

    def _backup_of(self, host):
        return host.begin() if host.is_idle else host.actor

    def _kill(self, host, _count):
        host.kill()

    def _save(self, host, _count):
        if self.copies:
            host.save()

    def _roll_back(self, host, _count):
        if self.copies:
            host.roll_back()

    def _clone(self, host, _count):
        if self.copies and len(self.world.hosts) < self.sources + 2:
            self.world.clone(host)

    def _lose_index(self, host, _count):
        host.lose_index()

    def _set_clock(self, host, count):
        host.skew = (count - 4) * HOUR

    # -- prunes --------------------------------------------------------------------------------------------

    def _prune(self, _host, count):
        self._all(self._begin_prune(1 + count // 6))

    def _prune_a_little(self, _host, count):
        number = count % 2
        if self.prunes[number] is None or self.prunes[number].is_done:
            self.prunes[number] = self._begin_prune(1)
        self._some(self.prunes[number], 1 + count)

    def _kill_prune(self, _host, count):
        if self.prunes[count % 2] is not None:
            self.prunes[count % 2].kill()
            self.prunes[count % 2] = None

    def _begin_prune(self, keep):
        return self.world.begin_prune(grace=self.grace, last=keep)

    # -- the world -----------------------------------------------------------------------------------------

    def _wait(self, _host, count):
        self.world.pass_time(SPANS[count])

    def _stand_still(self, _host, count):
        self.world.pass_time(SPANS[count], standing_still=True)

    def _fail_a_put(self, _host, count):
        self.world.faults.begin({("put", count // 2): ["down", "down, done"][count % 2]})

    def _lag(self, _host, count):
        self.world.lag = count < 2

    def _remove_a_blob(self, _host, count):
        if self._is_quiet() and count < 3 and (blobs := sorted(self.world.blobs())):
            self.world.remove_by_hand(blobs[count % len(blobs)])

    def _remove_a_snapshot(self, _host, count):
        if self._is_quiet() and not self.put_only and (keys := sorted(self.world.snapshots)):
            self.world.remove_by_hand(keys[count % len(keys)])

    def _is_quiet(self):
        return all(host.is_idle for host in self.world.hosts)

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def every_snapshot_is_whole(self):
        self.world.check()

    def _all(self, actor):
        try:
            actor.finish()
        except VaultikError:
            """A run or a prune may fail, if only nothing breaks."""

    def _some(self, actor, steps):
        for _ in range(steps):
            if not actor.step():
                return


class PutOnly(Histories):
    """A host whose credential can only put."""

    put_only = True


class SeveralSources(Histories):
    """Two hosts in one prefix."""

    sources = 2
    top_rows = None


class Faulty(Histories):
    """Two hosts, of which one can only put, and a store to whose calls happens whatever can, lies included."""

    sources = 2
    met = Counter()

    @initialize(coarse=st.sampled_from([0.0, 1.0]))
    def begin(self, coarse):
        super().begin(coarse)
        self.world.hosts[1].put_only = True

    def teardown(self):
        Faulty.met += self.world.faults.met
        super().teardown()

    @rule(
        what=st.sampled_from(OFTEN * 4 + SELDOM + FAILING),
        number=st.integers(0, 7),
        count=st.integers(0, 7),
        then=st.sampled_from(["back_up", "prune", "wait"]),
    )
    def act(self, what, number, count, then):
        """One thing happens; or one of the store's next calls will fail, or four in a row, and something is done at once."""
        if what not in FAILING:
            super().act(what, number, count)
            return
        fault, first = FAULTS[what][count % len(FAULTS[what])], number // 2
        script = {(what, nth): fault for nth in range(first, first + (4 if number % 2 else 1))}
        self.world.faults.begin(script, seed=count)
        super().act(then, number, count)


class NoGrace(Histories):
    """`--grace 0`: no clone, no rolled-back copy, no other host, by the user's word; backups go on meanwhile."""

    grace = "0"
    copies = False


@pytest.mark.parametrize("kind", [Histories, PutOnly, SeveralSources, NoGrace])
def test_no_snapshot_ever_breaks(kind):
    run_histories(kind, examples=EXAMPLES, steps=STEPS)


def test_nor_does_one_by_a_store_that_fails():
    run_histories(Faulty, examples=EXAMPLES // 2, steps=STEPS)
    assert sum(Faulty.met.values()) > EXAMPLES, "too few faults to show anything"
    assert {method for method, _ in Faulty.met} >= {"put", "open", "walk", "children"}
