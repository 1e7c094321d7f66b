"""What a run may rely on: every clause, one history each, by the store's own time."""

import contextlib
import os
import sqlite3

import pytest

from tests.support.older import make_older
from tests.support.world import DAY, HOUR, World
from vaultik.backup import plan, read, reseal
from vaultik.core.identity import generate
from vaultik.index import bundles, db, runs
from vaultik.model import Mark


@pytest.fixture
def world(tmp_path):
    with World(tmp_path).clocks() as world:
        yield world


@pytest.fixture
def host(world):
    host = world.add_host()
    for n in range(3):
        host.write(f"file {n}", 5_000)
    return host


def test_what_the_base_refers_to_is_relied_on_for_ever(world, host):
    host.backup()
    for _ in range(3):
        world.pass_time(30 * DAY)
        assert host.backup().counts["bytes_new"] == 0


def test_what_was_uploaded_without_a_commit_is_relied_on_for_six_days(world, host):
    run = host.begin()
    while not world.blobs():
        run.step()
    host.kill()
    world.pass_time(6 * DAY - HOUR)
    run = host.begin()
    while not world.snapshots:
        run.step()
    assert len(world.blobs()) == 1


def test_what_was_uploaded_without_a_commit_is_sealed_again_after_that(world, host):
    run = host.begin()
    while not world.blobs():
        run.step()
    host.kill()
    world.pass_time(6 * DAY + HOUR)
    host.backup()
    assert len(world.blobs()) == 2


def test_a_base_that_was_deleted_is_not_relied_on(world, host):
    host.backup()
    world.pass_time(10 * DAY)
    for key in list(world.snapshots):
        world.remove_by_hand(key)
    assert host.backup().counts["bytes_new"] == 15_000


def test_a_clone_that_has_written_since_makes_the_old_base_doubtful(world, host):
    host.backup()
    twin = world.clone(host)
    world.pass_time(DAY)
    twin.write("more", 1000)
    assert twin.backup().counts["bytes_new"] >= 1000
    world.pass_time(5 * DAY)
    assert host.backup().counts["bytes_new"] == 0, "the clone's snapshot is younger than the reliance"
    world.pass_time(DAY)
    twin.backup()
    world.pass_time(6 * DAY + HOUR)
    assert host.backup().counts["bytes_new"] == 15_000, "the first of the clone's since is older"


def test_a_machine_that_was_rolled_back_uploads_again_what_a_prune_may_free(world, host):
    host.backup()
    host.save()
    for _ in range(8):
        world.pass_time(DAY)
        host.backup()
    host.roll_back()
    assert host.backup().counts["bytes_new"] == 15_000


def test_put_only_relies_on_a_young_base_alone(world):
    host = world.add_host(put_only=True)
    host.write("file", 5_000)
    host.backup()
    world.pass_time(5 * DAY)
    assert host.backup().counts["bytes_new"] == 0
    world.pass_time(6 * DAY + HOUR)
    assert host.backup().counts["bytes_new"] == 5_000


def test_a_new_recipient_gets_everything_and_one_less_changes_nothing(host):
    host.backup()
    host.recipients.append(generate()[1])
    assert host.backup().counts["bytes_new"] == 15_000
    host.recipients.pop()
    assert host.backup().counts["bytes_new"] == 0


def test_a_put_that_nobody_heard_of_is_found_by_the_next_listing(world, host):
    world.faults.begin({("put", 2): "down, done"})  # blob, manifest, DB
    host.backup()
    assert len(world.snapshots) == 1
    world.pass_time(10 * DAY)
    # It is the base of all that it lists.
    assert host.backup().counts["bytes_new"] == 0


def test_what_that_listing_lacks_is_in_another_snapshot_of_the_same_run(world, host):
    world.faults.begin({("put", 2): "down, done"})
    run = host.begin()
    while not world.snapshots:
        run.step()
    world.remove_by_hand(world.blobs()[0])
    done = run.finish()
    first, last = world.snapshots.values()
    assert not first["blobs"] <= world.objects.keys()
    assert done.snapshot == last["id"]
    world.restore(list(world.snapshots)[-1])


