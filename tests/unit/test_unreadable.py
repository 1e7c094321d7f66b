"""Files that can't be read any more: nothing that is stored of them is given up for it, nothing is stored in vain."""

import contextlib
import shutil
import sqlite3

import pytest

from tests.support.bad_disk import BadDisk
from tests.support.world import DAY, HOUR, World
from vaultik.backup import read
from vaultik.backup.chunk import BundleSealer
from vaultik.backup.session import Session
from vaultik.index import bundles, chunks, db, moves
from vaultik.model import Mark

ENTRY = "SELECT marks, (SELECT count(*) FROM entry_chunks WHERE entry = id) FROM entries WHERE name = CAST(? AS BLOB)"


@pytest.fixture
def world(tmp_path, monkeypatch):
    # No file is taken for one that was written just now: it would be read again for that.
    monkeypatch.setattr(read, "_TICK_NS", 0)
    with World(tmp_path).clocks() as world:
        yield world


@pytest.fixture
def disk(monkeypatch):
    return BadDisk(monkeypatch)


def in_snapshot(world, key, name):
    """The marks of an entry and how many chunks it has."""
    return world.rows(key, ENTRY.replace("?", f"'{name}'"))[0]


def newest(world):
    return list(world.snapshots)[-1]


def index_rows(host, query):
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
        return index.execute(query).fetchall()


def go_on_until(run, host, query):
    assert run.step()
    while not index_rows(host, query):
        assert run.step(), "it ended before"
    host.kill()


