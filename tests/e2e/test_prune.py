"""P8: prune frees what nobody needs, and nothing else: by the rules, in its order, or not at all.

Stores with weeks behind them are written by tests/support/history; what is restored comes from real backups.
"""

import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time

import pytest

from tests.conftest import make_site
from tests.support.history import DAY, UUID, History
from tests.support.memory_store import MemoryStore
from tests.support.site import Site
from tests.support.tree import describe, edit_tree, make_tree
from vaultik.core.identity import generate
from vaultik.core.ids import source8
from vaultik.errors import PruneRefusedError, StoreError
from vaultik.maintain.prune import BLOBS, MANIFESTS, SNAPSHOTS, STEPS, PruneSession
from vaultik.maintain.request import parse_request
from vaultik.secrets import load_identities
from vaultik.store.local import LocalStore

OTHER = "0b9d4a52-7a0e-4f4e-8a5e-9d8c7b6a5f4e"


@pytest.fixture
def local(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def history(local):
    return History(local)


def prune(site, *arguments, code=0, **kwargs):
    """Prune by the command line; returns what it says in JSON."""
    done = site.run("prune", *site.where, "--json", *arguments, code=code, **kwargs)
    return json.loads(done.stdout)


def refused(site, history, words, *arguments, code=1, **kwargs):
    """Prune, expect it to refuse in one line and a hint and to delete nothing; returns the hint."""
    before = history.keys()
    done = site.run("prune", *site.where, *arguments, code=code, **kwargs)
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("vaultik: ")
    assert lines[1].startswith("  hint: ")
    assert re.search(words, lines[0]), lines[0]
    assert done.stdout == ""
    assert history.keys() == before
    return lines[1]


def write_key(path, text):
    path.write_text(text)
    path.chmod(0o600)


def fates(said):
    return {fate["snapshot"]: fate["fate"] for fate in said["fates"]}


def session(site, store=None, **keep):
    make = store or (lambda: LocalStore(site.store, site.bucket, site.prefix))
    return PruneSession(make, load_identities(site.key), parse_request(keep))


class TestTheRule:
    def test_the_default_keeps_the_newest_and_what_was_one_within_a_week(self, local, history):
        old, older = history.snapshot(20, ["a", "b"]), history.snapshot(30, ["a"])
        before, within, newest = (history.snapshot(days, names) for days, names in ((9, "bc"), (3, "cd"), (0, "de")))
        said = prune(local)
        assert fates(said) == {older: "drop", old: "drop", before: "hold", within: "hold", newest: "keep"}
        until = {fate["snapshot"]: fate["until"] for fate in said["fates"]}
        assert until[before] == pytest.approx(history.now + 4 * DAY, abs=2)
        assert until[within] == pytest.approx(history.now + 7 * DAY, abs=2)
        assert history.snapshots() == sorted([before, within, newest])
        assert history.blobs(*"abcde") == set("bcde")
        assert len([key for key in history.keys() if ".manifest." in key]) == 3  # noqa: SIM118 - a method of ours
        assert said["freed"] == said["doomed"]
        assert prune(local)["bytes_freed"] == 0

    def test_rules(self, local, history):
        daily = [history.snapshot(days + 0.5, [f"day {days}"]) for days in range(20)]
        assert sorted(s for s, fate in fates(prune(local, "--keep-daily", "12")).items() if fate != "drop") == sorted(
            daily[:12]
        )
        prune(local, "--keep-within", "8d12h")
        assert history.snapshots() == sorted(daily[:9])
        assert history.blobs(*(f"day {n}" for n in range(20))) == {f"day {n}" for n in range(9)}

    def test_rules_go_per_source(self, local, history):
        other = History(local, OTHER, "web-2")
        mine, theirs = history.snapshot(40), other.snapshot(50)
        history.snapshot(60)
        other.snapshot(70)
        prune(local, "--keep-last", "1")
        assert history.snapshots() == sorted([mine, theirs])

    def test_a_partial_snapshot_fills_no_rule(self, local, history):
        whole = history.snapshot(30, ["a"])
        partial = [history.snapshot(days, ["b"], complete=False) for days in (29, 28, 1)]
        prune(local)
        assert history.snapshots() == sorted([whole, *partial[1:]])

    def test_times_that_differ_are_kept_and_told(self, local, history):
        odd = history.snapshot(30, ["a"], server_time=history.now - 90 * DAY)
        history.snapshot(25)
        history.snapshot(20)
        said = prune(local)
        assert {f["snapshot"]: f["reasons"] for f in said["fates"]}[odd] == ["its times differ"]
        assert odd in history.snapshots()

    def test_blobs_in_no_snapshot_go_when_they_are_older_than_the_grace(self, local, history):
        history.snapshot(1, ["kept"])
        history.blob("old", 7.1)
        history.blob("young", 6.9)
        said = prune(local)
        assert history.blobs("kept", "old", "young") == {"kept", "young"}
        (held,) = said["held"]
        assert (held["blobs"], held["until"]) == (1, pytest.approx(history.now + 0.1 * DAY, abs=2))

    def test_manifests_without_a_db_go_alike(self, local, history):
        kept = history.snapshot(1)
        for days in (8, 6):
            history.of(history.snapshot(days)).unlink()
        prune(local)
        assert history.snapshots() == [kept]
        assert len(history.keys()) == 3

    def test_a_longer_grace(self, local, history):
        snapshots = [history.snapshot(days) for days in (40, 25, 12, 0)]
        prune(local, "--grace", "20d")
        assert history.snapshots() == sorted(snapshots[1:])

    def test_a_shorter_grace(self, local, history):
        snapshots = [history.snapshot(days, [str(days)]) for days in (6, 4, 1)]
        prune(local, "--grace", "2d")
        assert history.snapshots() == sorted(snapshots[1:])
        prune(local, "--grace", "0")
        assert history.snapshots() == snapshots[2:]
        assert history.blobs("6", "4", "1") == {"1"}

    def test_with_a_shorter_grace_blobs_newer_than_any_source_s_newest_stay(self, local, history):
        other = History(local, OTHER)
        history.snapshot(3, ["mine"])
        other.snapshot(1, ["theirs"])
        history.blob("before", 4)
        history.blob("between", 2)
        said = prune(local, "--grace", "0", "--exclusive")
        assert history.blobs("before", "between", "mine", "theirs") == {"between", "mine", "theirs"}
        assert [held["until"] for held in said["held"]] == [None]

    def test_what_a_dropped_snapshot_shares_with_a_kept_one_stays(self, local, history):
        history.snapshot(30, ["shared", "own", "middle"])
        history.snapshot(20, ["own", "middle"])
        history.snapshot(15, ["shared", "middle"])
        prune(local)
        assert history.blobs("shared", "own", "middle") == {"shared", "middle"}

    def test_a_dry_run_deletes_nothing(self, local, history):
        history.snapshot(30, ["a"])
        history.snapshot(20, ["b"])
        before = history.keys()
        said = prune(local, "--dry-run")
        assert said["freed"] is None
        assert said["doomed"]["snapshots"]["objects"] == said["doomed"]["blobs"]["objects"] == 1
        assert "would free: " in local.run("prune", *local.where, "--dry-run").stdout
        assert history.keys() == before

    def test_what_it_says(self, local, history):
        drop, hold, keep = history.snapshot(30, ["a"]), history.snapshot(9, ["b"]), history.snapshot(1, ["c"])
        done = local.run("prune", *local.where)
        assert re.search(rf"drop  {drop}  \S+ \S+ UTC  web-1$", done.stdout, re.MULTILINE)
        assert re.search(
            rf"hold  {hold} .* until \S+ \S+ UTC: was the newest within the grace$", done.stdout, re.MULTILINE
        )
        assert re.search(rf"keep  {keep} .* last, newest$", done.stdout, re.MULTILINE)
        assert re.search(
            r"^freed: .*: 1 snapshot, 1 blob; still held: 6 B, until \S+ \S+ UTC$", done.stdout, re.MULTILINE
        )
        assert done.stderr == ""
        assert local.run("prune", *local.where, "--quiet").stdout == ""


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    st = path.stat()
    path.write_bytes(data)
    os.utime(path, (st.st_mtime,) * 2)


def damage_db(_site, history, broken):
    flip(history.of(broken))


def damage_manifest(_site, history, broken):
    flip(history.of(broken, "manifest"))


def lose_manifest(_site, history, broken):
    history.of(broken, "manifest").unlink()


def cut_db(_site, history, broken):
    path = history.of(broken)
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "DB damaged": (damage_db, "its bytes are not what its name says"),
    "DB of another size": (cut_db, "it and the DB disagree"),
    "manifest damaged": (damage_manifest, "its bytes are not what its name says"),
    "manifest missing": (lose_manifest, "manifest of .*: missing"),
}
WRITTEN_WRONG = {
    "manifest of an unknown format": ({"manifest": {"format": 2}}, "format 2"),
    "manifest that is none": ({"text": lambda _line: b"no manifest\n"}, "not a JSON object"),
    "DB of an unknown format": ({"db": {"format": 2}}, "'2' of kind 'full'"),
    "DB of an unknown kind": ({"db": {"kind": "delta"}}, "of kind 'delta'"),
    "DB of another snapshot": ({"db": {"snapshot": "20260101T000000Z-00000000"}}, "holds the DB of 20260101"),
    "DB of another time": ({"db": {"server_time": 1.0}}, "disagree .server_time."),
    "DB with a blob more": ({"db": {"blobs": [("11" * 32, 5), ("22" * 32, 7)]}}, "disagree .a blob."),
    "DB with a blob less": ({"db": {"blobs": []}}, "disagree .a blob."),
    "DB with a blob of another size": (
        {"manifest": {"blobs": (("11" * 32, 5),)}, "db": {"blobs": [("11" * 32, 6)]}},
        "disagree .a blob.",
    ),
    "manifest of another DB": ({"manifest": {"dbs": (("index/x", 5),)}}, "dbs"),
    "manifest of another source": ({"source": OTHER}, "another source"),
    "manifest that names a blob twice": ({"manifest": {"blobs": (("11" * 32, 5),) * 2}}, "ascend"),
}


