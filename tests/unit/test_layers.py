"""Snapshot DBs over layers: they say what whole ones would, few of them are needed, and what is lost is written again.

The world compares, at each put of a DB, what it comes to with its layers with what the index holds.
"""

import contextlib
import hashlib
import io
import itertools
import os
import random
import re
import shutil
import sqlite3
import tracemalloc

import pytest

from tests.fuzz.databases import make
from tests.fuzz.mutation import pack
from tests.fuzz.targets import layers as fuzzed
from tests.support.snapshots import open_own
from tests.support.world import DAY, World
from vaultik.backup import read
from vaultik.core.age_seal import seal
from vaultik.core.frames import FrameEncoder
from vaultik.core.identity import generate
from vaultik.core.names import blob_key
from vaultik.errors import IntegrityError
from vaultik.index import layers

TOP_ROWS = 12


@pytest.fixture
def world(tmp_path, monkeypatch):
    # No file is taken for one that was written just now: it would be read again for that.
    monkeypatch.setattr(read, "_TICK_NS", 0)
    with World(tmp_path, top_rows=TOP_ROWS).clocks() as world:
        yield world


@pytest.fixture
def host(world):
    host = world.add_host()
    for number in range(40):
        host.write(f"file {number}", 1_000)
    return host


def newest(world):
    return list(world.snapshots)[-1]


def index_rows(host, query):
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index:
        return index.execute(query).fetchall()


def layers_of(host):
    """The blobs of a host's layers, the lowest first."""
    return [row[0] for row in index_rows(host, "SELECT hash FROM layers ORDER BY number")]


def blobs_of(world, key):
    return {row[0] for row in world.rows(key, "SELECT hash FROM blobs")}


class Tree:
    """A tree that changes at random in every way that a snapshot tells of."""

    def __init__(self, root, seed):
        self.root = root
        self.rng = random.Random(seed)

    def act(self):
        what = self.rng.choice(
            [
                "write",
                "write",
                "write",
                "remove",
                "chmod",
                "touch",
                "xattr",
                "no_xattr",
                "link",
                "symlink",
                "rename",
                "become",
            ]
        )
        with contextlib.suppress(FileNotFoundError, FileExistsError, NotADirectoryError, OSError):
            getattr(self, what)(self.path(), self.path())

    def path(self):
        """Few names, so that they come again, of whatever kind."""
        parts = [f"d{self.rng.randrange(3)}" for _ in range(self.rng.randrange(3))] + [f"n{self.rng.randrange(5)}"]
        return self.root.joinpath(*parts)

    def write(self, path, _other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rng.randbytes(self.rng.choice([0, 10, 100_000])))

    def remove(self, path, _other):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def chmod(self, path, _other):
        path.chmod(self.rng.choice([0o600, 0o640, 0o755]))

    def touch(self, path, _other):
        os.utime(path, ns=(0, self.rng.randrange(10**18)))

    def xattr(self, path, _other):
        os.setxattr(path, f"user.{self.rng.randrange(3)}", self.rng.randbytes(5))

    def no_xattr(self, path, _other):
        os.removexattr(path, f"user.{self.rng.randrange(3)}")

    def link(self, path, other):
        os.link(path, other, follow_symlinks=False)

    def symlink(self, path, _other):
        path.symlink_to(f"target {self.rng.randrange(3)}")

    def rename(self, path, other):
        self.rng.choice([path, path.parent]).rename(other)

    def become(self, path, _other):
        """A directory where a file was."""
        path.unlink()
        path.mkdir()
        (path / "n0").write_bytes(b"in it")


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_that_changes_in_every_way_is_what_it_would_be_without_layers(world, seed):
    host = world.add_host()
    for number in range(200):
        host.write(f"file {number}", 10)
    tree = Tree(host.source, seed)
    depths = set()
    for _ in range(60):
        for _ in range(tree.rng.choice([0, 1, 1, 3, 3, 20])):
            tree.act()
        host.backup()
        depths.add(len(layers_of(host)))
        world.pass_time(DAY / 8)
    assert len(depths) > 2
    for key in [*world.snapshots][::7]:
        world.restore(key)


def test_a_small_tree_has_none(tmp_path):
    with World(tmp_path).clocks() as world:
        host = world.add_host()
        host.write("file", 1_000)
        host.backup()
        assert layers_of(host) == []
        assert world.rows(newest(world), "SELECT value FROM meta WHERE key = 'kind'") == [("full",)]


