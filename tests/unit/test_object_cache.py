"""The cache of snapshots' metadata: what is taken from it, what may be in it, and that nothing in it is believed."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.world import DAY, World
from vaultik.errors import ConfigError
from vaultik.look.snapshots import iter_copied
from vaultik.restore.scratch import copied_snapshot
from vaultik.restore.single import fetch
from vaultik.snapshot.find import list_snapshots, read_manifest
from vaultik.store.cached import open_metadata, with_cache
from vaultik.store.object_cache import ObjectCache, open_cache


@pytest.fixture
def world(tmp_path):
    """Six snapshots; what is incremental stands on layers."""
    with World(tmp_path / "world", top_rows=4).clocks() as world:
        host = world.add_host()
        for day in range(6):
            for number in range(12 if day == 0 else 3):
                host.write(f"{day}-{number}", 3000)
            host.backup()
            world.pass_time(DAY)
        yield world


@pytest.fixture
def cache(tmp_path):
    return ObjectCache(new(tmp_path / "cache"), 1 << 30)


def new(path):
    path.mkdir(mode=0o700)
    return path


def look(world, cache):
    """Look into all snapshots. Returns the keys that were downloaded, and what was seen."""
    spy = Spy(world.open_store())
    store = with_cache(spy, cache)
    seen = []
    for found in list_snapshots(store):
        facts = read_manifest(store, found, [world.identity])
        with copied_snapshot(store, [world.identity], found.name.snapshot) as (_, copy):
            seen.append((facts, copy.execute("SELECT id, parent, name, size FROM entries ORDER BY id").fetchall()))
    return spy.asked, seen


class Spy:
    """A store that notes what is asked for."""

    def __init__(self, store):
        self.store = store
        self.asked = []

    def __getattr__(self, name):
        return getattr(self.store, name)

    def open(self, key, **part):
        self.asked.append(key)
        return self.store.open(key, **part)

    def head(self, key):
        self.asked.append(key)
        return self.store.head(key)


def files(cache):
    return sorted(cache._directory.iterdir())


def test_what_was_looked_at_is_not_downloaded_again(world, cache):
    first, seen = look(world, cache)
    blobs = [key for key in first if key.startswith("blobs/")]
    assert blobs, "no snapshot stands on layers"
    assert len(set(first)) == 6 * 2 + len(set(blobs))
    # A layer is asked for once (its size and its bytes) though several snapshots stand on it.
    assert all(first.count(key) == (2 if key in blobs else 1) for key in first)
    again, seen_again = look(world, cache)
    assert again == []
    assert seen_again == seen
    assert len(look(world, None)[0]) > len(first)


def test_snapshots_that_stand_on_the_same_layers_are_copied_from_them(world, tmp_path):
    """Each comes out as it does by itself, and each layer was needed once."""
    spy = Spy(world.open_store())
    found = list_snapshots(spy)
    tables = ("meta", "entries", "xattrs", "blobs", "chunks", "entry_chunks")

    def rows(copy):
        return {table: copy.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}

    for order in (found, found[::-1], [found[0], found[5], found[0], found[4]]):
        spy.asked.clear()
        directory = new(tmp_path / f"scratch {len(list(tmp_path.iterdir()))}")
        together = [rows(copy) for _, copy in iter_copied(spy, [world.identity], order, directory)]
        asked = spy.asked.count
        if order is found:
            assert {asked(key) for key in spy.asked if key.startswith("blobs/")} == {2}
        for one, seen in zip(order, together, strict=True):
            with copied_snapshot(world.open_store(), [world.identity], one.name.snapshot) as (_, copy):
                assert rows(copy) == seen


def test_it_holds_what_is_stored_and_nothing_else(world, cache):
    look(world, cache)
    stored = {hashlib.sha256(data).hexdigest(): data for data, _ in world.objects.values()}
    for path in files(cache):
        assert path.read_bytes() == stored[path.name]
        assert path.stat().st_mode & 0o777 == 0o600


def test_no_blob_of_content_gets_into_it(world, cache, tmp_path):
    look(world, cache)
    before = files(cache)
    host = world.hosts[0]
    path = os.fsencode(f"{host.source}/0-1")
    place, report = fetch(with_cache(world.open_store(), cache), [world.identity], "latest", (path,), tmp_path / "out")
    assert report.damaged == []
    assert Path(place).read_bytes() == Path(os.fsdecode(path)).read_bytes()
    assert files(cache) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "a link", "a FIFO", "a directory"])
def test_what_was_damaged_in_it_is_downloaded_anew(world, cache, tmp_path, damage):
    first, seen = look(world, cache)
    for path in files(cache):
        data = path.read_bytes()
        path.unlink()
        if damage == "a link":
            target = tmp_path / path.name
            target.write_bytes(data)
            path.symlink_to(target)
        elif damage == "a FIFO":
            os.mkfifo(path)
        elif damage == "a directory":
            path.mkdir()
        else:
            path.write_bytes({"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1]}[damage])
    again, seen_again = look(world, cache)
    assert set(again) == set(first)
    assert seen_again == seen
    if damage not in ("a FIFO", "a directory"):
        assert look(world, cache)[0] == []


def test_the_least_recently_used_leaves(tmp_path):
    cache = ObjectCache(new(tmp_path / "cache"), 1000)
    objects = {name: name * 300 for name in (b"a", b"b", b"c", b"d")}
    for age, name in enumerate((b"a", b"b", b"c")):
        put(cache, objects[name])
        os.utime(cache._path(hashlib.sha256(objects[name]).digest()), (1000 + age, 1000 + age))
    get(cache, objects[b"a"])
    put(cache, objects[b"d"])
    assert held(cache, objects) == {b"a", b"c", b"d"}
    put(cache, b"x" * 1001)
    assert held(cache, {**objects, b"x": b"x" * 1001}) == {b"a", b"c", b"d"}


def test_what_a_kill_left_goes_and_what_is_not_its_own_stays(tmp_path):
    cache = ObjectCache(new(tmp_path / "cache"), 500)
    left, young, strange = (cache._directory / name for name in (".tmp-" + "0" * 16, ".tmp-" + "1" * 16, "README"))
    for path in (left, young, strange):
        path.write_bytes(b"?" * 200)
    os.utime(left, (1, 1))
    os.utime(strange, (1, 1))
    put(cache, b"a" * 300)
    assert not left.exists()
    assert young.exists()
    assert strange.exists()


def test_what_came_damaged_is_not_kept(tmp_path):
    cache = ObjectCache(new(tmp_path / "cache"), 1000)
    digest = hashlib.sha256(b"right").digest()
    with cache.keeping(Bytes(b"wrong"), digest) as stream:
        assert stream.read() == b"wrong"
    with cache.keeping(Bytes(b"right"), digest) as stream:
        assert stream.read(3) == b"rig"
    with pytest.raises(ZeroDivisionError), cache.keeping(Bytes(b"right"), digest) as stream:
        assert stream.read() == b"right"
        raise ZeroDivisionError
    assert files(cache) == []


def test_a_disk_that_fails_costs_a_download_and_no_more(world, tmp_path, monkeypatch):
    cache = ObjectCache(new(tmp_path / "cache"), 1 << 30)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    seen = look(world, cache)[1]
    monkeypatch.undo()
    assert files(cache) == []
    os.rmdir(cache._directory)
    assert look(world, cache)[1] == seen == look(world, None)[1]


class TestWhereItLies:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.delenv("VAULTIK_CACHE_SIZE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def test_in_a_private_directory(self, tmp_path):
        assert open_cache() is not None
        assert (tmp_path / "xdg/vaultik/objects").stat().st_mode & 0o777 == 0o700

    def test_below_home_without_xdg(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert open_cache()._directory == tmp_path / ".cache/vaultik/objects"

    def test_not_where_others_may_write(self, tmp_path):
        open_cache()
        (tmp_path / "xdg/vaultik/objects").chmod(0o770)
        assert open_cache() is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another's home")
    def test_not_in_the_home_of_somebody_else(self, tmp_path):
        (tmp_path / "xdg").mkdir()
        os.chown(tmp_path / "xdg", 12345, 12345)
        assert open_cache() is None
        assert list((tmp_path / "xdg").iterdir()) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can have another's link")
    def test_not_where_somebody_elses_link_leads(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "xdg").mkdir()
        (tmp_path / "xdg/vaultik").symlink_to(tmp_path / "root")
        os.chown(tmp_path / "xdg/vaultik", 12345, 12345, follow_symlinks=False)
        assert open_cache() is None
        assert list((tmp_path / "root").iterdir()) == []

    def test_not_where_nothing_can_be_made(self, tmp_path):
        (tmp_path / "xdg").write_text("a file")
        assert open_cache() is None

    def test_a_size(self, monkeypatch):
        monkeypatch.setenv("VAULTIK_CACHE_SIZE", "0")
        assert open_cache() is None
        monkeypatch.setenv("VAULTIK_CACHE_SIZE", "5MB")
        assert open_cache()._most == 5_000_000
        monkeypatch.setenv("VAULTIK_CACHE_SIZE", "much")
        with pytest.raises(ConfigError, match="VAULTIK_CACHE_SIZE: not a size"):
            open_cache()


class Bytes:
    def __init__(self, data):
        self._data = data

    def read(self, size=-1):
        size = len(self._data) if size < 0 else size
        data, self._data = self._data[:size], self._data[size:]
        return data


def put(cache, data):
    with cache.keeping(Bytes(data), hashlib.sha256(data).digest()) as stream:
        stream.read()


def get(cache, data):
    with cache.find(hashlib.sha256(data).digest()) as file:
        assert file.read() == data


def held(cache, objects):
    return {name for name, data in objects.items() if cache._path(hashlib.sha256(data).digest()).exists()}


def test_a_store_without_a_cache_is_the_store():
    class Plain:
        @contextmanager
        def open(self, key):
            yield Bytes(key.encode())

    plain = Plain()
    assert with_cache(plain, None) is plain
    with open_metadata(plain, "key", bytes(32)) as stream:
        assert stream.read() == b"key"