class TestRefusals:
    """Each with its way out."""

    @pytest.mark.parametrize("what", DAMAGE)
    def test_a_snapshot_that_can_not_be_read(self, local, history, what):
        damage, words = DAMAGE[what]
        broken, kept = history.snapshot(30, ["a"]), history.snapshot(20, ["b"])
        damage(local, history, broken)
        hint = refused(local, history, f"{broken}: .*{words}|{words}")
        assert f"--drop {broken}" in hint
        prune(local, "--drop", broken)
        assert history.snapshots() == [kept]
        assert history.blobs("a", "b") == {"b"}
        assert len(history.keys()) == 3

    @pytest.mark.parametrize("what", WRITTEN_WRONG)
    def test_a_snapshot_that_is_written_wrong(self, local, history, what):
        changes, words = WRITTEN_WRONG[what]
        kept = history.snapshot(20, ["b"])
        broken = history.snapshot(30, ["a"], **changes)
        hint = refused(local, history, words)
        assert f"--drop {broken}" in hint
        prune(local, "--drop", broken)
        assert history.snapshots() == [kept]

    def test_several_are_counted_and_named(self, local, history):
        broken = [history.snapshot(30 + n) for n in range(3)]
        history.snapshot(1)
        for snapshot in broken:
            lose_manifest(local, history, snapshot)
        hint = refused(local, history, r"missing \(and 2 more like it\)")
        assert all(f"--drop {snapshot}" in hint for snapshot in broken)

    def test_no_snapshot(self, local, history):
        history.blob("a", 30)
        hint = refused(local, history, f"no snapshot in file://{local.store} vault host/")
        assert "prefix" in hint

    @pytest.mark.parametrize(
        "key", ["index/notes.txt", "stray", "blobs/stray", "blobs/aa/bb/" + "cc" * 32, "blobs-old/x"]
    )
    def test_a_key_that_is_not_known(self, local, history, key):
        history.snapshot(30, ["a"])
        history.snapshot(20, ["b"])
        history.put(history.root / key, b"whose is it?", 30)
        assert "move it out of there" in refused(local, history, f"^vaultik: {key}: not something that vaultik stores")
        (history.root / key).unlink()
        prune(local)

    def test_a_prefix_above_the_one_that_is_meant(self, local, history):
        history.snapshot(30, ["a"])
        done = local.run("prune", "--endpoint", local.endpoint, local.bucket, "", code=1)
        assert "host/blobs/" in done.stderr

    def test_a_prefix_below_the_one_that_is_meant(self, local, history):
        snapshot = history.snapshot(30, ["a"])
        history.snapshot(20, ["b"])
        done = local.run("prune", "--endpoint", local.endpoint, local.bucket, f"{local.prefix}index/", code=1)
        assert f"manifest of {snapshot}: says that the DB is index/" in done.stderr
        assert "is PREFIX the one that the backups use?" in done.stderr
        assert "--drop" not in done.stderr

    @pytest.mark.parametrize("kind", ["sqlite", "manifest"])
    def test_a_second_object_of_a_snapshot(self, local, history, kind):
        snapshot = history.snapshot(30)
        history.snapshot(20)
        second = history.root / f"index/{history.source8}/{snapshot}.{'00' * 32}.{kind}.zst.age"
        history.put(second, b"forged", 1)
        hint = refused(local, history, f"{'00' * 32}.{kind}.zst.age: a second object")
        assert "by hand" in hint
        second.unlink()
        prune(local)

    @pytest.mark.parametrize("what", ["blob", "snapshot"])
    def test_a_time_in_the_future(self, local, history, what):
        snapshot = history.snapshot(1, ["a"])
        path = history.blob_path("a") if what == "blob" else history.of(snapshot)
        os.utime(path, (history.now + 7200,) * 2)
        refused(local, history, f"{path.name}: stored in the future")
        os.utime(path, (history.now + 1800,) * 2)
        prune(local)

    def test_a_blob_that_is_missing(self, local, history):
        broken, kept = history.snapshot(3, ["a", "b"]), history.snapshot(1, ["b"])
        history.blob_path("a").unlink()
        hint = refused(local, history, f"snapshot {broken}: 1 of its blobs missing")
        assert f"--drop {broken}" in hint
        prune(local, "--drop", broken)
        assert history.snapshots() == [kept]

    def test_a_blob_of_another_size(self, local, history):
        broken = history.snapshot(3, ["a"])
        history.put(history.blob_path("a"), b"short", 3)
        refused(local, history, f"snapshot {broken}: 1 of its blobs missing or of another size")

    def test_a_missing_blob_of_a_snapshot_that_goes_anyway_is_no_reason(self, local, history):
        history.snapshot(30, ["a", "b"])
        kept = history.snapshot(20, ["b"])
        history.blob_path("a").unlink()
        prune(local)
        assert history.snapshots() == [kept]

    def test_the_newest_snapshot_has_shrunk(self, local, history):
        good, shrunk = (
            history.snapshot(3, ["a"], entries=100, bytes=1000),
            history.snapshot(1, [], entries=49, bytes=900),
        )
        hint = refused(local, history, f"snapshot {shrunk} of web-1: under half of {good}")
        assert "--allow-shrink" in hint
        assert f"--drop {shrunk}" in hint
        prune(local, "--allow-shrink")
        prune(local, "--drop", shrunk)
        assert history.snapshots() == [good]

    def test_the_last_good_one_before_a_shrink_would_go(self, local, history):
        history.snapshot(40, ["a"], bytes=1000)
        for days in (30, 20, 10):
            history.snapshot(days, [], bytes=400)
        refused(local, history, "under half of")
        prune(local, "--keep-last", "4")
        prune(local, "--allow-shrink")
        assert len(history.snapshots()) == 1

    def test_a_later_one_that_is_as_great_again_ends_that(self, local, history):
        history.snapshot(40, ["a"], bytes=1000)
        history.snapshot(30, [], bytes=400)
        last = history.snapshot(20, ["a"], bytes=900)
        prune(local)
        assert history.snapshots() == [last]

    def test_all_that_shrank_are_named(self, local, history):
        history.snapshot(40, ["a"], bytes=1000)
        small = [history.snapshot(days, [], bytes=400) for days in (30, 20)]
        hint = refused(local, history, "under half of")
        assert " ".join(f"--drop {name}" for name in small) in hint

    def test_half_is_not_under_half_and_a_partial_one_does_not_count(self, local, history):
        history.snapshot(3, entries=100, bytes=1000)
        history.snapshot(2, entries=50, bytes=500)
        history.snapshot(1, entries=1, bytes=1, complete=False)
        prune(local)

    def test_a_short_grace_with_several_sources(self, local, history):
        other = History(local, OTHER)
        kept = [history.snapshot(1), other.snapshot(1)]
        history.snapshot(2)
        hint = refused(local, history, rf"2 sources .*{history.source8}", "--grace", "6d")
        assert "--exclusive" in hint
        prune(local, "--grace", "7d")
        prune(local, "--grace", "0", "--exclusive")
        assert history.snapshots() == sorted(kept)

    def test_a_first_backup_of_another_source_that_has_only_its_manifest_counts(self, local, history):
        history.snapshot(1)
        other = History(local, OTHER)
        other.of(other.snapshot(0)).unlink()
        refused(local, history, "2 sources", "--grace", "0")

    def test_the_clock_of_this_machine(self, local):
        for off, word in ((-7200, "ahead of"), (7200, "behind")):
            store = MemoryStore("host/", clock=lambda off=off: time.time() + off)
            planned = session(local, lambda store=store: store)
            with pytest.raises(PruneRefusedError, match=f"this machine's clock is 2.0 h {word} the store's"):
                planned.plan()
            planned.remove()

    def test_wrong_identities(self, local, history, tmp_path):
        history.snapshot(1)
        wrong, recipient = generate()
        write_key(tmp_path / "wrong", wrong)
        hint = refused(local, history, "the identity opens none", "--identity", tmp_path / "wrong", code=2)
        assert "audit_recipient" in hint
        other = History(local, OTHER)
        other.recipient = recipient
        foreign = other.snapshot(1)
        hint = refused(local, history, f"manifest of {foreign}: .*opens none")
        assert f"of source {source8(OTHER)}: give that identity too" in hint
        assert "--drop" not in hint
        write_key(tmp_path / "both", f"{wrong}\n{local.identity}\n")
        prune(local, "--identity", tmp_path / "both")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--keep-daily", "none"], "--keep-daily none: not a number"),
            (["--keep-within", "3w"], "--keep-within 3w: not a span"),
            (["--grace", "soon"], "--grace soon: not a duration"),
            (["--exclusive"], "--exclusive: goes with --grace"),
            (["--drop", "2019"], "snapshot '2019': there is none"),
            (["--drop", "20"], "snapshot '20': several fit"),
            (["--drop", ""], "--drop: names nothing"),
            (["--forget-source", "00000000"], "source '00000000': there is none"),
        ],
    )
    def test_usage(self, local, history, arguments, words):
        history.snapshot(2)
        history.snapshot(1)
        refused(local, history, words, *arguments, code=2)


