"""The C2SP/CCTV age vectors of the kinds that vaultik implements: what each states is what happens."""

import hashlib
import io
import os
import zlib
from pathlib import Path

import pytest

from vaultik.core.age_stream import open_stream
from vaultik.core.identity import parse_identities
from vaultik.errors import AuthenticationError, FormatError, NoMatchingIdentityError

FOLDER = Path(os.environ.get("VAULTIK_AGE_VECTORS", Path(__file__).parents[3] / "shared" / "cctv-age"))
OTHER_KINDS = ("armor", "scrypt", "hybrid", "mlkem", "tag", "p256")
THROWAWAY = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6"


def vectors():
    return (
        sorted(p for p in FOLDER.glob("*") if p.suffix != ".md" and not p.name.startswith(OTHER_KINDS))
        if FOLDER.is_dir()
        else []
    )


def parse(path):
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = [line.split(": ", 1) for line in head.decode().splitlines()]
    if ["compressed", "zlib"] in fields:
        body = zlib.decompress(body)
    return fields, body


def test_the_vectors_are_there():
    assert len(vectors()) >= 65, (
        f"no age test vectors in {FOLDER}: set VAULTIK_AGE_VECTORS to C2SP/CCTV's age/testdata (npm package cctv-age)"
    )


@pytest.mark.parametrize("path", vectors(), ids=lambda p: p.name)
def test_vector(path):
    fields, body = parse(path)
    facts = dict(fields)
    identities = parse_identities("\n".join(value for key, value in fields if key == "identity") or THROWAWAY)
    released = b""
    try:
        stream = open_stream(io.BytesIO(body), identities)
        outcome = "payload failure"
        while block := stream.read(1 << 20):
            released += block
        outcome = "success"
    except NoMatchingIdentityError:
        outcome = "no match"
    except AuthenticationError as exc:
        outcome = "HMAC failure" if "MAC" in str(exc) else "payload failure"
    except FormatError:
        outcome = "header failure"
    assert outcome == facts["expect"]
    if "payload" in facts:
        assert hashlib.sha256(released).hexdigest() == facts["payload"]
    else:
        assert released == b""
