"""Partial snapshots never make up content: random histories of hard links, changes, kills and runs that go on for days.

In every snapshot a name has what it was when the run looked or since, or, in a partial one, what it once was,
marked stale; or it isn't there. A complete one gives back every name byte for byte, and the links between them.
"""

import collections
import itertools
import os
import shutil
import tempfile
import time

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.machine import HISTORIES, run_histories
from tests.support.world import DAY, World
from vaultik.backup import plan, read
from vaultik.index import bundles
from vaultik.model import Mark

EXAMPLES = int(HISTORIES or 12)
STEPS = 60

NAMES = "abcdefgh"
OFTEN = ["link", "link", "replace", "write", "unlink", "back_up", "back_up_for_days", "back_up_for_days"]
SELDOM = ["move", "close", "open_all", "kill", "wait", "back_up_a_little", "back_up_a_little"]

_LONGEST_TICK_S = 0.01
"""Two changes of a file within one tick of the kernel's clock can have the same ctime."""


def _open_or_not(open_it, closed):
    """Give the reader's own way to open a file, but for names that nobody may open."""

    def open_(reader, parent, name):
        if os.fsdecode(name) in closed:
            raise PermissionError(13, "Permission denied")
        return open_it(reader, parent, name)

    return open_


class PartialHistories(RuleBasedStateMachine):
    """One host with a few files, whose names part and come together."""

    partial = 0
    stale = 0

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="history-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.world = World(self.folder, top_rows=4)
        self._clocks = self.world.clocks()
        self._clocks.__enter__()
        self.host = self.world.add_host()
        self.source = self.host.source
        self.sizes = itertools.count(1_000)
        self.been = collections.defaultdict(set)
        self.since = {}
        self.closed = set()
        self.is_quiet = True
        self.checked = set()
        self._open = read.BundleReader._open
        read.BundleReader._open = _open_or_not(self._open, self.closed)
        for name in NAMES:
            self._replace(name, name)
        self.host.backup()

    def teardown(self):
        try:
            self._all()
            self.every_name_has_what_it_had()
            self._open_all()
            self._begin()
            self._all()
            self.every_name_has_what_it_had()
            assert self.world.restored(list(self.world.snapshots)[-1]) == self.host.files
        finally:
            read.BundleReader._open = self._open
            self._clocks.__exit__(None, None, None)
            shutil.rmtree(self.folder, ignore_errors=True)

    @rule(what=st.sampled_from(OFTEN * 2 + SELDOM), one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def act(self, what, one, other):
        """One thing happens to one name, or to two."""
        getattr(self, f"_{what}")(one, other)

    # -- changes ----------------------------------------------------------------------------------

    def _write(self, one, _other):
        """Through one name, seen by all; not during a run: what a name that was replaced since the scan was is read then."""
        path = self.source / one
        if path.exists() and self.host.is_idle:
            self._changes()
            self.host.write(one, next(self.sizes))
            self._note()

    def _replace(self, one, _other):
        self._changes()
        self.host.write("new", next(self.sizes))
        (self.source / "new").rename(self.source / one)
        self._note()

    def _link(self, one, other):
        if (self.source / one).exists():
            self._changes()
            os.link(self.source / one, self.source / "new")
            (self.source / "new").rename(self.source / other)
            # Two names of one file: rename does nothing.
            (self.source / "new").unlink(missing_ok=True)
            self._note()

    def _move(self, one, other):
        if (self.source / one).exists():
            self._changes()
            (self.source / one).rename(self.source / other)
            self._note()

    def _unlink(self, one, _other):
        self._changes()
        (self.source / one).unlink(missing_ok=True)

    def _close(self, one, _other):
        self.is_quiet = False
        self.closed.add(one)

    def _open_all(self, *_):
        self.is_quiet = False
        self.closed.clear()

    def _changes(self):
        self.is_quiet = False
        time.sleep(_LONGEST_TICK_S)

    def _note(self):
        for name, data in self.host.files.items():
            self.been[name].add(data)
            self.since.setdefault(name, set()).add(data)

    # -- runs -------------------------------------------------------------------------------------

    def _begin(self):
        if self.host.is_idle:
            self.every_name_has_what_it_had()
            time.sleep(_LONGEST_TICK_S)
            self.since = {name: {data} for name, data in self.host.files.items()}
            self.is_quiet = not self.closed
            self.host.begin()

    def _back_up(self, *_):
        self._begin()
        self._all()

    def _back_up_a_little(self, one, _other):
        self._begin()
        for _ in range(1 + 2 * NAMES.index(one)):
            if not self.host.actor.step():
                return

    def _back_up_for_days(self, one, _other):
        """Till something is stored and a partial snapshot is due, and on from there."""
        self._begin()
        before = len(self.world.blobs())
        while len(self.world.blobs()) == before and self.host.actor.step():
            pass
        self._wait()
        self._back_up_a_little(one, one)

    def _all(self):
        if not self.host.is_idle:
            self.host.actor.finish()

    def _kill(self, *_):
        self.host.kill()

    def _wait(self, *_):
        self.world.pass_time(4 * DAY)

    # -- what must hold -----------------------------------------------------------------------------

    @invariant()
    def every_name_has_what_it_had(self):
        self.world.check()
        for key in [key for key in self.world.snapshots if key not in self.checked]:
            self.checked.add(key)
            rows = self.world.rows(
                key, "SELECT CAST(name AS TEXT), marks, coalesce(hardlink, id) FROM entries WHERE type = 'f'"
            )
            marks = {name: mark for name, mark, _ in rows}
            restored = self.world.restored(key)
            for name, data in restored.items():
                assert data in self.been[name], f"{name} never was that"
                assert marks[name] & Mark.STALE or data in self.since[name], f"{name} was that long ago"
            if not self.world.snapshots[key]["complete"]:
                PartialHistories.partial += 1
                PartialHistories.stale += any(mark & Mark.STALE for mark in marks.values())
            elif self.is_quiet:
                assert restored == self.host.files
                inodes = {name: (self.source / name).stat().st_ino for name in restored}
                for (one, _, group), (other, _, its_group) in itertools.combinations(rows, 2):
                    assert (group == its_group) == (inodes[one] == inodes[other]), (one, other)


def test_a_partial_snapshot_never_makes_up_content(monkeypatch):
    monkeypatch.setattr(bundles, "BUNDLES_PER_WAVE", 1)
    monkeypatch.setattr(plan, "PIECES_PER_BUNDLE", 1)
    run_histories(PartialHistories, examples=EXAMPLES, steps=STEPS)
    assert PartialHistories.partial > EXAMPLES // 4, "too few partial snapshots to show anything"
    assert PartialHistories.stale > EXAMPLES // 8
