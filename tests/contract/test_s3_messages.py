"""What goes wrong with S3, each with a line that says what, a hint that says what to do, and no secret in either."""

import contextlib
import datetime
import socket

import botocore.auth
import pytest

from tests.conftest import S3_GROUP
from tests.support.objects import CALLS, put, read, refusal, s3_store, store_at
from tests.support.proxy import Canned, Proxy
from tests.support.servers import free_ports, rclone
from vaultik.errors import ConfigError, FormatError, StoreError, StoreUnavailableError
from vaultik.store.open import open_store
from vaultik.store.s3 import S3Store

pytestmark = [S3_GROUP, pytest.mark.usefixtures("pauses")]


class TestRefused:
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize(
        ("change", "words", "hint"),
        [
            ({"access_key_id": "nobody"}, "doesn't know this access key", "access_key_id"),
            ({"secret_access_key": "wrong-secret"}, "the secret doesn't fit", "secret_access_key"),
            ({"bucket": "no-such-bucket"}, "no such bucket", "correct its name"),
            ({"access_key_id": "putkey", "secret_access_key": "putsecret"}, "access denied", "put_only"),
        ],
    )
    def test_by_the_credential_or_the_bucket(self, weed, change, words, hint, call):
        store = s3_store(weed, "p/", **change)
        if "putkey" in change.values() and call == "put":
            return  # that is what it may
        if "bucket" in change and call == "head":
            assert store.head("k") is None  # a HEAD can't tell
            return
        if call == "delete" and "putkey" in change.values():
            assert "AccessDenied" in store.delete(["k"])["k"]
            return
        found = refusal(store, call)
        if call == "head":
            assert found[0].endswith("access denied")
            return
        assert words in found[0]
        assert hint in found[1]

    @pytest.mark.parametrize("hours", [-2, 2])
    def test_by_a_clock_that_is_off(self, weed, monkeypatch, hours):
        real = botocore.auth.get_current_datetime

        def shifted(*args, **kwargs):
            return real(*args, **kwargs) + datetime.timedelta(hours=hours)

        monkeypatch.setattr(botocore.auth, "get_current_datetime", shifted)
        for call in ("put", "list", "get", "delete"):
            assert refusal(s3_store(weed, "p/"), call) == (
                f"store {weed.endpoint} vault p/: {call if call == 'delete' else 'list' if call == 'list' else 'k'}:"
                " this machine's clock is off",
                "set the clock; the store refuses requests out of their time",
            )
        assert "clock" in refusal(s3_store(weed, "p/"), "head")[1]

    @pytest.mark.parametrize(
        ("status", "code", "words", "hint"),
        [
            ("403 Forbidden", "AccessDenied", "k: access denied", "right"),
            ("403 Forbidden", "InvalidObjectState", "k: the object is archived", "bring it back"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "k: the store expects another region", "s3.region"),
            ("301 Moved Permanently", "PermanentRedirect", "k: the bucket lies elsewhere", "s3.endpoint"),
            ("400 Bad Request", "ExpiredToken", "k: the credential has expired", "get a new one"),
            ("400 Bad Request", "InvalidToken", "k: the session token isn't valid", "get a new one"),
        ],
    )
    def test_one_object(self, status, code, words, hint):
        with Canned(status=status, code=code) as server:
            found = refusal(store_at(server.endpoint), "get")
        assert words in found[0]
        assert hint in found[1]

    @pytest.mark.parametrize("call", ["get", "head", "list", "put", "delete"])
    @pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
    def test_by_a_server_that_sends_everybody_elsewhere(self, call, status):
        with Canned(status=status, body=b"<html>moved</html>", headers=["Location: https://127.0.0.1:1/"]) as server:
            found = refusal(store_at(server.endpoint), call)
            assert server.asked <= 2
        assert found[0].endswith("the bucket lies elsewhere")
        assert "https://?" in found[1]

    @pytest.mark.parametrize("call", ["get", "list", "put"])
    def test_by_its_region_which_the_answer_names(self, call):
        xml = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message><Region>eu-test-1</Region></Error>"
        with Canned(status="400 Bad Request", body=xml) as server:
            found = refusal(store_at(server.endpoint), call)
            assert server.asked <= 2
        assert found[0].endswith("the store expects another region")

    def test_with_a_code_that_nobody_knows(self):
        with Canned(status="418 Teapot", code="Odd") as server:
            assert refusal(store_at(server.endpoint), "get")[0].endswith("k: Odd (HTTP 418): as the test wants it")

    def test_a_range_beyond_the_end(self, weed, tmp_path):
        store = s3_store(weed, f"{tmp_path.name}/")
        put(store, "k", b"12345")
        with pytest.raises(FormatError, match="k: ends too early"):
            read(store, "k", offset=10, length=2)


