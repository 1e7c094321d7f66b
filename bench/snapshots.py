"""A directory store with many snapshots of many blobs, made without a backup: what a prune has to read.

Blobs are a few bytes under the names of their hashes; manifests and DBs are real, and sealed to a real key. Each
snapshot refers to half of all blobs; from one to the next a few go and a few come, until none is left of the first.
"""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from bench.tools import make_key
from vaultik.core import manifest
from vaultik.core.age_seal import seal
from vaultik.core.bounds import MANIFEST_BOUND
from vaultik.core.frames import FrameEncoder
from vaultik.core.ids import new_snapshot_id, source8
from vaultik.core.names import SnapshotName, blob_key
from vaultik.core.padding import padded
from vaultik.model import BlobId
from vaultik.snapshot.write import FORMAT, schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vaultik.model import SnapshotId

_SOURCE = "6b1f6d1e-3c9b-4c39-9a55-7d7b8f0f3c11"
_HOUR_S = 3600
_SIZE = 8


def make_snapshots(folder: Path, blobs: int, snapshots: int) -> tuple[Path, Path]:
    """Make a store with one source's snapshots, an hour apart, the last of them half an hour old.

    Returns:
        The store's directory and an identity file.
    """
    key = folder / "key"
    maker = _Maker(folder / "store/bench/host", make_key(key), time.time() - (snapshots + 0.5) * _HOUR_S)
    for number in range(snapshots):
        first = number * (blobs // 2) // (snapshots - 1)
        maker.add([maker.blob(serial) for serial in range(first, first + blobs // 2)])
    return folder / "store", key


class _Maker:
    def __init__(self, prefix: Path, recipient: str, began: float) -> None:
        self._prefix = prefix
        self._recipient = recipient
        self._now = began
        self._previous: SnapshotId | None = None
        self._previous_manifest: str | None = None
        self._known: dict[int, BlobId] = {}
        self._encoder = FrameEncoder(1)

    def blob(self, serial: int) -> BlobId:
        """Return a blob, which is made the first time."""
        if serial not in self._known:
            data = serial.to_bytes(_SIZE, "big")
            self._known[serial] = BlobId(hashlib.sha256(data).digest())
            self._put(blob_key(self._known[serial]), data)
        return self._known[serial]

    def add(self, blobs: Sequence[BlobId]) -> None:
        """Add a snapshot that refers to these."""
        snapshot = new_snapshot_id(self._now, self._previous)
        prefix = f"index/{source8(_SOURCE)}/"
        db = self._seal(self._db(snapshot, blobs))
        name = SnapshotName(prefix, snapshot, hashlib.sha256(db).digest(), "db")
        facts = manifest.Manifest(
            format=FORMAT,
            source=_SOURCE,
            host="bench",
            snapshot=snapshot,
            previous=self._previous,
            previous_manifest=self._previous_manifest,
            complete=True,
            started=self._now,
            server_time=self._now,
            entries=1,
            bytes=0,
            dbs=((name.key, len(db)),),
            recipients=(self._recipient,),
            blobs=tuple(sorted((blob.hex(), _SIZE) for blob in blobs)),
        )
        sealed = self._seal(manifest.encode(facts))
        digest = hashlib.sha256(sealed).digest()
        self._put(SnapshotName(prefix, snapshot, digest, "manifest").key, sealed)
        self._put(name.key, db)
        self._previous, self._previous_manifest = snapshot, digest.hex()
        self._now += _HOUR_S

    def _db(self, snapshot: SnapshotId, blobs: Sequence[BlobId]) -> bytes:
        meta = {
            "format": FORMAT,
            "kind": "full",
            "snapshot": snapshot,
            "source": _SOURCE,
            "host": "bench",
            "tool": "bench",
        }
        meta |= {"previous": self._previous or "", "started": self._now, "server_time": self._now, "complete": 1}
        meta |= {"chunker": "fastcdc-1 1 2 3", "source_dirs": b"/", "entries": 1, "bytes": 0}
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.executescript(schema())
            db.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
            db.execute(
                "INSERT INTO entries VALUES (1, NULL, x'', 'd', 493, 0, 0, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 1)"
            )
            rows = ((number, blob, _SIZE, 5, self._recipient) for number, blob in enumerate(blobs, 1))
            db.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", rows)
            return db.serialize()

    def _seal(self, content: bytes) -> bytes:
        frame = io.BytesIO(self._encoder.encode(content))
        sealed = io.BytesIO()
        seal(padded(frame, MANIFEST_BOUND.least_stored(len(content))), sealed, [self._recipient])
        return sealed.getvalue()

    def _put(self, key: str, data: bytes) -> None:
        path = self._prefix / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self._now, self._now))
