"""One contract, kept by the memory of a test, a directory, a strict S3 server and a poor one."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.conftest import S3_GROUP
from tests.support.memory_store import MemoryStore
from tests.support.proxy import BreakingProxy
from tests.support.servers import free_ports
from vaultik.errors import DigestMismatchError, ObjectNotFoundError, StoreAccessError, StoreUnavailableError
from vaultik.store.local import LocalStore
from vaultik.store.open import open_store
from vaultik.store.s3 import S3Store

KINDS = ["memory", "directory", pytest.param("seaweedfs", marks=S3_GROUP), pytest.param("rclone", marks=S3_GROUP)]


def put(store, key, body, **kwargs):
    data = body if isinstance(body, bytes) else body.read_bytes()
    return store.put(key, body, sha256=hashlib.sha256(data).digest(), **kwargs)


def read(store, key, **kwargs):
    with store.open(key, **kwargs) as stream:
        parts = []
        while part := stream.read(100_000):
            parts.append(part)
        return b"".join(parts)


def s3_store(server, prefix, **kwargs):
    settings = {"access_key_id": server.access_key, "secret_access_key": server.secret_key, "attempts": 2, **kwargs}
    return S3Store(server.endpoint, settings.pop("bucket", "vault"), prefix, **settings)


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
        for act in (lambda: put(store, "k", b"1"), lambda: list(store.walk())):
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

    def test_a_relative_endpoint_is_refused(self):
        with pytest.raises(Exception, match="not an absolute path"):
            open_store("file://relative", "b", "")


@S3_GROUP
class TestS3:
    def test_large_bodies_go_in_parts(self, weed, tmp_path):
        store = s3_store(weed, f"{tmp_path.name}/", multipart_above=6 << 20, part_size=5 << 20)
        body = tmp_path / "big"
        body.write_bytes(os.urandom(23_000_000))
        assert put(store, "big", body) is True
        assert put(store, "big", body) is False
        assert read(store, "big") == body.read_bytes()
        uploads = weed.client().list_multipart_uploads(Bucket="vault").get("Uploads", [])
        assert [u for u in uploads if u["Key"].startswith(tmp_path.name)] == []

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"access_key_id": "nobody"}, StoreAccessError, "doesn't know this access key"),
            ({"secret_access_key": "wrong"}, StoreAccessError, "secret doesn't fit"),
            ({"bucket": "no-such-bucket"}, StoreAccessError, "no such bucket"),
        ],
    )
    def test_refusals_are_named_without_secrets(self, weed, change, error, words):
        store = s3_store(weed, "p/", **change)
        for act in (lambda: list(store.walk()), lambda: put(store, "k", b"1")):
            with pytest.raises(error, match=words) as caught:
                act()
            assert "adminsecret" not in f"{caught.value} {caught.value.hint}"
            assert caught.value.hint

    def test_a_server_that_is_down_is_named(self):
        store = S3Store(
            f"http://127.0.0.1:{free_ports(1)[0]}", "b", "", access_key_id="a", secret_access_key="b", attempts=1
        )
        for act in (lambda: list(store.walk()), store.now, lambda: put(store, "k", b"1")):
            with pytest.raises(StoreUnavailableError, match="can't connect"):
                act()

    def test_no_credential_is_named(self, weed, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        with pytest.raises(StoreAccessError, match="no credential"):
            list(S3Store(weed.endpoint, "vault", "").walk())

    def test_tls_to_a_plain_server_is_named(self, weed):
        endpoint = weed.endpoint.replace("http://", "https://")
        store = S3Store(endpoint, "vault", "", access_key_id="a", secret_access_key="b", attempts=1)
        with pytest.raises(StoreUnavailableError):
            list(store.walk())

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

    def test_a_broken_answer_is_resumed_where_it_broke(self, weed, tmp_path):
        data = os.urandom(5_000_000)
        put(s3_store(weed, f"{tmp_path.name}/"), "k", data)
        with BreakingProxy(urlsplit(weed.endpoint).port, breaks=3, after=1_000_000) as proxy:
            weed_by_proxy = type(weed)(
                f"http://127.0.0.1:{proxy.port}", weed.access_key, weed.secret_key, weed.process, strict=True
            )
            assert read(s3_store(weed_by_proxy, f"{tmp_path.name}/"), "k") == data
            assert proxy.broken == 3

    def test_a_store_that_breaks_every_answer_is_given_up(self, weed, tmp_path):
        put(s3_store(weed, f"{tmp_path.name}/"), "k", os.urandom(5_000_000))
        with BreakingProxy(urlsplit(weed.endpoint).port, breaks=1000, after=1_000) as proxy:
            weed_by_proxy = type(weed)(
                f"http://127.0.0.1:{proxy.port}", weed.access_key, weed.secret_key, weed.process, strict=True
            )
            with pytest.raises(StoreUnavailableError):
                read(s3_store(weed_by_proxy, f"{tmp_path.name}/"), "k")
