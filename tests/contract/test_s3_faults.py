"""Requests that fail on their way: every call of the store outlasts a few, and names a store that never gets better."""

import hashlib
import itertools
import os
import time

import pytest

from tests.conftest import S3_GROUP
from tests.support.objects import put, read, s3_store, store_at
from tests.support.proxy import STALLED_S, Canned, Proxy
from vaultik.errors import IntegrityError, ObjectNotFoundError, StoreAccessError, StoreError, StoreUnavailableError
from vaultik.maintain.findings import Kind
from vaultik.maintain.reading import Item, read_item
from vaultik.store.s3_client import parse_date

pytestmark = [S3_GROUP, pytest.mark.usefixtures("pauses")]

DATA = os.urandom(400_000)
PARTS = {"multipart_above": 5 << 20, "part_size": 5 << 20}
FEW = ["reset", "500", "reset-late", "503", "lost"]
"""What a call outlasts: the store of these tests tries one time more."""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    body = tmp_path_factory.mktemp("bodies") / "big"
    body.write_bytes(os.urandom(5_500_000))
    return body


@pytest.fixture
def prefix(tmp_path):
    return f"{tmp_path.name}/"


@pytest.fixture(scope="module")
def whole_bucket(weed):
    return s3_store(weed)


class Near:
    """The store without anything between, and three objects in it."""

    def __init__(self, whole_bucket, prefix):
        self.store, self.prefix = whole_bucket, prefix
        for key in ("a", "d/1", "d/2"):
            put(whole_bucket, prefix + key, DATA if key == "a" else b"12")

    def read(self, key):
        return read(self.store, self.prefix + key)


@pytest.fixture
def near(whole_bucket, prefix):
    return Near(whole_bucket, prefix)


CALLS = {
    "put whole": ("PutObject", lambda store, _: put(store, "new", DATA), None),
    "put a file": ("PutObject", put, True),
    "open": ("GetObject", lambda store, _: read(store, "a"), DATA),
    "a range": ("GetObject", lambda store, _: read(store, "a", offset=70_000, length=50_000), DATA[70_000:120_000]),
    "the rest": ("GetObject", lambda store, _: read(store, "a", offset=70_000), DATA[70_000:]),
    "head": ("HeadObject", lambda store, _: store.head("a").size_bytes, len(DATA)),
    "walk": ("ListObjectsV2", lambda store, _: [info.key for info in store.walk()], ["a", "d/1", "d/2"]),
    "children": ("ListObjectsV2", lambda store, _: store.children().prefixes, ["d/"]),
    "delete": ("DeleteObjects", lambda store, _: store.delete(["d/1", "d/2"]), {}),
    "create upload": ("CreateMultipartUpload", None, None),
    "send part": ("UploadPart", None, None),
    "complete upload": ("CompleteMultipartUpload", None, None),
}


def call(name, store, big):
    """Do what a name says; its answer may be anything where only the effect counts."""
    _, act, _ = CALLS[name]
    if name == "put a file":
        small = big.with_name("small")
        small.write_bytes(DATA)
        return put(store, "new", small)
    return act(store, big) if act else put(store, "new", big)


@pytest.mark.parametrize("name", CALLS)
def test_a_few_failures_are_outlasted_by_further_tries(weed, near, prefix, big, pauses, name):
    operation, _, expected = CALLS[name]
    with Proxy(weed, {operation: FEW}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, attempts=len(FEW) + 1, **PARTS)
        answer = call(name, store, big)
        assert proxy.faults() == len(FEW)
    if expected in (None, True):
        body = DATA if operation == "PutObject" else big.read_bytes()
        assert near.read("new") == body
    else:
        assert answer == expected
    assert len(pauses) == len(FEW)
    if operation != "UploadPart":  # parts are tried again side by side
        assert pauses[0] < pauses[1] < pauses[2]
        assert name == "head" or pauses[3] >= 8  # who is asked to slow down waits longer; a HEAD has no body to ask so


@pytest.mark.parametrize(
    ("fault", "words"),
    [("reset", "broke off"), ("500", "HTTP 500"), ("503", "slow down|HTTP 503"), ("lost", "broke off")],
)
def test_a_store_that_never_gets_better_is_given_up_in_one_line(weed, near, prefix, big, fault, words):  # noqa: ARG001
    script = {operation: itertools.repeat(fault) for operation, _, _ in CALLS.values()}
    for name in ("send part", "complete upload"):
        script.pop(CALLS[name][0])
    with Proxy(weed, script) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, attempts=3, **PARTS)
        for name, (operation, _, _) in CALLS.items():
            if name in ("send part", "complete upload"):
                proxy.script = {operation: itertools.repeat(fault)}
            proxy.requests.clear()
            with pytest.raises(StoreUnavailableError, match=words) as caught:
                call(name, store, big)
            assert len(proxy.operations(operation)) in ((3,) if name != "send part" else range(3, 7)), name
            message = str(caught.value)
            assert "\n" not in message
            assert store.location.strip() in message
            assert "adminsecret" not in message + caught.value.hint


