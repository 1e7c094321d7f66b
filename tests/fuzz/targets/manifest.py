"""Manifests: one way to write each, and whatever else costs no more than its bytes."""

import json

from tests.fuzz.mutation import havoc
from vaultik.core import manifest
from vaultik.errors import FormatError

DOCUMENTED = (FormatError,)
_ID = "20261123T081500Z-1f2e3d4c"
_NAME = f"index/1a2b3c4d/{_ID}.{'cd' * 32}.sqlite.zst.age"
_VALUES = (
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, (1 << 63) - 1, 1 << 63, 1 << 64, "", "x", "\U0001f600", "\u0660", "a" * 64,
    "A" * 64, "a" * 2000, [], [[]], {}, [["a" * 64, 5]], _ID, "20269999T999999Z-1f2e3d4c", "\uff120261123T081500Z-1f2e3d4c", "../" * 30,
)  # fmt: skip
_TOKENS = (
    b"\n",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"e999",
    b"NaN",
    b"\\ud800",
    b"\xff",
    b'"format":1',
    b"[" * 500,
    b"0" * 400,
    b" ",
)


def facts(**changes):
    return manifest.Manifest(
        **{
            "format": 1, "source": "uuid", "host": "höst", "snapshot": _ID, "previous": _ID, "previous_manifest": "ef" * 32,
            "complete": True, "started": 1.5, "server_time": 2.5, "entries": 3, "bytes": 4, "dbs": ((_NAME, 5),),
            "recipients": ("age1" + "q" * 58,), "blobs": (("ab" * 32, 6), ("ac" * 32, 7)),
        } | changes
    )  # fmt: skip


def seeds():
    return [
        manifest.encode(facts()),
        manifest.encode(facts(previous=None, previous_manifest=None, blobs=(), signatures=(b"QUJD", b"QQ=="))),
        manifest.encode(facts(blobs=tuple((f"{n:064x}", n) for n in range(5000)))),
    ]


def mutate(data, rng):
    """Blind changes, or changes of the tree that the line is, written in the canonical way."""
    line, newline, rest = data.partition(b"\n")
    try:
        tree = json.loads(line) if rng.random() < 0.6 else None
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        return havoc(data, rng, _TOKENS)
    for _ in range(rng.choice((1, 1, 2))):
        _change(tree, rng)
    text = json.dumps(tree, sort_keys=rng.random() < 0.95, separators=(",", ":"))
    return text.encode() + newline + rest


def _change(tree, rng):
    at = tree
    while True:
        places = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not places:
            return
        place = rng.choice(places)
        if isinstance(at[place], dict | list) and at[place] and rng.random() < 0.7:
            at = at[place]
            continue
        match rng.randrange(4):
            case 0:
                del at[place]
            case 1 if isinstance(at, list):
                at.insert(rng.choice(places), at[place])
            case 2 if isinstance(at, dict):
                at[rng.choice(("extra", "signatures", "format", "a"))] = at[place]
            case _:
                at[place] = rng.choice(_VALUES)
        return


def target(data):
    assert manifest.encode(manifest.decode(data)) == data