def test_a_put_that_failed_is_sent_again_with_the_same_bytes(world, host):
    world.faults.begin({("put", 2): "down", ("put", 3): "down"})
    host.backup()
    assert len([key for key in world.objects if key.endswith(".manifest.zst.age")]) == 1
    assert len(world.snapshots) == 1


def test_killed_between_the_put_and_its_row_the_next_run_takes_it_as_its_base(world, host):
    run = host.begin()
    while not world.snapshots:
        run.step()
    host.kill()
    (first,) = (snapshot["id"] for snapshot in world.snapshots.values())
    world.pass_time(10 * DAY)
    run = host.backup()
    assert run.counts["bytes_new"] == 0
    assert run.snapshot != first


def test_a_db_is_not_put_long_after_its_listing(world, host):
    run = host.begin()
    while not any(key.endswith(".manifest.zst.age") for key in world.objects):
        run.step()
    world.pass_time(7 * HOUR)
    run.finish()
    # The first put came too late, for the manifest as well: both were made anew.
    assert len([key for key in world.objects if key.endswith(".manifest.zst.age")]) == 2
    assert len(world.snapshots) == 1


def test_a_db_is_not_put_by_a_machine_that_stood_still_since_its_listing(world, host):
    run = host.begin()
    while not any(key.endswith(".manifest.zst.age") for key in world.objects):
        run.step()
    world.pass_time(7 * HOUR, standing_still=True)
    listed = host.listed
    run.finish()
    assert host.listed > listed
    assert len(world.snapshots) == 1


def test_a_put_that_arrives_after_the_next_runs_uploads_is_a_base_without_them(world, host):
    run = host.begin()
    while not world.snapshots:
        run.step()
    host.kill()
    ((key, late),) = [(key, world.objects.pop(key)) for key in list(world.snapshots)]
    host.write("new", 5_000)
    before = len(world.blobs())
    run = host.begin()
    while len(world.blobs()) == before:
        run.step()
    host.kill()
    world.objects[key] = late
    run = host.begin()
    while sum(name.endswith(".manifest.zst.age") for name in world.objects) < 2:
        run.step()
    host.kill()
    world.pass_time(6 * DAY + HOUR)
    before = len(world.blobs())
    host.backup()
    assert len(world.blobs()) == before + 1, "the old base doesn't refer to what was uploaded after it"


