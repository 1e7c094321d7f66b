"""Large bodies go in parts: all of it or nothing, and nothing left behind."""

import base64
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import S3_GROUP
from tests.support.objects import put, read, s3_store
from tests.support.proxy import HELD_S, Proxy
from tests.support.tls import Authority
from vaultik.core.lease import GRACE_S
from vaultik.errors import DigestMismatchError, LostBodyError, StoreUnavailableError

pytestmark = S3_GROUP

PART = 5 << 20
PARTS = {"multipart_above": PART, "part_size": PART}
CREATE, SEND, COMPLETE, ABORT = "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"


@pytest.fixture
def prefix(tmp_path):
    return f"{tmp_path.name}/"


@pytest.fixture
def body(tmp_path):
    path = tmp_path / "body"
    path.write_bytes(os.urandom(3 * PART) + b"?")
    return path


def unfinished(server, prefix):
    found = server.client().list_multipart_uploads(Bucket="vault").get("Uploads", [])
    return [upload["Key"] for upload in found if upload["Key"].startswith(prefix)]


def before(store, event, act):
    """Let something happen when botocore comes to a point of its way."""
    store._client().meta.events.register(event, lambda **_: act())


@pytest.mark.parametrize("server", ["weed", "poor_s3"])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_body_in_parts_comes_back_whole(request, prefix, body, server, checksums):
    real = request.getfixturevalue(server)
    with Proxy(real) as proxy:
        store = s3_store(real, prefix, endpoint=proxy.endpoint, checksums=checksums, **PARTS)
        assert put(store, "big", body) is True
        if real.strict:
            assert put(store, "big", body) is False
            assert len(proxy.operations(ABORT)) == 1
    assert read(store_of(real, prefix), "big") == body.read_bytes()
    assert unfinished(real, prefix) == []


def store_of(server, prefix):
    return s3_store(server, prefix, **PARTS)


@pytest.mark.parametrize("checksums", [True, False])
def test_completing_names_the_digest_of_each_part(weed, prefix, body, checksums):
    # AWS refuses it otherwise; SeaweedFS doesn't.
    store = s3_store(weed, prefix, checksums=checksums, **PARTS)
    sent = []
    store._client().meta.events.register(f"before-call.s3.{COMPLETE}", lambda params, **_: sent.append(params["body"]))
    put(store, "k", body)
    (xml,) = sent
    data = body.read_bytes()
    digests = [hashlib.sha256(data[at : at + PART]).digest() for at in range(0, len(data), PART)]
    assert [base64.b64encode(digest) in xml for digest in digests] == [checksums] * 4


@pytest.mark.parametrize(("size", "parts"), [(PART - 1, 0), (PART, 0), (PART + 1, 2), (2 * PART, 2), (2 * PART + 1, 3)])
def test_the_limits_are_exact(weed, prefix, tmp_path, size, parts):
    body = tmp_path / "body"
    body.write_bytes(os.urandom(size))
    with Proxy(weed) as proxy:
        put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body)
        assert len(proxy.operations(SEND)) == parts
    store = store_of(weed, prefix)
    assert read(store, "k") == body.read_bytes()
    assert store.head("k").size_bytes == size


def test_more_parts_than_there_may_be_are_larger(weed, prefix, body, monkeypatch):
    monkeypatch.setattr("vaultik.store.s3_parts.PARTS_AT_MOST", 2)
    with Proxy(weed) as proxy:
        put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body)
        assert len(proxy.operations(SEND)) == 2
    assert read(store_of(weed, prefix), "k") == body.read_bytes()


def test_parts_go_side_by_side(weed, prefix, body):
    with Proxy(weed) as proxy:

        def meet(_request):
            """Wait until another part is under way as well."""
            with proxy.changed:
                proxy.changed.wait_for(lambda: len(proxy.operations(SEND)) >= 2, timeout=HELD_S)

        proxy.script = {SEND: iter([meet, meet])}
        put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body)
        assert proxy.under_way(SEND) >= 2
    assert read(store_of(weed, prefix), "k") == body.read_bytes()


@pytest.mark.parametrize("operation", [SEND, COMPLETE])
@pytest.mark.parametrize("fault", ["reset", "500"])
def test_an_upload_that_fails_is_given_up_and_leaves_nothing(weed, prefix, body, operation, fault, pauses):  # noqa: ARG001
    with Proxy(weed, {operation: [fault] * 30}) as proxy:
        with pytest.raises(StoreUnavailableError):
            put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body)
        assert len(proxy.operations(ABORT)) == 1
    assert unfinished(weed, prefix) == []
    assert store_of(weed, prefix).head("k") is None


def test_a_failed_part_keeps_the_rest_from_being_sent(weed, prefix, tmp_path, pauses):  # noqa: ARG001
    body = tmp_path / "body"
    body.write_bytes(bytes(9 * PART))
    with Proxy(weed, {SEND: ["reset"] * 30}) as proxy:
        with pytest.raises(StoreUnavailableError):
            put(s3_store(weed, prefix, endpoint=proxy.endpoint, attempts=1, **PARTS), "k", body)
        assert len(proxy.operations(SEND)) < 9


def test_a_body_that_changes_between_its_parts_is_refused(weed, prefix, body):
    store = store_of(weed, prefix)

    def change():
        with body.open("r+b") as file:
            file.seek(3 * PART)
            file.write(b"!")

    before(store, f"before-call.s3.{CREATE}", change)
    with pytest.raises(DigestMismatchError, match="changed while it was sent"):
        put(store, "k", body)
    assert unfinished(weed, prefix) == []
    assert store.head("k") is None