class TestGivingUp:
    def test_a_readable_snapshot_that_the_grace_would_hold_keeps_its_blobs_once(self, local, history):
        kept, given = history.snapshot(9, ["a"]), history.snapshot(8, ["a", "b"])
        said = prune(local, "--drop", given[:-2])
        assert history.snapshots() == [kept]
        assert history.blobs("a", "b") == {"a", "b"}
        (held,) = said["held"]
        assert (held["blobs"], "--drop gives up" in held["why"]) == (1, True)
        prune(local)
        assert history.blobs("a", "b") == {"a"}

    def test_one_that_the_grace_would_not_hold_frees_them_at_once(self, local, history):
        given = history.snapshot(30, ["a"])
        history.snapshot(20, ["b"])
        prune(local, "--keep-last", "2", "--drop", given)
        assert history.blobs("a", "b") == {"b"}

    def test_one_that_can_not_be_read_frees_what_is_older_than_the_grace(self, local, history):
        history.snapshot(9, ["a"])
        given = history.snapshot(8, ["b"])
        history.blob("young", 1)
        lose_manifest(local, history, given)
        prune(local, "--drop", given)
        assert history.blobs("a", "b", "young") == {"a", "young"}

    def test_rules_count_without_it(self, local, history):
        history.snapshot(40)
        kept, given = history.snapshot(30), history.snapshot(20)
        prune(local, "--keep-last", "1", "--drop", given)
        assert history.snapshots() == [kept]

    def test_alone_it_drops_nothing_else(self, local, history):
        history.snapshot(50, complete=False)
        history.snapshot(40)
        given = history.snapshot(30)
        history.snapshot(20)
        other = History(local, OTHER)
        gone = [other.snapshot(60), other.snapshot(50)]
        before = {*history.snapshots(), *other.snapshots()}
        prune(local, "--drop", given)
        assert {*history.snapshots(), *other.snapshots()} == before - {given}
        prune(local, "--forget-source", OTHER)
        assert {*history.snapshots(), *other.snapshots()} == before - {given, *gone}

    @pytest.mark.parametrize("by", [OTHER, OTHER.upper(), source8(OTHER)])
    def test_a_source(self, local, history, by):
        other = History(local, OTHER)
        kept = history.snapshot(1, ["a"])
        other.snapshot(8, ["b", "a"])
        damage_manifest(local, other, other.snapshot(1, ["c"]))
        prune(local, "--forget-source", by)
        assert history.snapshots() == [kept]
        assert history.blobs("a", "b", "c") == {"a", "c"}

    def test_nothing_would_be_left(self, local, history):
        only = history.snapshot(1)
        refused(local, history, "nothing would be left", "--drop", only)
        refused(local, history, "nothing would be left", "--forget-source", UUID)