class TestCredential:
    def test_none(self, weed):
        found = refusal(S3Store(weed.endpoint, "vault", "p/"), "list")
        assert found[0].endswith("no credential")
        assert "AWS_ACCESS_KEY_ID" in found[1]

    def test_half_of_one(self, weed, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "adminkey")
        assert refusal(S3Store(weed.endpoint, "vault", "p/"), "list")[0].endswith("no credential")

    @pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:1"])
    def test_an_unknown_profile(self, monkeypatch, endpoint):
        monkeypatch.setenv("AWS_PROFILE", "nosuch")
        found = refusal(S3Store(endpoint, "vault", "p/"), "list")
        assert "profile (nosuch) could not be found" in found[0]
        assert "AWS_PROFILE" in found[1]

    def test_what_should_give_one_fails(self, weed, monkeypatch, tmp_path):
        config = tmp_path / "config"
        config.write_text("[default]\ncredential_process = /bin/false\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        assert "no credential: " in refusal(S3Store(weed.endpoint, "vault", "p/"), "list")[0]


class TestConnection:
    @pytest.mark.parametrize("call", ["put", "get", "list", "head", "delete"])
    def test_nobody_listens(self, call):
        found = refusal(store_at(f"http://127.0.0.1:{free_ports(1)[0]}"), call, StoreUnavailableError)
        assert found[0].endswith(": can't connect")
        assert "endpoint" in found[1]

    def test_no_such_host(self, monkeypatch):
        def fail(*_args, **_kwargs):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        found = refusal(store_at("https://nosuch.test"), "list", StoreUnavailableError)
        assert found[0].endswith("can't connect: no such host")
        assert "DNS" in found[1]

    def test_a_black_hole(self, monkeypatch):
        monkeypatch.setattr("vaultik.store.s3_client._CONNECT_S", 0.2)
        with contextlib.ExitStack() as stack:
            # A full queue: the kernel drops who else knocks.
            hole = stack.enter_context(socket.socket())
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(hole.getsockname())
            store = store_at(f"http://127.0.0.1:{hole.getsockname()[1]}")
            found = refusal(store, "list", StoreUnavailableError)
        assert found[0].endswith("can't connect: no answer")
        assert "firewall" in found[1]

    def test_no_answer(self, monkeypatch):
        monkeypatch.setattr("vaultik.store.s3_client.READ_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert refusal(store, "list", StoreUnavailableError)[0].endswith("list: no answer in time")

    def test_a_server_that_dies_in_a_request(self, tmp_path_factory):
        with rclone(tmp_path_factory.mktemp("dies")) as server, Proxy(server) as proxy:

            def kill(_request):
                server.process.kill()
                server.process.wait()

            proxy.script = {"PutObject": iter([kill])}
            found = refusal(s3_store(server, "p/", endpoint=proxy.endpoint), "put", StoreUnavailableError)
        assert found[0].endswith("k: the store broke off without an answer")
        assert found[1].startswith("is the server up?")

    @pytest.mark.parametrize("call", ["list", "get", "put"])
    def test_something_that_is_no_s3(self, call):
        html = b"<html><head><title>Welcome!</title></head><body><p>unclosed</body></html>"
        with Canned(body=html, headers=["Content-Type: text/html"]) as server:
            if call == "list":
                # botocore makes it that: AWS sends some errors with a 200.
                assert "list: 500 (HTTP 500)" in refusal(store_at(server.endpoint), call, StoreUnavailableError)[0]
        with Canned(status="404 Not Found", body=html) as server:
            found = refusal(store_at(server.endpoint), call, StoreError)
            assert found[0].endswith(": not found")
            assert "is the endpoint one of S3" in found[1]
        with Canned(raw=b"SSH-2.0-OpenSSH_9.2\r\n") as server:
            found = refusal(store_at(server.endpoint), call, StoreUnavailableError)
            assert found[0].endswith("broke off without an answer")

    def test_a_list_that_breaks_its_promise(self):
        body = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated></ListBucketResult>'
        with Canned(body=body) as server:
            found = refusal(store_at(server.endpoint), "list", StoreUnavailableError)
        assert found[0].endswith("an answer without 'NextContinuationToken'")

    @pytest.mark.parametrize("call", ["list", "get", "delete"])
    @pytest.mark.parametrize(
        ("status", "code"), [("501 Not Implemented", "NotImplemented"), ("412 No", "PreconditionFailed")]
    )
    def test_answers_that_nobody_expects(self, call, status, code):
        with Canned(status=status, code=code) as server, pytest.raises(Exception) as caught:
            CALLS[call](store_at(server.endpoint))
        assert type(caught.value).__module__.startswith("vaultik.")


class TestSecrets:
    @pytest.mark.parametrize(
        "endpoint", ["http://user:s3cr3t@127.0.0.1:1", "https://s3cr3t@host", "user:s3cr3t@host:9000"]
    )
    def test_an_endpoint_with_a_password_is_refused_without_showing_it(self, endpoint):
        with pytest.raises(ConfigError, match="a credential has no place in it") as caught:
            open_store(endpoint, "vault", "p")
        assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"

    def test_nor_is_it_shown_where_it_comes_from_the_environment(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:s3cr3t@127.0.0.1:1")
        store = open_store(None, "vault", "p", access_key_id="a", secret_access_key="b")
        assert store.location == "http://127.0.0.1:1 vault p/"
        for call in ("list", "put"):
            refusal(store, call, StoreError)

    def test_an_endpoint_that_botocore_refuses_is_named(self):
        found = refusal(store_at("http://user_name.example:9000/"), "list", StoreError)
        assert found[1]
