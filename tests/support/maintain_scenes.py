"""Prunes and verifications that are tried again and again."""

import re

from tests.support.faulty_store import BODIES
from tests.support.scenes import SMALL, Scene
from tests.support.world import DAY, HOUR
from vaultik.core.names import DB_SUFFIX
from vaultik.errors import PruneRefusedError


class Prune(Scene):
    """Of four snapshots the oldest goes, one went by hand and left its manifest, the two newest stay."""

    methods = frozenset({"ask_time", "open", "walk", "children", "retention", "delete"})
    kept = None

    def prepare(self):
        for day in range(3):
            self.host.write("a", SMALL + day)
            self.host.write("b", SMALL) if day else None
            self.host.backup()
            self.world.pass_time(10 * DAY)
        self.world.remove_by_hand(next(key for key in self.world.objects if key.endswith(DB_SUFFIX)))
        self.host.write("a", SMALL - 1)
        self.host.backup()
        self.world.pass_time(HOUR / 2)

    def act(self):
        return self.world.prune(last=1)

    def check(self, _freed, _error):
        # That nothing goes to which a snapshot refers is looked at by the world, key by key.
        self.world.check()
        assert (self.kept or self.world.objects).items() <= self.world.objects.items() <= self.objects.items()

    def mend(self, _freed, _error):
        try:
            self.world.prune(last=1)
        except PruneRefusedError as exc:
            # The DB of a snapshot that was deleted, as the store said, and its manifest was.
            assert "lie" in [call.fault for call in self.happened]
            (snapshot,) = re.findall("--drop ([^ ]+)", exc.hint)
            self.world.prune(last=1, drop=[snapshot])
            self.world.prune(last=1)
        self.world.check()
        assert self.world.objects == (self.kept or self.world.objects)
        assert self.world.verify(deep=True).problems == []

    def keep(self):
        assert len(self.world.objects) < len(self.objects)
        self.kept = dict(self.world.objects)


class Verify(Scene):
    """Every byte, with an identity."""

    methods = frozenset({"open", "walk", "children"})
    asked = {}

    def prepare(self):
        for name in "ab":
            self.host.write(name, SMALL)
        self.host.backup()
        self.world.pass_time(10 * DAY)
        self.host.write("b", SMALL + 1)
        self.host.backup()

    def _go_back(self):
        super()._go_back()
        for path in self.memory.parent.glob("memory*"):
            path.unlink()

    def act(self):
        return self.world.verify(self.memory, **self.asked)

    def check(self, report, error):
        assert self.world.objects == self.objects
        if error is None:
            wrong = [call for call in self.happened if call.fault in BODIES and call.is_whole]
            # Of a snapshot that is said to be gone it's the second reading that counts.
            gone = any(call.method == "head" for call in self.happened)
            assert report.problems or gone or not wrong, "it took what it read for right"
            assert self.happened or not report.problems

    def mend(self, _report, _error):
        report = self.world.verify(self.memory, **self.asked)
        assert report.problems == []
        assert report.read.objects == len(self.objects)


class VerifyBytes(Verify):
    """Without an identity."""

    asked = {"identity": False}


class VerifyDeep(Verify):
    """To the last chunk."""

    asked = {"deep": True}