class TestPartialSnapshots:
    """Runs that go on for days: four large files that change often come first, one that seldom does comes last."""

    @pytest.fixture
    def host(self, world, monkeypatch):
        monkeypatch.setattr(bundles, "BUNDLES_PER_WAVE", 1)
        # What is to be sealed again can't stand in for anything.
        monkeypatch.setattr(reseal, "leave_out", lambda *_, **__: reseal.Resealed(0, 0))
        host = world.add_host()
        host.write("old", 5_000)
        self.write_large(host)
        host.backup()
        world.pass_time(10 * DAY)
        self.write_large(host)
        host.backup()
        world.pass_time(DAY)
        self.write_large(host)
        return host

    def write_large(self, host):
        for n in range(4):
            host.write(f"large {n}", 900_000)

    def go_on_for_days(self, world, host):
        """Returns the partial snapshot, as its own reader sees it."""
        before = len(world.blobs())
        run = host.begin()
        while len(world.blobs()) == before:
            run.step()
        world.pass_time(4 * DAY)
        run.finish()
        (key,) = (key for key, snapshot in world.snapshots.items() if not snapshot["complete"])
        assert [snapshot["complete"] for snapshot in world.snapshots.values()][-1]
        return world.rows(key, "SELECT CAST(name AS TEXT), size, marks FROM entries WHERE type = 'f' ORDER BY name")

    def back_up(self, world, host):
        host.backup()
        world.pass_time(DAY)
        self.write_large(host)

    def link_two_names(self, world, host):
        """The first of them has the lower id."""
        host.write("a", 5_000)
        self.back_up(world, host)
        os.link(host.source / "a", host.source / "b")
        self.back_up(world, host)

    def contents(self, world, names):
        """Returns what the partial snapshot gives of names, each with its marks."""
        (key,) = (key for key, snapshot in world.snapshots.items() if not snapshot["complete"])
        marks = dict(world.rows(key, "SELECT CAST(name AS TEXT), marks FROM entries WHERE type = 'f'"))
        return {name: (data, marks[name]) for name, data in world.restored(key).items() if name in names}

    def in_index(self, host, query):
        with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
            (number,) = index.execute(query).fetchone()
        return number

    def test_what_is_not_read_yet_is_what_it_was_or_nothing(self, world, host):
        host.write("old", 6_000)
        host.write("new", 700)
        rows = {name: (size, marks) for name, size, marks in self.go_on_for_days(world, host)}
        assert rows["old"] == (5_000, Mark.STALE)
        assert "new" not in rows
        assert (900_000, 0) in rows.values()
        assert (900_000, Mark.STALE) in rows.values()

    def test_a_new_name_of_a_file_that_is_not_read_yet_is_left_out(self, world, host):
        host.write("old", 6_000)
        os.link(host.source / "old", host.source / "second name")
        rows = {name: (size, marks) for name, size, marks in self.go_on_for_days(world, host)}
        assert rows["old"] == (5_000, Mark.STALE)
        assert "second name" not in rows, "that content was never its"

    @pytest.mark.parametrize("change", ["remove a", "replace a", "replace b", "write b"])
    def test_names_of_one_file_that_part_keep_its_old_content_each(self, world, host, change):
        self.link_two_names(world, host)
        old = (host.source / "a").read_bytes()
        what, name = change.split()
        if what == "remove":
            (host.source / name).unlink()
        else:
            host.write("temporary", 6_000)
            place = host.source / name
            if what == "replace":
                (host.source / "temporary").rename(place)
            else:
                place.write_bytes((host.source / "temporary").read_bytes())
        self.go_on_for_days(world, host)
        left = {"b"} if what == "remove" else {"a", "b"}
        assert self.contents(world, {"a", "b"}) == dict.fromkeys(left, (old, Mark.STALE))

    def test_files_that_become_one_keep_their_own_old_content(self, world, host):
        for name in ("a", "b"):
            host.write(name, 5_000)
            self.back_up(world, host)
        old = {name: ((host.source / name).read_bytes(), Mark.STALE) for name in ("a", "b")}
        os.link(host.source / "b", host.source / "temporary")
        (host.source / "temporary").rename(host.source / "a")
        self.go_on_for_days(world, host)
        assert self.contents(world, {"a", "b"}) == old
        world.restore(list(world.snapshots)[-1])

    @pytest.mark.parametrize("size", [5_000, 7_000])
    def test_a_name_that_is_replaced_before_it_is_read_leaves_the_others_alone(self, world, host, size):
        self.link_two_names(world, host)
        old = (host.source / "b").read_bytes()
        host.write("b", 5_000, seed="new")
        run = host.begin()
        assert run.step()
        while not self.in_index(host, "SELECT scanned FROM runs ORDER BY id DESC LIMIT 1"):
            assert run.step()
        host.write("temporary", size, seed="another")
        (host.source / "temporary").rename(host.source / "a")
        new = (host.source / "a").read_bytes()
        of_a = "FROM entries WHERE name = CAST('a' AS BLOB) AND id IN (SELECT entry FROM changed)"
        while self.in_index(host, f"SELECT count(*) {of_a}"):
            assert run.step()
        world.pass_time(4 * DAY)
        run.finish()
        assert self.contents(world, {"a", "b"}) == {"a": (new, 0), "b": (old, Mark.STALE)}

    def test_a_file_that_could_not_be_read_the_last_time_is_left_out(self, world, host):
        with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index, index:
            (entry,) = index.execute("SELECT id FROM entries WHERE name = CAST('old' AS BLOB)").fetchone()
            index.execute("DELETE FROM entry_chunks WHERE entry = ?", (entry,))
            index.execute("UPDATE entries SET marks = ?, again = 1 WHERE id = ?", (Mark.UNREADABLE, entry))
        assert "old" not in {name for name, _, _ in self.go_on_for_days(world, host)}