class TestAuditIdentity:
    @pytest.fixture
    def audited(self, local, tmp_path):
        identity, recipient = generate()
        write_key(tmp_path / "audit", identity)
        return History(local, audit=recipient), ["--identity", str(tmp_path / "audit")]

    def test_it_is_enough_and_no_db_is_read(self, local, audited):
        history, by = audited
        history.snapshot(30, ["a"])
        kept = history.snapshot(20, ["b"])
        flip(history.of(kept))
        prune(local, *by)
        assert history.snapshots() == [kept]
        assert history.blobs("a", "b") == {"b"}
        refused(local, history, "its bytes are not what its name says")

    def test_a_db_of_another_size_is_seen(self, local, audited):
        history, by = audited
        broken = history.snapshot(30, ["a"])
        history.snapshot(20)
        cut_db(local, history, broken)
        refused(local, history, "it and the DB disagree", *by)


class Recording(LocalStore):
    """Notes what is deleted; may do something first."""

    def __init__(self, site, first=lambda _store, _keys: None, **kwargs):
        super().__init__(site.store, site.bucket, site.prefix, **kwargs)
        self.deleted = []
        self._first = first

    def delete(self, keys):
        keys = list(keys)
        self._first(self, keys)
        self.deleted += keys
        return super().delete(keys)