class TestWhatIsSealedAgain:
    """A file that doesn't change lies in a blob that is mostly dead, so that it is to be read for sealing it again."""

    @pytest.fixture
    def host(self, world):
        host = world.add_host()
        host.write("precious", 20_000)
        for n in range(20):
            host.write(f"short-lived {n}", 20_000)
        host.backup()
        world.pass_time(DAY)
        for n in range(20):
            (host.source / f"short-lived {n}").unlink()
        host.write("other", 30_000)
        return host

    def test_a_file_that_can_be_read_moves_into_a_new_blob(self, world, host):
        (old,) = world.blobs()
        assert host.backup().counts["blobs_resealed"] == 0, "by now everything in it lived"
        world.pass_time(DAY)
        run = host.backup()
        assert (run.counts["blobs_resealed"], run.counts["bytes_resealed"]) == (1, 20_000)
        assert old not in world.snapshots[newest(world)]["blobs"]
        world.restore(newest(world))
        assert index_rows(host, "SELECT count(*) FROM moves") == [(0,)]
        sizes = "SELECT b.content_bytes, b.live_bytes, sum(c.size) FROM blobs AS b JOIN chunks AS c ON c.blob = b.id GROUP BY b.id"
        assert sorted(index_rows(host, sizes)) == [(20_000, 20_000, 20_000), (30_000, 30_000, 30_000)]

    def test_one_that_can_not_stays_in_every_snapshot(self, world, host, disk):
        disk.bad["precious"] = 0
        codes = []
        for _ in range(12):
            codes.append(host.backup().exit_code)
            world.pass_time(HOUR)
            world.prune(last=1)
            world.pass_time(DAY)
        assert sorted(codes) == [0] * 11 + [3], "it is told once"
        for key in world.snapshots:
            assert in_snapshot(world, key, "precious")[1] > 0
            world.restore(key)

    def test_it_is_tried_again_after_a_while(self, world, host, disk):
        disk.bad["precious"] = 0
        (old,) = world.blobs()
        for _ in range(3):
            host.backup()
            world.pass_time(DAY)
        disk.bad.clear()
        assert host.backup().counts["bytes_new"] == 0
        world.pass_time(28 * DAY)
        assert host.backup().counts["bytes_new"] == 20_000
        assert old not in world.snapshots[newest(world)]["blobs"]

    def test_what_else_is_in_its_blob_moves(self, world, disk):
        host = world.add_host()
        for name, size in {"precious": 20_000, "readable": 6_000, "short-lived": 200_000}.items():
            host.write(name, size)
        for _ in range(2):
            host.backup()
            world.pass_time(DAY)
            (host.source / "short-lived").unlink(missing_ok=True)
        disk.bad["precious"] = 0
        assert host.backup().counts["bytes_new"] == 6_000
        world.restore(newest(world))
        assert index_rows(host, "SELECT content_bytes, live_bytes FROM blobs ORDER BY id") == [
            (226_000, 20_000),
            (6_000, 6_000),
        ]

    def test_a_file_that_changed_after_a_killed_run_and_can_not_be_read_has_no_content(self, world, host, disk):
        host.backup()
        world.pass_time(DAY)
        go_on_until(host.begin(), host, "SELECT 1 FROM changed WHERE lost")
        host.write("precious", 20_000)
        disk.bad["precious"] = 0
        assert host.backup().exit_code == 3
        assert in_snapshot(world, newest(world), "precious") == (Mark.UNREADABLE, 0)

    def test_a_file_that_changed_and_can_not_be_read_has_no_content(self, world, host, disk):
        host.backup()
        world.pass_time(DAY)
        host.write("precious", 20_000)
        disk.bad["precious"] = 0
        for _ in range(2):
            assert host.backup().exit_code == 3
            assert in_snapshot(world, newest(world), "precious") == (Mark.UNREADABLE, 0)
            world.pass_time(DAY)

    @pytest.mark.parametrize("loses_spool", [False, True])
    def test_killed_anywhere_while_it_moves_and_unreadable_then(self, world, host, disk, loses_spool):
        """Whatever the killed run had claimed, sealed or uploaded of it, the file is whole in the next snapshot."""
        host.backup()
        world.pass_time(DAY)
        saved = world.tmp / "saved"
        shutil.copytree(host.state(), saved)
        objects, turns, turn = dict(world.objects), None, 1
        seen = set()
        while turns is None or turn < turns:
            # The machine's state, but not its files: copied, they would be changed ones.
            shutil.rmtree(host.state())
            shutil.copytree(saved, host.state())
            world.objects.clear()
            world.objects.update(objects)
            disk.bad.clear()
            run = host.begin()
            for at in range(turn):
                if not run.step():
                    turns = at
                    break
            host.kill()
            seen |= set(index_rows(host, "SELECT b.state FROM moves AS m JOIN bundles AS b ON b.id = m.bundle"))
            if loses_spool:
                for path in host.state().glob("spool/*/*"):
                    path.unlink()
            disk.bad["precious"] = 0
            host.backup()
            world.restore(newest(world))
            turn += 1
        assert seen == {(1,), (2,)}, "it was killed when it was chunked, and when it was sealed"

    def test_a_partial_snapshot_has_what_is_still_to_be_sealed_again(self, world, host, monkeypatch):
        monkeypatch.setattr(bundles, "BUNDLES_PER_WAVE", 1)
        host.backup()
        world.pass_time(DAY)
        for n in range(3):
            host.write(f"large {n}", 900_000)
        before = len(world.blobs())
        run = host.begin()
        while len(world.blobs()) == before:
            assert run.step()
        world.pass_time(4 * DAY)
        run.finish()
        (key,) = (key for key, snapshot in world.snapshots.items() if not snapshot["complete"])
        assert in_snapshot(world, key, "precious")[1] > 0
        assert [run.counts["bytes_resealed"] for run in [run.result]] == [20_000]

    def test_the_old_blob_is_lost_while_the_new_one_waits(self, world, host, disk):
        """The claim on the move becomes one on the chunk itself: nothing has to be read again, nothing is lost."""
        host.backup()
        world.pass_time(DAY)
        (old,) = index_rows(host, "SELECT hash FROM blobs ORDER BY id LIMIT 1")
        run = host.begin()
        go_on_until(run, host, "SELECT 1 FROM moves AS m JOIN bundles AS b ON b.id = m.bundle WHERE b.state = 2")
        (key,) = (key for key in world.blobs() if key.endswith(old[0].hex()))
        world.remove_by_hand(key)
        disk.bad["precious"] = 0
        assert host.backup().exit_code == 0
        world.restore(newest(world))


