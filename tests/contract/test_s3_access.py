"""The ways to an S3 server: TLS, its address, and the credentials that boto3 finds by itself."""

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import S3_GROUP
from tests.support.objects import put, read, refusal, s3_store, store_at
from tests.support.proxy import Canned, Proxy
from tests.support.servers import DOMAIN
from tests.support.tls import DAY, NOW, Authority
from vaultik.errors import StoreUnavailableError
from vaultik.store.open import open_store
from vaultik.store.s3 import S3Store

pytestmark = [S3_GROUP, pytest.mark.usefixtures("pauses")]


class TestTls:
    @pytest.fixture
    def ca(self, tmp_path):
        return Authority(tmp_path)

    def test_with_a_ca_of_ones_own(self, weed, ca, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.bundle))
        body = tmp_path / "body"
        body.write_bytes(os.urandom(6 << 20))
        for checksums in (True, False):
            with Proxy(weed, tls=ca.server()) as proxy:
                parts = {"multipart_above": 5 << 20, "part_size": 5 << 20}
                prefix = f"{tmp_path.name}/{checksums}/"
                store = s3_store(weed, prefix, endpoint=proxy.endpoint, checksums=checksums, **parts)
                assert put(store, "small", b"12345") is True
                assert put(store, "small", b"12345") is False
                assert put(store, "big", body) is True
                assert read(store, "big") == body.read_bytes()
                assert read(store, "small", offset=1, length=3) == b"234"
                assert [info.key for info in store.walk()] == ["big", "small"]
                assert store.delete(["big", "small"]) == {}
                assert len(proxy.requests) >= 9

    def test_to_a_port_that_speaks_none(self, weed):
        found = refusal(store_at(weed.endpoint.replace("http://", "https://")), "list", StoreUnavailableError)
        assert found[0].endswith("it speaks no TLS")
        assert found[1] == "http:// instead of https://?"

    def test_none_to_a_port_that_speaks_it(self, weed, ca):
        with Proxy(weed, tls=ca.server()) as proxy:
            found = refusal(store_at(proxy.endpoint.replace("https://", "http://")), "list", StoreUnavailableError)
        assert found[0].endswith("broke off without an answer")
        assert "https://" in found[1]

    def test_none_to_a_port_that_says_so(self):
        said = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        with Canned(raw=said) as server:
            found = refusal(store_at(server.endpoint), "list")
        assert found[0].endswith("this is not how S3 answers")
        assert "https" in found[1]

    @pytest.mark.parametrize(
        ("names", "times", "trusted", "words", "hint"),
        [
            ((), {}, False, "its certificate is of an unknown CA", "AWS_CA_BUNDLE"),
            (("s3.example.org",), {}, True, "its certificate is for another name", "name the endpoint"),
            ((), {"begin": NOW - 3 * DAY, "end": NOW - DAY}, True, "its certificate has expired", "renew"),
            ((), {"begin": NOW + DAY, "end": NOW + 3 * DAY}, True, "its certificate is not valid yet", "clock"),
        ],
    )
    def test_a_certificate_that_is_no_good(self, weed, ca, monkeypatch, names, times, trusted, words, hint):
        if trusted:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.bundle))
        with Proxy(weed, tls=ca.server(*names, **times)) as proxy:
            for call, host in (("list", "127.0.0.1"), ("put", "127.0.0.1"), ("list", "localhost")):
                if host == "localhost" and not names:
                    continue
                endpoint = proxy.endpoint.replace("127.0.0.1", host)
                found = refusal(store_at(endpoint), call, StoreUnavailableError)
                assert found[0].endswith(words)
                assert hint in found[1]
            assert proxy.requests == []  # nothing was told to whoever this is

    def test_a_file_of_cas_that_is_not_there(self, weed, ca, monkeypatch):
        monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
        with Proxy(weed, tls=ca.server()) as proxy:
            found = refusal(store_at(proxy.endpoint), "list", StoreUnavailableError)
        assert found[0].endswith("the file of CAs is not there")
        assert "AWS_CA_BUNDLE" in found[1]

    def test_a_stream_that_breaks_inside(self, weed, ca, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.bundle))
        data = os.urandom(200_000)
        put(s3_store(weed, f"{tmp_path.name}/"), "k", data)
        with Proxy(weed, {"GetObject": ["garble", "cut", "short"]}, tls=ca.server()) as proxy:
            assert read(s3_store(weed, f"{tmp_path.name}/", endpoint=proxy.endpoint), "k") == data
            assert proxy.faults() == 3