def carry_out(planned):
    for step in STEPS:
        planned.delete(step)
    planned.remove()


def sound(history):
    """Whether every snapshot that is listed has its manifest and its blobs; names are the numbers of their blobs."""
    return all(
        len(list(history.root.rglob(f"{s}.*.manifest.zst.age"))) == 1 and history.blobs(s[-8:]) == {s[-8:]}
        for s in history.snapshots()
    )


def long_history(history, snapshots=6):
    """Snapshots that go but for the last, each with one blob of its own."""
    for n in range(snapshots):
        name = f"{n:08x}"
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(history.now - (40 - n) * DAY))
        history.snapshot(40 - n, [name], snapshot=f"{at}-{name}")
    history.of(history.snapshot(50)).unlink()


class TestOrder:
    def test_dbs_then_manifests_then_blobs_then_orphans(self, local, history):
        long_history(history)
        store = Recording(local)
        planned = session(local, lambda: store)
        planned.plan()
        carry_out(planned)
        kinds = ["blob" if k.startswith("blobs/") else k.split(".")[2] for k in store.deleted]
        assert kinds == ["sqlite"] * 5 + ["manifest"] * 5 + ["blob"] * 5 + ["manifest"]

    @pytest.mark.parametrize("step", [SNAPSHOTS, MANIFESTS, BLOBS])
    def test_a_key_that_can_not_be_deleted_ends_it_before_the_next_step(self, local, history, step):
        long_history(history)
        kind = {SNAPSHOTS: ".sqlite.", MANIFESTS: ".manifest.", BLOBS: "blobs/"}[step]

        class Failing(Recording):
            def delete(self, keys):
                stuck = [key for key in keys if kind in key][:1]
                return super().delete([k for k in keys if k not in stuck]) | dict.fromkeys(stuck, "Access Denied")

        store = Failing(local)
        planned = session(local, lambda: store)
        planned.plan()
        with pytest.raises(StoreError, match=f"delete .*{re.escape(kind)}.*: Access Denied"):
            carry_out(planned)
        planned.remove()
        later = [k for k in store.deleted if STEPS.index(step_of(k)) > STEPS.index(step)]
        assert later == []
        assert sound(history)
        prune(local)
        assert len(history.keys()) == 3

    def test_a_step_is_never_run_before_the_one_before(self, local, history):
        long_history(history)
        planned = session(local)
        planned.plan()
        with pytest.raises(AssertionError):
            planned.delete(BLOBS)
        planned.remove()

    def test_a_directory_that_is_read_only(self, local, history):
        long_history(history)
        folder = history.root / f"index/{history.source8}"
        folder.chmod(0o500)
        try:
            done = local.run("prune", *local.where, code=1, no_rights=True)
        finally:
            folder.chmod(0o700)
        assert re.search(
            r"^vaultik: delete index/\S+\.sqlite\.zst\.age: Permission denied \(and 4 more like it\)$",
            done.stderr,
            re.MULTILINE,
        )
        assert "prune again" in done.stderr
        assert len(history.keys()) == 19
        prune(local)
        assert len(history.keys()) == 3