@pytest.mark.parametrize("name", CALLS)
def test_an_answer_that_does_not_come_is_asked_for_again(weed, near, prefix, big, monkeypatch, name):  # noqa: ARG001
    monkeypatch.setattr("vaultik.store.s3_client.READ_S", STALLED_S / 2)
    operation, _, expected = CALLS[name]
    with Proxy(weed, {operation: ["slow"]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS)
        answer = call(name, store, big)
        assert proxy.faults() == 1
    if operation in ("PutObject", "CompleteMultipartUpload"):
        assert answer is False  # the first try has done it
    else:
        assert answer == (True if expected is None else expected)


@pytest.mark.parametrize("name", ["put whole", "open", "walk", "delete"])
def test_one_that_never_comes_is_given_up(weed, near, prefix, big, monkeypatch, name):  # noqa: ARG001
    monkeypatch.setattr("vaultik.store.s3_client.READ_S", STALLED_S / 2)
    with Proxy(weed, {CALLS[name][0]: itertools.repeat("slow")}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint)
        with pytest.raises(StoreUnavailableError, match=r"no answer in time$"):
            call(name, store, big)
        assert proxy.faults() == 2


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("fault", "kind"), [("403", StoreAccessError), ("404", ObjectNotFoundError)])
def test_what_is_refused_is_not_asked_for_again(weed, near, prefix, big, name, fault, kind):
    operation, _, _ = CALLS[name]
    script = {operation: itertools.repeat(fault)}
    if (name, fault) == ("head", "403"):
        # Who may not get is told by a listing, where he may list.
        script[CALLS["walk"][0]] = itertools.repeat(fault)
    with Proxy(weed, script) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS)
        if (name, fault) == ("head", "404"):
            assert store.head("a") is None
        else:
            with pytest.raises(kind, match=r"access denied|no such object") as caught:
                call(name, store, big)
            assert "\n" not in str(caught.value)
        assert len(proxy.operations(operation)) == 1 or operation == "UploadPart"
    assert near.store.head(f"{prefix}new") is None
    assert unfinished(weed, prefix) == []


def test_who_may_not_get_is_told_by_a_listing(weed, near, prefix):
    put(near.store, f"{prefix}there", b"12345")
    with Proxy(weed, {CALLS["head"][0]: itertools.repeat("403")}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint)
        assert store.head("there").size_bytes == 5
        assert store.head("the") is None
        assert store.head("there not") is None


PUTS = ["put whole", "put a file", "complete upload"]


@pytest.mark.parametrize("name", PUTS)
def test_two_puts_that_meet_are_tried_again(weed, near, prefix, big, monkeypatch, name):
    monkeypatch.setattr("vaultik.store.s3._CONFLICT_PAUSES_S", (0.0, 0.0))
    operation, _, _ = CALLS[name]
    with Proxy(weed, {operation: ["409", "409"]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS)
        assert call(name, store, big) is True
        proxy.script = {operation: itertools.repeat("409")}
        near.store.delete([f"{prefix}new"])
        proxy.requests.clear()
        with pytest.raises(StoreUnavailableError, match="another put of it is going on"):
            call(name, store, big)
        assert len(proxy.operations(operation)) == 3
    assert near.store.head(f"{prefix}new") is None
    assert unfinished(weed, prefix) == []


@pytest.mark.parametrize("name", PUTS)
def test_what_stands_there_is_left(weed, near, prefix, big, name):
    """The server's word is taken for it; what it is worth is for a listing to say."""
    with Proxy(weed, {CALLS[name][0]: ["412"]}) as proxy:
        assert call(name, s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), big) is False
    assert near.store.head(f"{prefix}new") is None
    assert unfinished(weed, prefix) == []


def test_a_put_whose_answer_was_lost_is_done(weed, near, prefix):
    with Proxy(weed, {"PutObject": ["lost"]}) as proxy:
        assert put(s3_store(weed, prefix, endpoint=proxy.endpoint), "k", DATA) is False
        assert len(proxy.operations("PutObject")) == 2
    assert near.read("k") == DATA


