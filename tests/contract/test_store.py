"""One contract, kept by the memory of a test, a directory, a strict S3 server and a poor one."""

import hashlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import S3_GROUP
from tests.support.memory_store import MemoryStore
from tests.support.objects import put, read, s3_store
from vaultik.errors import DigestMismatchError, FormatError, ObjectNotFoundError, StoreAccessError
from vaultik.store.local import LocalStore
from vaultik.store.open import open_store

KINDS = ["memory", "directory", pytest.param("seaweedfs", marks=S3_GROUP), pytest.param("rclone", marks=S3_GROUP)]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def make(request, tmp_path, kind):
    """Makes stores of one kind in one bucket, by prefix."""
    if kind == "memory":
        shared = {}
        return lambda prefix: MemoryStore(prefix, shared)
    if kind == "directory":
        return lambda prefix: LocalStore(tmp_path, "bucket", prefix, create=True)
    server = request.getfixturevalue("weed" if kind == "seaweedfs" else "poor_s3")
    return lambda prefix: s3_store(server, f"{tmp_path.name}/{prefix}")


@pytest.fixture
def store(make):
    opened = make("p/")
    yield opened
    opened.close()


def test_an_object_is_stored_once_and_stays(store, kind):
    assert put(store, "a/b", b"first") is True
    if kind != "rclone":  # it knows no conditional put
        assert put(store, "a/b", b"second") is False
        assert read(store, "a/b") == b"first"
    assert read(store, "a/b")


def test_bodies_are_bytes_or_files_of_any_size(store, tmp_path):
    for size in (0, 1, 70_000, 3_000_000):
        data = os.urandom(size)
        body = tmp_path / f"body {size}"
        body.write_bytes(data)
        assert put(store, f"bytes-{size}", data)
        assert put(store, f"file-{size}", body)
        assert read(store, f"bytes-{size}") == read(store, f"file-{size}") == data
        assert store.head(f"file-{size}").size_bytes == size


def test_a_body_that_is_not_its_digest_is_refused(store, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"body")
    for given in (b"body", body):
        with pytest.raises(DigestMismatchError):
            store.put("wrong", given, sha256=bytes(32))
    assert store.head("wrong") is None
    assert list(store.walk("wrong")) == []


def test_one_of_many_writers_wins(store, kind):
    if kind == "rclone":
        return  # without conditional puts all of them do; content-addressed names make that harmless
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: put(store, "contested", bytes([n]) * 1000), range(8)))
    assert won.count(True) == 1
    assert read(store, "contested") == bytes([won.index(True)]) * 1000


def test_ranges(store):
    data = os.urandom(300_000)
    put(store, "r", data)
    for offset, length in ((0, 10), (5, 100_000), (299_990, 10), (0, 300_000), (1, None), (250_000, 100_000)):
        end = None if length is None else offset + length
        assert read(store, "r", offset=offset, length=length) == data[offset:end], (offset, length)


@pytest.mark.parametrize("offset", [10, 11, 1 << 40, 9 * 10**18])
def test_a_range_beyond_the_end(store, offset):
    """Somebody's row may say so; it is that object's fault and not the store's."""
    put(store, "short", bytes(10))
    try:
        assert read(store, "short", offset=offset, length=100) == b""
    except FormatError as exc:
        assert "ends too early" in str(exc)


def test_what_is_not_there(store):
    put(store, "there", b"x")
    assert store.head("not") is None
    with pytest.raises(ObjectNotFoundError), store.open("not"):
        pass
    with pytest.raises(ObjectNotFoundError), store.open("not", offset=3, length=5):
        pass


def test_a_walk_is_complete_and_ascends(store, kind):
    keys = (
        [f"w/{n:02x}/{n:04d}" for n in range(1100)]
        if kind != "seaweedfs"
        else [f"w/{n:02x}/{n:04d}" for n in range(30)]
    )
    keys += ["w/qa.b", "w/qb/1", "w/qb/2", "w/Z", "x"]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: put(store, key, b"1"), keys))
    walked = [info.key for info in store.walk("w/")]
    assert walked == sorted(k for k in keys if k.startswith("w/"))
    assert [info.key for info in store.walk()] == sorted(keys)
    assert [info.key for info in store.walk("w/q")] == ["w/qa.b", "w/qb/1", "w/qb/2"]
    assert [info.key for info in store.walk("w/qb/")] == ["w/qb/1", "w/qb/2"]
    assert list(store.walk("nothing")) == []


def test_one_level(store):
    for key in ("top", "index/one/a", "index/two/b", "blobs/aa/bb/c"):
        put(store, key, b"12")
    assert sorted(store.children().prefixes) == ["blobs/", "index/"]
    assert [(o.key, o.size_bytes) for o in store.children().objects] == [("top", 2)]
    assert sorted(store.children("index/").prefixes) == ["index/one/", "index/two/"]