def step_of(key):
    return BLOBS if key.startswith("blobs/") else SNAPSHOTS if ".sqlite." in key else MANIFESTS


KILLER = """
import os, signal, sys
from vaultik.store import local
inner, left = local.LocalStore.delete, int(os.environ["KILL_AFTER"])
def delete(self, keys):
    global left
    for key in keys:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        inner(self, [key])
    return {}
local.LocalStore.delete = delete
from vaultik.cli.main import main
main()
"""


class TestInterrupted:
    @pytest.mark.parametrize("after", [0, 3, 5, 7, 10, 12, 15])
    def test_killed_anywhere_what_is_listed_is_whole_and_the_next_prune_goes_on(self, local, history, after, tmp_path):
        long_history(history)
        (tmp_path / "tmp").mkdir()
        env = local.environment(KILL_AFTER=str(after), PYTHONPATH=os.getcwd(), TMPDIR=str(tmp_path / "tmp"))
        command = [local.command()[0], "-c", KILLER, "prune", *local.where]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(history.keys()) == 19 - after
        assert sound(history)
        assert list((tmp_path / "tmp").rglob("snapshot.sqlite")) == []
        prune(local)
        assert len(history.keys()) == 3

    def test_two_at_once(self, local, history):
        long_history(history)
        first, second = session(local), session(local)
        first.plan()
        second.plan()
        first.delete(SNAPSHOTS)
        carry_out(second)
        for step in STEPS[1:]:
            first.delete(step)
        first.remove()
        assert sound(history)
        assert len(history.keys()) == 3

    @pytest.mark.parametrize("gone", [".manifest.", ".sqlite."])
    def test_a_snapshot_that_another_prune_drops_after_it_was_listed(self, local, history, gone):
        long_history(history)

        class Racing(LocalStore):
            def open(self, key, **kwargs):
                if gone in key:
                    for path in history.root.rglob(f"{key.split('/')[-1].split('.')[0]}.*"):
                        path.unlink()
                return super().open(key, **kwargs)

        planned = session(local, lambda: Racing(local.store, local.bucket, local.prefix))
        with pytest.raises(PruneRefusedError, match="gone since it was listed"):
            planned.plan()
        planned.remove()

    def test_a_manifest_that_comes_while_it_is_listed_is_looked_for(self, local, history):
        history.snapshot(1)

        class Lagging(LocalStore):
            def walk(self, prefix=""):
                return (i for i in super().walk(prefix) if prefix != "index/" or ".manifest." not in i.key)

        planned = session(local, lambda: Lagging(local.store, local.bucket, local.prefix))
        planned.plan()
        planned.remove()

    def test_blobs_are_listed_after_everything_was_read(self, local, history):
        """Else a snapshot that is put in between would seem to refer to what isn't there."""
        history.snapshot(1, ["a"])
        calls = []

        class Noting(LocalStore):
            def now(self):
                calls.append("now")
                return super().now()

            def walk(self, prefix=""):
                calls.append(f"walk {prefix}")
                return super().walk(prefix)

            def open(self, key, **kwargs):
                calls.append("read")
                return super().open(key, **kwargs)

        planned = session(local, lambda: Noting(local.store, local.bucket, local.prefix))
        planned.plan()
        planned.remove()
        steps = list(dict.fromkeys(calls))
        assert steps == ["now", "walk index/", "read", "walk blobs/"]
        assert "read" not in calls[calls.index("walk blobs/") :]