def test_few_changes_are_a_small_db_and_few_layers(world, host):
    for number in range(400, 900):
        host.write(f"file {number}", 10)
    host.backup()
    rng = random.Random(1)
    rows = index_rows(host, "SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM chunks)")[0][0]
    for _ in range(80):
        host.write(f"file {rng.randrange(400, 900)}", 10)
        host.backup()
        sizes = [row[0] for row in index_rows(host, "SELECT rows FROM layers ORDER BY number")]
        assert all(low >= 2 * high for low, high in itertools.pairwise(sizes)), sizes
        assert len(sizes) <= (rows // TOP_ROWS).bit_length()
        top = index_rows(host, "SELECT max(number) FROM layers")[0][0]
        queries = [f"SELECT id FROM touched_{what} WHERE since >= {top}" for what in ("entries", "chunks")]
        assert sum(len(index_rows(host, query)) for query in queries) <= TOP_ROWS
        # A snapshot lists its layers, so that a prune keeps them, and none that was merged into another.
        held = {
            row[0] for row in world.rows(newest(world), "SELECT b.hash FROM blobs b JOIN chunks c ON c.blob = b.id")
        }
        assert blobs_of(world, newest(world)) == held | set(layers_of(host))


def test_nothing_changed_is_no_new_layer(world, host):
    host.backup()
    before = layers_of(host)
    world.pass_time(DAY)
    for _ in range(3):
        # The root of the tree may well change: it is the machine's.
        host.backup()
    assert layers_of(host) == before
    assert len(before) == 1


def test_much_changed_is_one_new_layer_alone(host):
    host.backup()
    before = layers_of(host)
    for number in range(20):
        host.write(f"file {number}", 2_000)
    host.backup()
    assert len(layers_of(host)) == 1
    assert layers_of(host) != before


def test_after_a_month_all_is_written_again(world, host):
    host.backup()
    before = layers_of(host)
    world.pass_time(29 * DAY)
    host.backup()
    assert layers_of(host) == before
    world.pass_time(2 * DAY)
    host.backup()
    assert len(layers_of(host)) == 1
    assert layers_of(host) != before


def test_a_lost_layer_costs_those_above_it(world, host):
    host.backup()
    for number in range(8):
        host.write(f"new {number}", 10)
    host.backup()
    low, high = layers_of(host)
    world.remove_by_hand(blob_key(high))
    host.backup()
    assert layers_of(host)[0] == low
    assert high not in blobs_of(world, newest(world))
    world.restore(newest(world))
    world.remove_by_hand(blob_key(low))
    host.backup()
    assert low not in layers_of(host)
    world.restore(newest(world))


def test_a_new_recipient_can_open_the_layers(host):
    host.backup()
    before = layers_of(host)
    _, recipient = generate()
    host.recipients.append(recipient)
    host.backup()
    assert not set(layers_of(host)) & set(before)


def test_layers_are_not_taken_for_tiny_blobs_or_dead_ones(world, host):
    host.backup()
    for number in range(200):
        host.write(f"file {number % 40}", 1_000)
        host.write(f"more {number}", 10)
    host.backup()
    world.pass_time(DAY)
    host.backup()
    assert index_rows(host, "SELECT count(*) FROM blobs WHERE retiring OR kept_at") == [(0,)]


def test_rows_are_noted_only_while_there_are_layers(host):
    host.backup()
    noted = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"
    assert index_rows(host, noted) == [(12,)]
    with contextlib.closing(sqlite3.connect(host.state() / "index.sqlite")) as index, index:
        layers.keep(index, [])
    assert index_rows(host, noted) == [(0,)]


class TestForged:
    """What anybody who has the bucket and the recipient could store."""

    @pytest.fixture
    def key(self, world, host):
        """A snapshot over two layers, with rows of its own."""
        host.backup()
        for number in range(8):
            host.write(f"new {number}", 10)
        host.backup()
        host.write("new 1", 20)
        host.backup()
        assert len(layers_of(host)) == 2
        world.restore(newest(world))
        return newest(world)

    def put(self, world, key, sealed):
        """Put a forged DB in a snapshot's place. Returns its key."""
        forged = re.sub("[0-9a-f]{64}", hashlib.sha256(sealed).hexdigest(), key)
        world.objects[forged] = (sealed, world.objects.pop(key)[1])
        world.snapshots[forged] = world.snapshots.pop(key)
        return forged

    def forged(self, world, sealed, statements):
        with contextlib.closing(open_own(sealed, [world.identity])) as db:
            for statement in statements:
                db.execute(statement)
            db.execute("VACUUM")
            out = io.BytesIO()
            seal([FrameEncoder(3).encode(db.serialize())], out, [world.recipient])
        return out.getvalue()

    @pytest.mark.parametrize(
        ("statements", "message"),
        [
            (["DELETE FROM layers"], "builds on 0 layers"),
            ([f"INSERT INTO layers VALUES ({place}, x'00')" for place in range(2, 66)], "builds on 65 layers"),
            (["INSERT INTO layers VALUES (9, zeroblob(32))"], "no blob of its own"),
            (["DELETE FROM blobs WHERE hash IN (SELECT hash FROM layers)"], "no blob of its own"),
            ([f"UPDATE {t} SET hash = zeroblob(9999) WHERE length(hash) = 32" for t in ("layers", "blobs")], "no blob of its own"),
            (["UPDATE layers SET place = -place"], "builds on other layers"),
            (["UPDATE layers SET place = place + 5", "DELETE FROM layers WHERE place = 5"], "builds on other layers"),
            (["UPDATE meta SET value = 'full' WHERE key = 'kind'"], "of kind 'full'"),
            (["DROP TABLE superseded_chunks"], "another schema"),
            (["DELETE FROM superseded_entries"], "entries: two rows where one is allowed"),
            (["DELETE FROM superseded_chunks", "INSERT INTO chunks SELECT 1, zeroblob(32), 1, blob, 0, 1, 0 FROM chunks"], "chunks: two"),
            (["INSERT OR IGNORE INTO superseded_entries VALUES (1)", "DELETE FROM entries WHERE id = 1"], "no root"),
            ([f"INSERT OR IGNORE INTO superseded_chunks VALUES ({number})" for number in range(99)], "of no chunk"),
        ],
    )  # fmt: skip
    def test_a_delta(self, world, key, statements, message):
        forged = self.put(world, key, self.forged(world, world.objects[key][0], statements))
        with pytest.raises(IntegrityError, match=message):
            world.restored(forged)

    def test_rows_superseded_that_are_not_there(self, world, key):
        """They change nothing: there is nothing that they could take away."""
        more = [
            f"INSERT INTO superseded_{table} VALUES ({row})"
            for table in ("entries", "chunks")
            for row in (-5, 0, 1 << 40)
        ]
        before = world.restored(key)
        assert world.restored(self.put(world, key, self.forged(world, world.objects[key][0], more))) == before

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            (("_1", "_0", "_1"), "builds on other layers"),
            (("full", "_1", "_0 1"), "builds on other layers"),
            (("full", "full", "_0 1"), "builds on other layers"),
            (("full", "_0", "_1 0"), "builds on other layers"),
            (("full", "_0", "_0 0"), "builds on other layers"),
            (("full", "_0 1", "_0 1"), "builds on other layers"),
            (("_", "_0"), "builds on 0 layers"),
        ],
    )
    def test_layers_that_refer_to_each_other(self, parts, message):
        """What each says to build on, by its number; the last is the snapshot's own."""
        dbs = [make() if part == "full" else fuzzed.delta(*map(int, part[1:].split())) for part in parts]
        with pytest.raises(IntegrityError, match=message):
            fuzzed.target(pack(dbs))

    def test_a_layer_that_is_missing(self, world, host, key):
        world.remove_by_hand(blob_key(layers_of(host)[0]))
        with pytest.raises(IntegrityError, match=f"layer {layers_of(host)[0].hex()}: missing"):
            world.restored(key)

    def test_a_layer_of_other_bytes(self, world, host, key):
        low, high = map(blob_key, layers_of(host))
        world.objects[low] = world.objects[high]
        with pytest.raises(IntegrityError, match="its bytes are not what its name says"):
            world.restored(key)

    def test_a_layer_that_unpacks_to_more_than_it_may(self, world, host, key):
        """Frames that each declare little are counted together."""
        bomb = io.BytesIO()
        seal([FrameEncoder(3).encode(bytes(16 << 20))] * 5, bomb, [world.recipient])
        name = hashlib.sha256(bomb.getvalue()).digest()
        world.objects[blob_key(name)] = (bomb.getvalue(), world.now)
        instead = [
            f"UPDATE {table} SET hash = x'{name.hex()}' WHERE hash = x'{layers_of(host)[0].hex()}'"
            for table in ("layers", "blobs")
        ]
        forged = self.put(world, key, self.forged(world, world.objects[key][0], instead))
        with pytest.raises(IntegrityError, match=r"at most \d+ are allowed"):
            world.restored(forged)

    def test_meta_without_end(self, world, key):
        """No row is taken into memory but those that are known."""
        many = [f"INSERT INTO meta VALUES ('{number}', zeroblob(1000000))" for number in range(60)]
        forged = self.put(world, key, self.forged(world, world.objects[key][0], many))
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError, match="meta: a row that doesn't belong"):
                world.restored(forged)
            assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()
