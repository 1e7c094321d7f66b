"""Operations that are tried again and again, each time from the same point: without faults, then with some."""

import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from tests.support.faulty_store import BODIES
from tests.support.world import DAY, HOUR, World, read_files
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_frames
from vaultik.core.names import DB_SUFFIX, MANIFEST_SUFFIX, parse_blob_key, parse_snapshot_key
from vaultik.errors import PruneRefusedError, VaultikError
from vaultik.restore.state import STATE

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


# -- backups ----------------------------------------------------------------------------------------------------


class FirstBackup(Scene):
    """The first one of a host."""

    methods = frozenset({"ask_time", "put", "head", "walk", "children"})

    def prepare(self):
        for name in "abc":
            self.host.write(name, SMALL)

    def act(self):
        self.listed = 0
        try:
            return self.host.backup()
        finally:
            self.listed = self.host.listed

    def check(self, result, error):
        world = self.world
        assert self.objects.items() <= world.objects.items()
        world.check()
        self.put = world.snapshots.keys() - self.snapshots.keys()
        self.lies = self._trusted_last()
        self.has_lied = bool(world.by_hand)
        assert len(self.put) <= 1 or self.has_lied
        if error is None and not self.lies:
            (new,) = (key for key in self.put if world.snapshots[key]["id"] == result.snapshot)
            self._check_newest(new)
            # What the run itself found broken it made anew.
            self.put.remove(new)

    def mend(self, _result, error):
        world = self.world
        new = self._back_up()
        report = world.verify(deep=True)
        self._check_report(report, error, new)
        if self.put_only and (blobs := [blob for p in report.problems if (blob := parse_blob_key(p.key))]):
            # Who lists nothing has to be told.
            new = self._back_up(heal=blobs)
            report = world.verify(deep=True)
            assert world.snapshots[new]["id"] not in snapshots_of(report)
        world.check()
        self._check_newest(new)
        assert [path for path in self.host.config().spool_dir.rglob("*") if path.is_file()] == []
        if not self.lies and "late" not in [call.fault for call in self.happened]:
            self._check_once()

    def _check_once(self):
        """What was stored was not stored again: no two blobs hold the same."""
        held = []
        for key in self.world.blobs():
            data, _ = self.world.objects[key]
            held.append(b"".join(decode_frames(open_stream(BytesIO(data), [self.world.identity]), size_limit=1 << 20)))
        assert len(set(held)) == len(held)

    def _back_up(self, **options):
        before = set(self.world.snapshots)
        self.host.backup(**options)
        (new,) = self.world.snapshots.keys() - before
        return new

    def _check_newest(self, key):
        assert self.world.snapshots[key]["complete"]
        assert self.world.restored(key) == self.host.files

    def _trusted_last(self):
        """What the store lied about behind the run's last look at it: no run looks for its manifest."""
        lies = self.world.by_hand.items()
        return [key for key, at in lies if self.put_only or at > self.listed or key.endswith(MANIFEST_SUFFIX)]

    def _check_report(self, report, error, new):
        """A verification finds nothing wrong but what the store lied about, and that it names."""
        ids = {self.world.snapshots[key]["id"] for key in self.put | ({new} if self.put_only else set())}
        assert snapshots_of(report) <= ids
        assert self.has_lied or report.problems == []
        for key in self.lies if error is None else []:
            assert self._is_named(key, report, ids)

    def _is_named(self, key, report, ids):
        name = parse_snapshot_key(key)
        if name is None:
            # Of a snapshot without its manifest only that is said.
            needed_by = {s["id"] for s in self.world.snapshots.values() if key in s["blobs"]}
            return key in [problem.key for problem in report.problems] or needed_by <= snapshots_of(report)
        if name.kind == "manifest":
            return name.snapshot not in ids or name.snapshot in snapshots_of(report)
        has_manifest = any(f"{name.snapshot}." in stored for stored in self.world.objects)
        return not has_manifest or any(name.snapshot in note for note in report.notes)


class Backup(FirstBackup):
    """One more: what changed since goes into blobs, and its rows into a layer over those of the first."""

    pause = 10 * DAY

    def prepare(self):
        super().prepare()
        self.host.backup()
        self.world.pass_time(self.pause)
        self.host.write("b", SMALL + 1)
        self.host.write("d", SMALL)
        (self.host.source / "c").unlink()


class PutOnlyBackup(Backup):
    """The same by a credential that can only put, while its base can be relied on."""

    put_only = True
    pause = DAY
    methods = frozenset({"ask_time", "put"})


class EarlyBackup(Backup):
    """One so soon after another that a late listing shows nothing of that."""

    def prepare(self):
        super().prepare()
        self.host.backup()
        self.host.write("e", SMALL)


# -- restores ---------------------------------------------------------------------------------------------------


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


# -- prunes -----------------------------------------------------------------------------------------------------


class Prune(Scene):
    """Of four snapshots the oldest goes, one went by hand and left its manifest, the two newest stay."""

    methods = frozenset({"ask_time", "open", "walk", "children", "delete"})
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


# -- verifications ----------------------------------------------------------------------------------------------


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


SCENES = [
    FirstBackup, Backup, PutOnlyBackup, EarlyBackup, Restore, RestoreOne, Update, Prune, Verify, VerifyBytes, VerifyDeep,
]  # fmt: skip


def snapshots_of(report):
    """The snapshots that a verification finds something wrong with."""
    return {snapshot for problem in report.problems for snapshot in problem.snapshots}
