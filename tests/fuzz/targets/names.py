"""Keys of a store's listing: what is taken for a name is one, and its own."""

from tests.fuzz.mutation import havoc
from vaultik.core.ids import parse_snapshot_id
from vaultik.core.names import blob_key, parse_blob_key, parse_snapshot_key
from vaultik.errors import FormatError

DOCUMENTED = (FormatError,)
_ID = "20261123T081500Z-1f2e3d4c"
_TOKENS = (
    b"/",
    b"//",
    b"..",
    b"\n",
    b"blobs/",
    b"\xef\xbc\x90",
    b"\xd9\xa0",
    b".sqlite.zst.age",
    b".manifest.zst.age",
    b"A",
    b"\xff",
)


def seeds():
    names = [f"index/1a2b3c4d/{_ID}.{'cd' * 32}.{kind}.zst.age" for kind in ("sqlite", "manifest")]
    return [text.encode() for text in (blob_key(bytes(range(32))), *names, _ID, f"a/b/{names[0]}")]


def mutate(data, rng):
    return havoc(data, rng, _TOKENS)


def target(data):
    key = data.decode(errors="surrogateescape")
    if (blob := parse_blob_key(key)) is not None:
        assert blob_key(blob) == key
    if (name := parse_snapshot_key(key)) is not None:
        assert name.key == key
        assert blob is None
        assert name.snapshot.isascii()
    parse_snapshot_id(key)
    assert key.isascii()
