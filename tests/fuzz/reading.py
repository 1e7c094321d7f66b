"""A forged snapshot, sealed, stored, and read as a restore reads it."""

import contextlib
import hashlib
import os
import sqlite3

from tests.fuzz.databases import SNAPSHOT
from tests.fuzz.folder import private_folder
from tests.fuzz.sealing import IDENTITIES, seal
from tests.support.memory_store import MemoryStore
from vaultik.core.frames import FrameEncoder
from vaultik.core.names import SnapshotName, blob_key
from vaultik.snapshot import read, rules, tree
from vaultik.snapshot.find import FoundSnapshot

_FOLDER = private_folder()


def read_snapshot(top, layers=()):
    """Read a snapshot whose DB is `top`; layers are sealed objects by their names."""
    objects = {blob_key(hashlib.sha256(layer).digest()): (layer, 0.0) for layer in layers}
    name = SnapshotName("index/1a2b3c4d/", SNAPSHOT, hashlib.sha256(top).digest(), "db")
    store = MemoryStore(shared=objects | {name.key: (top, 0.0)})
    found = FoundSnapshot(name, len(top), 0.0, None, 0)
    copy = _FOLDER / "copy.sqlite"
    try:
        read.fetch_snapshot(store, found, IDENTITIES, _FOLDER, copy)
        _walk(copy)
    finally:
        copy.unlink(missing_ok=True)
        left = os.listdir(_FOLDER)
        assert left == [], left


def sealed(plain, frame=None):
    """A DB as an object, or a frame that is one or none."""
    return seal(FrameEncoder(1).encode(plain) if frame is None else frame)


def _walk(copy):
    """What whoever restores relies on, by other means than the rules' own queries."""
    with contextlib.closing(sqlite3.connect(copy)) as db:
        paths, sizes = set(), {}
        for path, entry in tree.iter_tree(db, tree.ROOT, b"/"):
            assert path not in paths
            assert entry.parent is not None
            assert entry.parent < entry.id
            assert os.path.normpath(path) == path
            assert b"\0" not in path
            assert path.rpartition(b"/")[2] == entry.name
            assert entry.type != "l" or (entry.link_target and b"\0" not in entry.link_target)
            paths.add(path)
            sizes[entry.id] = entry.size
        assert len(paths) + 1 == db.execute("SELECT count(*) FROM entries").fetchone()[0]
        chunks = {
            row[0]: row[1:]
            for row in db.execute("SELECT id, size, blob, frame_offset, frame_length, offset FROM chunks")
        }
        blobs = dict(db.execute("SELECT id, size FROM blobs"))
        ends = {}
        for entry, offset, chunk in db.execute("SELECT entry, offset, chunk FROM entry_chunks ORDER BY entry, offset"):
            assert ends.get(entry, 0) <= offset
            ends[entry] = offset + chunks[chunk][0]
            assert ends[entry] <= sizes[entry]
        for size, blob, start, length, offset in chunks.values():
            assert start + length <= blobs[blob]
            assert min(start, offset) >= 0 < min(size, length)
            assert size <= rules.LARGEST_CHUNK