def test_prefixes_keep_stores_apart(make):
    one, two = make("one/"), make("two/")
    put(one, "k", b"1")
    assert two.head("k") is None
    assert list(two.walk()) == []
    assert one.location != two.location


def test_deleting_is_idempotent(store):
    put(store, "d/1", b"1")
    assert store.delete(["d/1", "d/never"]) == {}
    assert store.delete(["d/1"]) == {}
    assert store.head("d/1") is None


def test_the_stores_time_goes_on_and_is_near(store):
    first = store.now()
    assert abs(first - time.time()) < 5
    put(store, "t", b"1")
    assert store.now() >= first - 1  # a Date header has whole seconds
    assert abs(store.head("t").modified - first) < 5


class TestDirectory:
    def test_the_order_is_that_of_bytes_even_beside_folders(self, tmp_path):
        store = LocalStore(tmp_path, "b", "", create=True)
        for key in ("a/b", "a.b", "a-c"):
            put(store, key, b"1")
        assert [info.key for info in store.walk()] == ["a-c", "a.b", "a/b"]

    def test_a_missing_endpoint_is_named(self, tmp_path):
        store = LocalStore(tmp_path / "gone", "b", "", create=True)
        for act in (lambda: put(store, "k", b"1"), lambda: list(store.walk()), store.now):
            with pytest.raises(StoreAccessError, match="gone: no such directory"):
                act()

    def test_a_missing_bucket_is_named_with_those_that_are_there(self, tmp_path):
        (tmp_path / "real").mkdir()
        with pytest.raises(StoreAccessError, match="no bucket other") as caught:
            list(LocalStore(tmp_path, "other", "").walk())
        assert "real" in caught.value.hint

    def test_what_is_written_aside_is_in_no_listing(self, tmp_path):
        store = LocalStore(tmp_path, "b", "", create=True)
        put(store, "a/k", b"1")
        (tmp_path / "b/a/.tmp-123").write_bytes(b"half")
        assert [i.key for i in store.walk()] == ["a/k"]

    def test_objects_are_private(self, tmp_path):
        store = LocalStore(tmp_path, "b", "", create=True)
        put(store, "a/k", b"1")
        assert (tmp_path / "b/a/k").stat().st_mode & 0o777 == 0o600

    def test_a_file_on_the_same_disk_becomes_the_object_as_old_as_its_put(self, tmp_path):
        store = LocalStore(tmp_path, "b", "", create=True)
        body = tmp_path / "body"
        body.write_bytes(b"content")
        os.utime(body, (1_000, 1_000))
        put(store, "k", body)
        assert (tmp_path / "b/k").samefile(body)
        assert (tmp_path / "b/k").stat().st_mode & 0o777 == 0o600
        assert abs(store.head("k").modified - time.time()) < 5
        body.unlink()
        assert read(store, "k") == b"content"
        assert [path.name for path in (tmp_path / "b").iterdir()] == ["k"]

    def test_what_is_looked_at_is_what_becomes_the_object(self, tmp_path, monkeypatch):
        store = LocalStore(tmp_path, "b", "", create=True)
        body = tmp_path / "body"
        body.write_bytes(b"wrong")
        link = os.link

        def replaced_after(*args, **kwargs):
            link(*args, **kwargs)
            body.unlink()
            body.write_bytes(b"right")

        monkeypatch.setattr(os, "link", replaced_after)
        with pytest.raises(DigestMismatchError):
            store.put("k", body, sha256=hashlib.sha256(b"right").digest())
        assert store.head("k") is None

    def test_a_file_on_another_disk_is_copied(self, tmp_path):
        here = tmp_path.stat().st_dev
        elsewhere = next(path for path in ("/dev/shm", "/var/tmp", "/tmp") if os.stat(path).st_dev != here)
        with tempfile.TemporaryDirectory(dir=elsewhere) as directory:
            body = Path(directory) / "body"
            body.write_bytes(b"content")
            store = LocalStore(tmp_path, "b", "", create=True)
            put(store, "k", body)
            assert not (tmp_path / "b/k").samefile(body)
        assert read(store, "k") == b"content"

    def test_a_relative_endpoint_is_refused(self):
        with pytest.raises(Exception, match="not an absolute path"):
            open_store("file://relative", "b", "")


@S3_GROUP
class TestS3:
    def test_a_credential_that_can_only_put_is_enough_to_put(self, weed, tmp_path):
        store = s3_store(
            weed, f"{tmp_path.name}/", access_key_id="putkey", secret_access_key="putsecret", put_only=True
        )
        assert put(store, "k", b"1") is True
        assert put(store, "k", b"2") is False
        assert abs(store.now() - time.time()) < 5
        assert read(s3_store(weed, f"{tmp_path.name}/"), "k") == b"1"
        with pytest.raises(StoreAccessError, match="access denied"):
            list(store.walk())