class TestABadSector:
    """Six extents and a bit, of which the last but one can't be read."""

    @pytest.fixture
    def host(self, world, disk):
        host = world.add_host()
        host.write("image", 6_000_000)
        host.write("other", 5_000)
        disk.bad["image"] = 5_500_000
        return host

    def test_what_can_be_read_of_the_file_is_uploaded_once(self, world, host):
        first = host.backup()
        assert first.exit_code == 3
        assert first.counts["bytes_new"] > 4_000_000
        for _ in range(9):
            world.pass_time(DAY)
            run = host.backup()
            assert (run.exit_code, run.counts["bytes_new"]) == (3, 0)
            world.prune(last=1)
            assert in_snapshot(world, newest(world), "image") == (Mark.UNREADABLE, 0), "half a file is not the file"

    def test_it_is_not_uploaded_again_when_the_file_is_whole(self, world, host, disk):
        first = host.backup()
        disk.bad.clear()
        world.pass_time(8 * DAY)
        run = host.backup()
        assert run.exit_code == 0
        assert run.counts["bytes_new"] <= 6_005_000 - first.counts["bytes_new"]
        world.restore(newest(world))
        assert index_rows(host, "SELECT count(*) FROM remains") == [(0,)]

    @pytest.mark.parametrize("change", ["is removed", "is another one"])
    def test_it_is_given_up_when_the_file(self, world, host, change):
        host.backup()
        world.pass_time(DAY)
        if change == "is removed":
            (host.source / "image").unlink()
        else:
            host.write("image", 6_000_000, seed="other")
        host.backup()
        world.pass_time(8 * DAY)
        host.backup()
        needed = {"is removed": 5_000, "is another one": 6_005_000}[change]
        assert index_rows(host, "SELECT sum(size) FROM chunks")[0][0] <= needed

    def test_what_another_bundle_was_reading_meanwhile_remains_too(self, world, host, disk, monkeypatch):
        """The last extent is read while one before it fails: two workers, one file."""
        # Far enough from the last extent: where that begins is found by reading one longest chunk before it.
        disk.bad["image"] = 4_900_000
        waiting = []

        def chunk(session, bundle):
            sealer = BundleSealer(
                session.index(), session.claims(), bundle, run=session.run, level=1, recipients=session.recipients,
                read=lambda slices: read.BundleReader(
                    session.index(), slices, session.chunker, started=session.started, largest=1 << 21
                ),
                spool_dir=session.spool_dir,
            )  # fmt: skip
            waiting.append((session, bundle, sealer))
            if len(waiting) == len(bundles.wave_bundles(session.index(), session.run, 1)):
                for _, _, each in waiting:
                    each.run()

        with monkeypatch.context() as patch:
            patch.setattr(Session, "chunk", chunk)
            patch.setattr("tests.support.world.seal", lambda *_: None)
            patch.setattr("tests.support.world.upload", lambda *_: None)
            run = host.begin()
            # Every bundle of the run is chunked.
            go_on_until(run, host, "SELECT 1 FROM bundles GROUP BY run HAVING min(state) = 1")
        unneeded = "SELECT count(*) FROM chunks WHERE id NOT IN (SELECT chunk FROM remains UNION SELECT chunk FROM entry_chunks)"
        assert index_rows(host, unneeded) == [(0,)]
        host.backup()
        world.pass_time(HOUR)
        assert host.backup().counts["bytes_new"] == 0


def test_a_run_that_retires_other_blobs_lets_the_first_ones_be(world):
    host = world.add_host()
    for name in "ab":
        host.write(name, 5_000)
        host.backup()
    index = sqlite3.connect(host.state() / "index.sqlite", isolation_level=None)
    with contextlib.closing(index):
        first, second = (row[0] for row in index.execute("SELECT id FROM blobs ORDER BY id"))
        moves.retire(index, [first], [])
        moves.retire(index, [second], [])
        assert moves.find_retiring(index) == {second}


def test_a_move_is_given_up_with_its_bundle(tmp_path):
    """Whether the bundle is streamed again, taken back, or no more: nobody else could move the chunk for ever."""
    index = db.open_index(tmp_path / "index.sqlite")
    with contextlib.closing(index):
        for bundle in (1, 2):
            assert moves.claim(index, bundle, bundle)
            assert not moves.claim(index, 7, bundle)
        chunks.release_claims(index, 1)
        assert moves.claim(index, 7, 1)
        bundles.take_over(index, 1, [])
        assert index.execute("SELECT count(*) FROM moves").fetchone() == (0,)