class TestTerminal:
    @pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 19), ("y", 0, 3)])
    def test_it_asks(self, local, history, answer, code, left):
        long_history(history)
        said, status = at_a_terminal(local, ["prune", *local.where], f"{answer}\n")
        assert "Delete that?" in said
        assert os.waitstatus_to_exitcode(status) == code
        assert ("nothing was deleted" in said) == (answer == "n")
        assert len(history.keys()) == left

    def test_the_end_of_the_input_is_a_no(self, local, history):
        long_history(history)
        said, status = at_a_terminal(local, ["prune", *local.where], "\x04")
        assert said.splitlines()[-1] == "nothing was deleted"
        assert os.waitstatus_to_exitcode(status) == 1
        assert len(history.keys()) == 19

    def test_an_interrupt_at_the_question_says_that_nothing_was_deleted(self, local, history):
        long_history(history)
        said, status = at_a_terminal(local, ["prune", *local.where], "\x03")
        assert "nothing was deleted" in said
        assert os.waitstatus_to_exitcode(status) == 130
        assert len(history.keys()) == 19

    @pytest.mark.parametrize("shell", ["{} | cat", "{} 2>/dev/null", "{} --quiet", "{} --json"])
    def test_what_can_not_be_seen_is_not_asked(self, local, history, shell):
        long_history(history)
        command = shlex.join(local.command("prune", *local.where))
        script = f"set -o pipefail; {shell.format(command)}"
        said, status = at_a_terminal(local, None, "", ["bash", "-c", script])
        assert "Delete that?" not in said
        assert ("could not be seen" in said) == ("/dev/null" not in shell)
        assert os.waitstatus_to_exitcode(status) == 2
        assert len(history.keys()) == 19

    def test_yes_asks_nothing(self, local, history):
        long_history(history)
        said, status = at_a_terminal(local, ["prune", *local.where, "--yes"], "")
        assert "Delete that?" not in said
        assert os.waitstatus_to_exitcode(status) == 0
        assert len(history.keys()) == 3


CONTROL = ("\x03", "\x04")


def at_a_terminal(site, arguments, answer, command=None):
    pid, fd = pty.fork()
    if pid == 0:
        command = command or site.command(*arguments)
        os.execvpe(command[0], command, site.environment(TERM="xterm"))
    said = pressed = b""
    quiet = 0
    while quiet < 60:
        if not select.select([fd], [], [], 1)[0]:
            # A signal that comes just before a read is asked for doesn't end it; a person presses the key again.
            quiet += 1
            with contextlib.suppress(OSError):
                os.write(fd, pressed)
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        said += data
        if answer and b"Delete that?" in said:
            pressed = answer.encode() if answer in CONTROL else b""
            os.write(fd, answer.encode())
            answer = ""
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    return said.decode(errors="replace"), status


