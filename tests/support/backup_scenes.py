"""Backups that are tried again and again."""

from io import BytesIO

from tests.support.scenes import SMALL, Scene
from tests.support.world import DAY
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_frames
from vaultik.core.names import MANIFEST_SUFFIX, parse_blob_key, parse_snapshot_key


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


def snapshots_of(report):
    """The snapshots that a verification finds something wrong with."""
    return {snapshot for problem in report.problems for snapshot in problem.snapshots}