class TestOwnSnapshots:
    """Whatever this index has committed is nobody else's, though the store gives it the time of the base or a later one."""

    @pytest.fixture
    def world(self, tmp_path):
        with World(tmp_path, coarse=1.0).clocks() as world:
            yield world

    def assert_relied_on(self, world, host):
        world.pass_time(7 * DAY)
        run = host.backup()
        assert run.counts["bytes_new"] == 0
        with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
            assert runs.get_problems(index, run.id) == []

    def test_a_partial_one_of_the_same_second(self, world, monkeypatch):
        monkeypatch.setattr(bundles, "BUNDLES_PER_WAVE", 1)
        host = world.add_host()
        for n in range(4):
            host.write(f"large {n}", 900_000)
        run = host.begin()
        while not world.blobs():
            run.step()
        world.pass_time(4 * DAY)
        while not world.snapshots:
            run.step()
        run.finish()
        assert [snapshot["complete"] for snapshot in world.snapshots.values()] == [False, True]
        self.assert_relied_on(world, host)

    def test_one_whose_put_was_found_out_later(self, world, host):
        run = host.begin()
        while not world.snapshots:
            run.step()
        host.kill()
        host.backup()
        assert len(world.snapshots) == 2
        self.assert_relied_on(world, host)

    def test_all_of_them_in_a_copied_bucket(self, world, host):
        run = host.begin()
        while not world.snapshots:
            run.step()
        host.kill()
        for n in range(3):
            world.pass_time(DAY)
            host.write("changing", 1000, seed=n)
            host.backup()
        for key, (data, _) in world.objects.items():
            world.objects[key] = (data, world.now)
        self.assert_relied_on(world, host)

    def test_those_of_an_index_from_before_they_were_remembered(self, host, tmp_path):
        host.backup()
        old = tmp_path / "old.sqlite"
        with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
            known = {row[0] for row in index.execute("SELECT snapshot FROM own_snapshots")}
            index.execute("VACUUM INTO ?", (str(old),))
        make_older(old, 7)
        with contextlib.closing(db.open_index(old)) as index:
            assert runs.own_snapshots(index) == known != set()


class TestTinyBlobs:
    """Many blobs of which each is a few bytes are brought together, if that makes them fewer."""

    @pytest.fixture
    def host(self, world, monkeypatch):
        monkeypatch.setattr(read, "_TICK_NS", 0)
        return world.add_host()

    def back_up_many(self, host, names):
        for name in names:
            host.write(name, 100)
        return host.backup().counts

    def test_one_by_one(self, host):
        for number in range(reseal.TINY_AT_MOST + 1):
            self.back_up_many(host, [f"file{number}"])
        assert self.back_up_many(host, [])["blobs_resealed"] == reseal.TINY_AT_MOST + 1
        assert self.back_up_many(host, [])["blobs_resealed"] == 0

    def test_not_those_that_are_full_of_tiny_files(self, host, monkeypatch):
        monkeypatch.setattr(plan, "PIECES_PER_BUNDLE", 2)
        first = self.back_up_many(host, [f"file{number}" for number in range(2 * (reseal.TINY_AT_MOST + 1))])
        assert first["blobs"] > reseal.TINY_AT_MOST
        again = self.back_up_many(host, [])
        assert (again["blobs_resealed"], again["blobs"]) == (0, 0)
