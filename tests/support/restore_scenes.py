"""Restores that are tried again and again."""

import os
import shutil
from pathlib import Path

from tests.support.scenes import Scene
from tests.support.world import DAY, read_files
from vaultik.restore.state import STATE


class Restore(Scene):
    """The newest snapshot, into an empty directory."""

    methods = frozenset({"open", "head", "walk", "children"})
    asked = {}

    def prepare(self):
        for name in "abcd":
            self.host.write(name, 20_000)
        self.host.write("large", 600_000)
        self.host.backup()
        self.world.pass_time(10 * DAY)
        self.host.write("b", 20_001)
        self.host.backup()
        self.versions = {s["id"]: s["files"] for s in self.world.snapshots.values()}

    @property
    def at(self):
        return Path(f"{self.out}{self.host.source}")

    def _go_back(self):
        super()._go_back()
        shutil.rmtree(self.out, ignore_errors=True)

    def act(self):
        return self.world.restore_into(self.out, "latest", **self.asked)

    def wanted(self, snapshot):
        return self.versions[snapshot]

    def before(self):
        return {}

    def check(self, report, error):
        assert self.world.objects == self.objects
        there = {name: data for name, data in read_files(self.at).items() if not name.startswith(".vaultik-")}
        sound = [self.before(), *map(self.wanted, self.versions)]
        for name, data in there.items():
            assert any(files.get(name) == data for files in sound), f"{name} is what it never was"
        if error is None:
            lost = {os.path.basename(os.fsdecode(path)) for path, _ in report.damaged + report.failed}
            whole = {name: data for name, data in self.wanted(report.snapshot).items() if name not in lost}
            assert whole.items() <= there.items()
            assert lost or there == whole

    def mend(self, report, error):
        if error is not None or report.may_go_on:
            report = self.world.restore_into(self.out, "latest", **self.asked)
        if report.damaged:
            # Who goes on doesn't look again at what was damaged: that takes a restore of its own.
            assert not report.may_go_on
            asked = {**self.asked, "force": True, "checksum": True}
            report = self.world.restore_into(self.out, "latest", **asked)
        assert report.damaged == report.failed == []
        assert read_files(self.at) == self.wanted(report.snapshot)
        assert STATE not in os.listdir(self.out)


class RestoreOne(Restore):
    """One small file: its bytes come by ranges."""

    asked = {"include": ["a"]}

    def wanted(self, snapshot):
        return {"a": self.versions[snapshot]["a"]}


class Update(Restore):
    """Over a tree in which a file has changed and one is missing; files that are gone from the snapshot go."""

    asked = {"force": True, "delete": True, "checksum": True}

    def before(self):
        first = next(iter(self.versions.values()))
        return {**first, "c": b"changed", "more": b"x"}

    def _go_back(self):
        super()._go_back()
        self.at.mkdir(parents=True)
        for name, data in self.before().items():
            if name != "d":
                (self.at / name).write_bytes(data)