def test_an_upload_whose_completion_lost_its_answer_is_done(weed, near, prefix, big):
    with Proxy(weed, {"CompleteMultipartUpload": ["lost"]}) as proxy:
        put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", big)
        assert len(proxy.operations("CompleteMultipartUpload")) == 2
    assert near.read("k") == big.read_bytes()
    assert unfinished(weed, prefix) == []


def test_so_it_is_on_a_server_that_knows_no_conditions(poor_s3, prefix, big):
    with Proxy(poor_s3, {"CompleteMultipartUpload": ["lost"], "PutObject": ["lost"]}) as proxy:
        store = s3_store(poor_s3, prefix, endpoint=proxy.endpoint, **PARTS)
        put(store, "k", big)
        put(store, "small", DATA)
        assert proxy.faults() == 2
    assert read(s3_store(poor_s3, prefix), "k") == big.read_bytes()
    assert read(s3_store(poor_s3, prefix), "small") == DATA


def test_what_may_be_sent_once_only_is_sent_once(weed, near, prefix):
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + 3600
    with Proxy(weed, {"PutObject": ["reset", "503", "lost"]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, attempts=5)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                put(store, "k", DATA, until=until)
        assert len(proxy.operations("PutObject")) == 3
    assert near.read("k") == DATA  # by the one whose answer was lost


@pytest.mark.parametrize("fault", ["cut", "short"])
@pytest.mark.parametrize("server", ["weed", "poor_s3"])
@pytest.mark.parametrize("at", [{}, {"offset": 100_000}, {"offset": 100_000, "length": 200_000}])
def test_an_answer_that_breaks_is_asked_for_again_from_there(request, prefix, server, fault, at):
    real = request.getfixturevalue(server)
    put(s3_store(real, prefix), "k", DATA)
    with Proxy(real, {"GetObject": [fault, fault, fault]}) as proxy:
        offset, length = at.get("offset", 0), at.get("length")
        found = read(s3_store(real, prefix, endpoint=proxy.endpoint), "k", **at)
        assert found == DATA[offset : None if length is None else offset + length]
        assert proxy.faults() == 3


@pytest.mark.parametrize("at", [{}, {"offset": 100_000, "length": 200_000}])
def test_so_is_one_that_stalls(weed, near, prefix, monkeypatch, at):  # noqa: ARG001
    monkeypatch.setattr("vaultik.store.s3_client.READ_S", STALLED_S / 2)
    with Proxy(weed, {"GetObject": ["stall", "stall"]}) as proxy:
        found = read(s3_store(weed, prefix, endpoint=proxy.endpoint), "a", **at)
        assert proxy.faults() == 2
    assert found == DATA[at.get("offset", 0) :][: at.get("length")]


@pytest.mark.parametrize("name", ["walk", "children", "delete"])
@pytest.mark.parametrize("fault", ["cut", "short", "truncate", "empty"])
def test_an_answer_without_its_end_is_never_taken_for_one(weed, near, prefix, big, name, fault):
    operation, _, expected = CALLS[name]
    with Proxy(weed, {operation: [fault]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint)
        try:
            assert call(name, store, big) == expected
        except StoreUnavailableError as exc:
            assert "\n" not in str(exc)
        else:
            assert len(proxy.operations(operation)) == 2
        assert proxy.faults() == 1
    assert near.read("a") == DATA


@pytest.mark.parametrize(
    ("act", "lacking"),
    [(lambda store: list(store.walk()), "IsTruncated"), (lambda store: store.delete(["a"]), "Deleted")],
)
def test_nor_is_a_page_of_somebody_else(act, lacking):
    page = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>Please log in.</body></html>'
    with (
        Canned(body=page) as server,
        pytest.raises(StoreUnavailableError, match=f"an answer without '{lacking}'") as caught,
    ):
        act(store_at(server.endpoint))
    assert caught.value.hint == "is the endpoint one of S3?"


@pytest.mark.parametrize("fault", ["truncate", "empty", "lengthen", "flip"])
def test_a_body_that_is_another_one_is_told_by_its_name(weed, near, prefix, fault):  # noqa: ARG001
    """The store gives what it gets; who reads holds it against the digest."""
    item = Item("a", hashlib.sha256(DATA).digest(), len(DATA))
    with Proxy(weed, {"GetObject": [fault]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint)
        assert read_item(store, item, lambda _: True).problem == (Kind.DAMAGED, "its bytes are not what its name says")
        assert read_item(store, item, lambda _: True).problem is None


@pytest.mark.parametrize("name", ["put whole", "put a file", "send part"])
def test_a_body_that_is_altered_on_its_way_there_is_refused(weed, near, prefix, big, name):
    with Proxy(weed, {CALLS[name][0]: itertools.repeat("flip-sent")}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS)
        with pytest.raises(StoreError) as caught:
            call(name, store, big)
        assert "\n" not in str(caught.value)
    assert near.store.head(f"{prefix}new") is None
    assert unfinished(weed, prefix) == []


def test_of_a_range_never_more_comes_than_was_asked_for(weed, near, prefix):  # noqa: ARG001
    with Proxy(weed, {"GetObject": ["lengthen"]}) as proxy:
        store = s3_store(weed, prefix, endpoint=proxy.endpoint)
        assert read(store, "a", offset=70_000, length=50_000) == DATA[70_000:120_000]
        assert proxy.faults() == 1


@pytest.mark.parametrize("breaks", [[], [50_000, 200_000], [392_000, 100_000, 393_000]])
@pytest.mark.parametrize(("offset", "length"), [(390_000, 5_000), (100_000, None), (300_000, 200_000), (0, 10)])
def test_a_server_that_knows_no_ranges_sends_all_of_it_each_time(breaks, offset, length):
    with Canned(body=DATA, breaks=breaks) as server:
        end = None if length is None else offset + length
        assert read(store_at(server.endpoint), "a", offset=offset, length=length) == DATA[offset:end]
        assert server.asked == (1 + len(breaks) if length != 10 else 1)


def test_a_store_that_breaks_every_answer_is_given_up(weed, near, prefix, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr("vaultik.store.s3_body._PAUSES_S", (0.0, 0.0, 0.0))
    with Proxy(weed, {"GetObject": itertools.repeat("cut")}) as proxy:
        with pytest.raises(StoreUnavailableError, match="a: the store broke off its answer 4 times") as caught:
            read(s3_store(weed, prefix, endpoint=proxy.endpoint), "a")
        assert len(proxy.operations("GetObject")) == 4
    assert caught.value.hint


def test_an_object_replaced_between_two_parts_of_it_is_noticed(weed, near, prefix):  # noqa: ARG001
    def replace(_request):
        weed.client().put_object(Bucket="vault", Key=f"{prefix}a", Body=b"x" * len(DATA))

    with Proxy(weed, {"GetObject": ["cut", replace]}) as proxy, pytest.raises(IntegrityError, match="replaced"):
        read(s3_store(weed, prefix, endpoint=proxy.endpoint), "a")


def test_a_list_in_many_pages_outlasts_failures_between_them(poor_s3, prefix, monkeypatch):
    monkeypatch.setattr("vaultik.store.s3._PAGE", 3)
    near = s3_store(poor_s3, prefix)
    keys = [f"n/{n}" for n in range(10)]
    for key in keys:
        put(near, key, b"1")
    with Proxy(poor_s3, {"ListObjectsV2": ["pass", "503", "pass", "reset", "pass"]}) as proxy:
        store = s3_store(poor_s3, prefix, endpoint=proxy.endpoint)
        assert [info.key for info in store.walk()] == keys
        assert store.delete(keys) == {}
        assert len(proxy.operations("DeleteObjects")) == 4
    assert list(near.walk()) == []


def test_each_key_that_cannot_be_deleted_has_its_reason(weed, near, prefix):
    writer = s3_store(weed, prefix, access_key_id="readerkey", secret_access_key="readersecret")
    try:
        failed = writer.delete(["a", "d/1"])
    except StoreAccessError as exc:
        failed = dict.fromkeys(["a", "d/1"], str(exc))
    assert failed.keys() == {"a", "d/1"}
    assert near.read("a") == DATA


def test_the_stores_time_is_that_of_its_answers(weed, prefix, monkeypatch):
    store = s3_store(weed, prefix)
    put(store, "k", b"1")
    near = store.now()
    assert abs(near - time.time()) < 5
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert store.now() >= near  # this machine's clock has no say in it


def test_a_date_without_a_zone_is_none():
    assert parse_date("Tue, 24 Nov 2026 10:00:00 GMT").timestamp() == 1795514400
    for text in (None, "", "yesterday", "Tue, 24 Nov 2026 10:00:00 -0000"):
        assert parse_date(text) is None


def unfinished(server, prefix):
    found = server.client().list_multipart_uploads(Bucket="vault").get("Uploads", [])
    return [upload["Key"] for upload in found if upload["Key"].startswith(prefix)]
