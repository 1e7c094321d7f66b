"""Reports of a verification, given to `backup --heal`."""

import json

from tests.fuzz.folder import private_folder
from tests.fuzz.mutation import havoc
from vaultik.backup.heal import load_report
from vaultik.core.names import blob_key
from vaultik.errors import ConfigError

DOCUMENTED = (ConfigError,)
_TOKENS = (
    b'"problems"',
    b'"key"',
    b"[",
    b"]",
    b"{",
    b"}",
    b"null",
    b"NaN",
    b"9" * 5000,
    b"\\ud800",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\0",
)
_FOLDER = private_folder()


def seeds():
    problems = [{"key": blob_key(bytes([n]) * 32), "reason": "missing"} for n in range(3)]
    reports = (
        {"problems": problems, "ok": False},
        {"problems": []},
        {"problems": [{"key": 5}, {"key": None}]},
        [],
        {"problems": {"key": 1}},
    )
    return [json.dumps(report).encode() for report in reports] + [b"[" * 5000]


def mutate(data, rng):
    return havoc(data, rng, _TOKENS)[: 1 << 16]


def target(data):
    (_FOLDER / "report").write_bytes(data)
    blobs = load_report(_FOLDER / "report")
    assert all(len(blob) == 32 for blob in blobs)
    assert len(set(blobs)) == len(blobs)