def stored_keys(site):
    """Every key of a site's store, whichever it is."""
    if site.endpoint.startswith("file://"):
        root = site.store / site.bucket / site.prefix
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    import boto3  # noqa: PLC0415 - only for S3

    client = boto3.client("s3", endpoint_url=site.endpoint, **s3_keys(site))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=site.prefix)
    return {o["Key"].removeprefix(site.prefix) for page in pages for o in page.get("Contents", ())}


def s3_keys(site):
    return {
        "aws_access_key_id": site.env["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": site.env["AWS_SECRET_ACCESS_KEY"],
        "region_name": "us-east-1",
    }


def three_backups(site):
    make_tree(site.source)
    site.backup()
    edit_tree(site.source)
    site.backup()
    (site.source / "new").write_text("changed again")
    # Whole seconds are all that some stores tell; what is to be freed must be older than the newest DB.
    time.sleep(0 if site.endpoint.startswith("file://") else 1.1)
    return site.backup()["snapshot"]


class TestRealBackups:
    def test_pruned_it_restores_and_the_next_backup_goes_on(self, site, tmp_path):
        newest = three_backups(site)
        before = stored_keys(site)
        assert prune(site, "--grace", "7d")["bytes_freed"] == 0
        said = prune(site, "--grace", "0")
        after = stored_keys(site)
        assert len(before - after) == sum(t["objects"] for t in said["freed"].values()) >= 4
        assert said["bytes_freed"] > 0
        assert fates(said)[newest] == "keep"
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)
        (site.source / "small").write_text("more")
        again = site.backup()
        assert again["files_read"] < 20
        site.restore(tmp_path / "again")
        assert describe(site.restored(tmp_path / "again")) == describe(site.source)
        prune(site)

    def test_luigi_runs_the_same(self, site, tmp_path):
        three_backups(site)
        where = ["--bucket", site.bucket, "--prefix", site.prefix, "--endpoint", site.endpoint]
        before = stored_keys(site)
        dry = site.luigi("Prune", *where, "--grace", "0", "--dry-run")
        assert re.fullmatch(
            r"vaultik: would free [\d,]{4,} bytes in [\d,]+ objects; 0 bytes are still held\n", dry.stdout
        )
        assert stored_keys(site) == before
        done = site.luigi("Prune", *where, "--grace", "0", "--keep-last", "1", "--workers", "2")
        assert done.stderr == ""
        assert re.match(r"vaultik: freed [1-9][\d,]* bytes", done.stdout)
        assert len([key for key in stored_keys(site) if ".sqlite." in key]) == 1
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)

    def test_what_check_left_goes(self, local):
        make_tree(local.source)
        local.run("check", local.config)
        (left,) = local.blobs()
        local.backup()
        assert left in local.blobs()
        prune(local, "--grace", "0")
        assert left not in local.blobs()
        local.restore(local.tmp / "out")


class TestLuigi:
    def test_a_refusal_and_a_mistake_have_their_codes(self, local, history):
        history.snapshot(3, entries=100)
        history.snapshot(1, entries=10)
        where = ["--bucket", local.bucket, "--prefix", local.prefix, "--endpoint", local.endpoint]
        before = history.keys()
        done = local.luigi("Prune", *where, code=1)
        assert "under half of" in done.stderr
        assert "--allow-shrink" in done.stderr
        assert "Traceback" not in done.stderr
        assert "--keep-daily x" in local.luigi("Prune", *where, "--keep-daily", "x", code=2).stderr
        assert "'2019'" in local.luigi("Prune", *where, "--drop", "2019", code=2).stderr
        assert history.keys() == before
        local.luigi("Prune", *where, "--allow-shrink")


@pytest.mark.xdist_group("s3")
def test_a_credential_that_may_not_delete(request, tmp_path):
    site = make_site(request, tmp_path, "seaweedfs")
    three_backups(site)
    before = stored_keys(site)
    site.env |= {"AWS_ACCESS_KEY_ID": "readerkey", "AWS_SECRET_ACCESS_KEY": "readersecret"}
    done = site.run("prune", *site.where, "--grace", "0", code=1)
    assert re.search(r"AccessDenied|Access Denied|refused", done.stderr), done.stderr
    site.env |= {"AWS_ACCESS_KEY_ID": "adminkey", "AWS_SECRET_ACCESS_KEY": "adminsecret"}
    assert stored_keys(site) == before
