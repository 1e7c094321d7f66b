"""Short words for what tests do with a store."""

import hashlib

import pytest

from vaultik.errors import StoreAccessError
from vaultik.store.s3 import S3Store


def put(store, key, body, **kwargs):
    data = body if isinstance(body, bytes) else body.read_bytes()
    return store.put(key, body, sha256=hashlib.sha256(data).digest(), **kwargs)


def read(store, key, **kwargs):
    with store.open(key, **kwargs) as stream:
        parts = []
        while part := stream.read(100_000):
            parts.append(part)
        return b"".join(parts)


def s3_store(server, prefix="", *, endpoint=None, bucket="vault", **settings):
    """A store on a server as its administrator, or as the settings say."""
    given = {"access_key_id": server.access_key, "secret_access_key": server.secret_key, "attempts": 2, **settings}
    return S3Store(endpoint or server.endpoint, bucket, prefix, **given)


SECRETS = ("adminsecret", "putsecret", "s3cr3t", "wrong-secret")
CALLS = {
    "put": lambda store: put(store, "k", b"1"),
    "get": lambda store: read(store, "k"),
    "range": lambda store: read(store, "k", offset=1, length=2),
    "list": lambda store: list(store.walk()),
    "children": lambda store: store.children(),
    "head": lambda store: store.head("k"),
    "delete": lambda store: store.delete(["k"]),
}


def refusal(store, call, kind=StoreAccessError):
    """The message and hint of the error that a call ends with."""
    with pytest.raises(kind) as caught:
        CALLS[call](store)
    message, hint = str(caught.value), caught.value.hint
    assert message.startswith(f"store {store.location.strip()}: ")
    assert "\n" not in message
    for secret in SECRETS:
        assert secret not in f"{message} {hint}"
    return message, hint


def store_at(endpoint, **settings):
    given = {"access_key_id": "adminkey", "secret_access_key": "adminsecret", "attempts": 2, **settings}
    return S3Store(endpoint, "vault", "p/", **given)