class TestAddress:
    @pytest.fixture
    def named(self, weed, monkeypatch):
        """The server's endpoint by a name; below it every bucket has one."""
        real = socket.getaddrinfo

        def resolve(host, *args, **kwargs):
            name = host.decode() if isinstance(host, bytes) else host
            return real("127.0.0.1" if name == DOMAIN or name.endswith(f".{DOMAIN}") else name, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        return weed.endpoint.replace("127.0.0.1", DOMAIN)

    @pytest.fixture
    def hosts(self, monkeypatch):
        """The hosts that are connected to."""
        found = []
        real = socket.getaddrinfo

        def note(host, *args, **kwargs):
            found.append(host.decode() if isinstance(host, bytes) else host)
            return real(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", note)
        return found

    @pytest.mark.parametrize(
        ("by", "given", "configured"),
        [
            ("argument", None, None),
            ("argument", None, "path"),
            ("argument", None, "virtual"),
            ("argument", "path", "virtual"),
            ("argument", "virtual", None),
            ("AWS_ENDPOINT_URL", None, None),
            ("AWS_ENDPOINT_URL_S3", None, None),
            ("AWS_ENDPOINT_URL", "virtual", "path"),
            ("profile", None, None),
            ("profile", None, "virtual"),
            ("service", None, None),
        ],
    )
    def test_it_goes_where_the_caller_the_profile_and_the_kind_of_endpoint_say(
        self, weed, named, hosts, tmp_path, monkeypatch, given, configured, by
    ):
        profile = f"s3 =\n  addressing_style = {configured}\n" if configured else ""
        if by == "profile":
            profile += f"endpoint_url = {named}\n"
        if by == "service":
            profile += f"services = mine\n[services mine]\ns3 =\n  endpoint_url = {named}\n"
        if by.startswith("AWS_"):
            monkeypatch.setenv(by, named)
        (tmp_path / "config").write_text(f"[default]\n{profile}")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        store = open_store(
            named if by == "argument" else None,
            "vault",
            tmp_path.name,
            access_key_id=weed.access_key,
            secret_access_key=weed.secret_key,
            addressing=given,
        )
        assert store.location == f"{named} vault {tmp_path.name}/"
        assert put(store, "k", b"1") is True
        assert read(store, "k") == b"1"
        assert set(hosts) == {f"vault.{DOMAIN}" if (given or configured) == "virtual" else DOMAIN}

    @pytest.mark.parametrize(
        ("given", "host"), [(None, "vault.s3.eu-test-1.amazonaws.com"), ("path", "s3.eu-test-1.amazonaws.com")]
    )
    def test_to_aws_it_is_botos_own(self, hosts, monkeypatch, given, host):
        def fail(name, *_args, **_kwargs):
            hosts.append(name.decode() if isinstance(name, bytes) else name)
            raise socket.gaierror(socket.EAI_NONAME, "not here")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        store = S3Store(
            None,
            "vault",
            "p/",
            region="eu-test-1",
            access_key_id="a",
            secret_access_key="b",
            addressing=given,
            attempts=1,
        )
        assert store.location == "s3 vault p/"
        refusal(store, "list", StoreUnavailableError)
        assert set(hosts) == {host}

    def test_an_ignored_endpoint_is_none(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        assert S3Store(None, "vault", "p/").location == "s3 vault p/"

    @pytest.mark.parametrize(
        ("given", "environment", "expected"),
        [(None, None, "us-east-1"), (None, "eu-test-2", "eu-test-2"), ("eu-test-1", "eu-test-2", "eu-test-1")],
    )
    def test_the_region_is_the_callers_or_botos_own(self, monkeypatch, given, environment, expected):
        if environment:
            monkeypatch.setenv("AWS_DEFAULT_REGION", environment)
        assert store_at("http://127.0.0.1:1", region=given)._client().meta.region_name == expected


class TestCredentials:
    """Of boto3's own chain: a store that is told none of it puts and reads."""

    def put_and_read(self, weed, tmp_path):
        store = S3Store(weed.endpoint, "vault", f"{tmp_path.name}/")
        assert put(store, "k", b"12345") is True
        assert read(store, "k") == b"12345"

    def test_of_the_environment(self, weed, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", weed.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.secret_key)
        self.put_and_read(weed, tmp_path)

    def test_of_a_profile(self, weed, tmp_path, monkeypatch):
        file = tmp_path / "credentials"
        keys = "[{}]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
        file.write_text(keys.format("default", "no", "no") + keys.format("mine", weed.access_key, weed.secret_key))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "mine")
        self.put_and_read(weed, tmp_path)

    def test_of_a_container(self, weed, tmp_path, monkeypatch):
        answer = json.dumps(role(weed)).encode()
        with Canned(body=answer, headers=["Content-Type: application/json"]) as metadata:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.endpoint}/role")
            self.put_and_read(weed, tmp_path)
            assert metadata.asked >= 1

    def test_of_an_instance(self, weed, tmp_path, monkeypatch):
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
            server.role = role(weed)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
            self.put_and_read(weed, tmp_path)
            server.shutdown()


def role(server):
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": server.access_key,
        "SecretAccessKey": server.secret_key,
        "Token": "",
        "Expiration": (NOW + DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class Metadata(BaseHTTPRequestHandler):
    """What an instance of EC2 asks for its role."""

    def answer(self, text):
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        assert self.path == "/latest/api/token"
        self.answer("a-token")

    def do_GET(self):
        assert self.headers["x-aws-ec2-metadata-token"] == "a-token"
        if self.path.endswith("/security-credentials/"):
            self.answer("backup-role")
        else:
            assert self.path.endswith("/backup-role")
            self.answer(json.dumps(self.server.role))

    def log_message(self, *_):
        """Tests say what happened."""
