"""Operations that are tried again and again, each time from the same point: without faults, then with some."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tests.support.world import World
from vaultik.errors import VaultikError

SMALL = 3_000
SAYING_SO = ("down", "refused", "breaks", "some")
"""Faults whose own words are in the error that they lead to."""


@contextmanager
def scene(kind):
    """A scene of a kind, in a world of its own."""
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shm) as folder, World(folder, top_rows=4).clocks() as world:
        yield kind(world)


class Scene:
    """One operation in a world."""

    put_only = False
    methods = frozenset()
    """Of the store, that the operation must be seen to call."""

    def __init__(self, world):
        self.world = world
        self.host = world.add_host(put_only=self.put_only)
        self.out = Path(world.tmp, "out")
        self.memory = Path(world.tmp, "memory")
        self.prepare()
        self._saved = self.host.home.with_suffix(".saved")
        if self.host.state().exists():
            shutil.copytree(self.host.state(), self._saved)
        self.objects, self.snapshots, self.now = dict(world.objects), dict(world.snapshots), world.now

    def count(self):
        """Try it without faults. Returns the calls."""
        calls, faults = self._try({}, 0)
        assert faults == []
        assert {call.method for call in calls} >= self.methods
        self.keep()
        return calls

    def live(self, script, seed=0):
        """Try it with faults, look what came of it, and do it again without. Returns the faults that took place."""
        return self._try(script, seed)[1]

    def _try(self, script, seed):
        self._go_back()
        faults = self.world.faults
        faults.begin(script, seed=seed)
        result = error = None
        try:
            result = self.act()
        except VaultikError as exc:
            error = exc
        calls, self.happened = faults.calls, faults.happened
        faults.begin()
        try:
            self._check_words(error)
            self.check(result, error)
            self.mend(result, error)
        except BaseException as exc:
            exc.add_note(f"{type(self).__name__}: {self.happened}, seed {seed}; it ended with {error!r}")
            raise
        return calls, self.happened

    def _go_back(self):
        world = self.world
        # Every client of the world's bucket has this very dict.
        world.objects.clear()
        world.objects.update(self.objects)
        world.snapshots, world.by_hand, world.now = dict(self.snapshots), {}, self.now
        shutil.rmtree(self.host.state(), ignore_errors=True)
        if self._saved.exists():
            shutil.copytree(self._saved, self.host.state())

    def _check_words(self, error):
        if error is None:
            return
        assert str(error)
        assert "\n" not in f"{error} {error.hint or ''}"
        if len(self.happened) == 1 and self.happened[0].fault in SAYING_SO:
            assert "on purpose" in str(error)

    # -- what the kinds say -----------------------------------------------------------------------

    def prepare(self):
        """Bring about what the operation begins with."""

    def act(self):
        """Do what is tried. Returns what came of it."""

    def check(self, result, error):
        """Look what came of it, before anything is done again."""

    def mend(self, result, error):
        """Do it again, and look whether all is well."""

    def keep(self):
        """Remember what came of it without faults."""