def test_a_body_that_vanishes_between_its_parts_is_named(weed, prefix, body):
    store = store_of(weed, prefix)
    before(store, f"before-call.s3.{CREATE}", body.unlink)
    with pytest.raises(LostBodyError, match="body: No such file"):
        put(store, "k", body)
    assert unfinished(weed, prefix) == []


@pytest.mark.parametrize("server", ["weed", "poor_s3"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("change", ["other", "shorter", "empty"])
@pytest.mark.usefixtures("pauses")
def test_a_body_that_changes_while_it_is_sent_whole_is_refused(
    request,
    prefix,
    tmp_path,
    monkeypatch,
    server,
    tls,
    change,
):
    real = request.getfixturevalue(server)
    body = tmp_path / "small"
    body.write_bytes(os.urandom(299_999) + b"?")
    ca = Authority(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.bundle))
    with Proxy(real, tls=ca.server() if tls else None) as proxy:
        store = s3_store(real, prefix, endpoint=proxy.endpoint)

        def alter():
            if change == "other":
                with body.open("r+b") as file:
                    file.seek(299_999)
                    file.write(b"!")
            else:
                os.truncate(body, 1000 if change == "shorter" else 0)

        before(store, "before-send.s3.PutObject", alter)
        with pytest.raises(DigestMismatchError, match="k: the body is not what its digest says"):
            put(store, "k", body)
        assert s3_store(real, prefix).head("k") is None


def test_a_body_that_grows_while_it_is_sent_is_stored_as_it_was(weed, prefix, body):
    store = s3_store(weed, prefix)
    was = body.read_bytes()

    def grow():
        with body.open("ab") as file:
            file.write(b"more")

    before(store, "before-send.s3.PutObject", grow)
    put(store, "k", body)
    assert read(store, "k") == was


KILLED = """
import hashlib, sys
from pathlib import Path
from vaultik.store.s3 import S3Store
endpoint, prefix, body = sys.argv[1:]
store = S3Store(endpoint, "vault", prefix, access_key_id="adminkey", secret_access_key="adminsecret",
                multipart_above=5 << 20, part_size=5 << 20)
store.put("k", Path(body), sha256=hashlib.sha256(Path(body).read_bytes()).digest())
"""


def kill_in(operation, server, prefix, body):
    """Put a body in another process, and kill it when a request of that operation is under way."""
    with Proxy(server) as proxy:
        killed = []

        def kill(_request):
            killed.append(process.send_signal(signal.SIGKILL))
            process.wait()
            return "reset"

        passes = 2 if operation == SEND else 0
        proxy.script = {operation: iter(["pass"] * passes + [kill] * 4)}
        process = subprocess.Popen([sys.executable, "-c", KILLED, proxy.endpoint, prefix, str(body)])
        process.wait(60)
        # The thread that killed may not have come to its end.
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("operation", [SEND, COMPLETE])
def test_what_a_kill_left_is_ended_when_the_same_is_put_again(weed, prefix, body, operation):
    kill_in(operation, weed, prefix, body)
    assert unfinished(weed, prefix) == [f"{prefix}k"]
    store = store_of(weed, prefix)
    assert store.head("k") is None
    assert list(store.walk()) == []
    assert put(store, "k", body) is True
    assert unfinished(weed, prefix) == []
    assert read(store, "k") == body.read_bytes()


def test_what_a_kill_left_of_something_else_is_ended_when_it_is_old(weed, prefix, body, monkeypatch):
    weed.client().create_multipart_upload(Bucket="vault", Key=f"{prefix}other")
    weed.client().create_multipart_upload(Bucket="vault", Key=f"{prefix.rstrip('/')}-not ours/other")
    store = store_of(weed, prefix)
    put(store, "k", body)
    assert unfinished(weed, prefix) == [f"{prefix}other"]
    now = store.now()
    monkeypatch.setattr(store, "now", lambda: now + GRACE_S + 60)
    put(store, "k2", body)
    assert unfinished(weed, prefix) == []
    assert len(unfinished(weed, f"{prefix.rstrip('/')}-not ours/")) == 1


def test_a_credential_that_can_only_put_puts_parts_as_well(weed, prefix, body):
    store = s3_store(weed, prefix, access_key_id="putkey", secret_access_key="putsecret", put_only=True, **PARTS)
    assert put(store, "k", body) is True
    assert put(store, "k", body) is False
    assert read(store_of(weed, prefix), "k") == body.read_bytes()
    assert unfinished(weed, prefix) == []


def test_an_upload_that_somebody_ends_is_named(weed, prefix, body):
    def end(_request):
        for upload in weed.client().list_multipart_uploads(Bucket="vault", Prefix=prefix)["Uploads"]:
            weed.client().abort_multipart_upload(Bucket="vault", Key=upload["Key"], UploadId=upload["UploadId"])

    with Proxy(weed, {COMPLETE: [end]}) as proxy, pytest.raises(StoreUnavailableError, match="parts is gone") as caught:
        put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body)
    assert caught.value.hint


def test_an_upload_that_may_be_too_late_is_not_completed(weed, prefix, body):
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + 30  # less than an answer may take
    with Proxy(weed) as proxy:
        with pytest.raises(StoreUnavailableError, match="took too long"):
            put(s3_store(weed, prefix, endpoint=proxy.endpoint, **PARTS), "k", body, until=until)
        assert proxy.operations(COMPLETE) == []
    assert unfinished(weed, prefix) == []
