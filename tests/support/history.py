"""A directory store with the snapshots of weeks, written in a moment: objects as backups put them, of any age."""

import hashlib
import io
import os
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from vaultik.core import age_seal, manifest
from vaultik.core.frames import FrameEncoder
from vaultik.core.ids import new_snapshot_id, source8
from vaultik.core.names import SnapshotName, blob_key
from vaultik.core.padding import padding_frame
from vaultik.snapshot.write import FORMAT, schema

DAY = 86_400
UUID = "6f1c2f0a-5d5e-4c39-9a53-0f6f6a1d2b3c"


def seal(plain, recipients):
    """Bytes as a manifest or DB is sealed."""
    frame = FrameEncoder(3).encode(plain)
    sealed = io.BytesIO()
    age_seal.seal([frame, padding_frame(len(frame))], sealed, recipients)
    return sealed.getvalue()


class History:
    """What one source left in a site's store."""

    def __init__(self, site, source=UUID, host="web-1", audit=None):
        self.root = site.store / site.bucket / site.prefix
        self.tmp = site.tmp
        self.source = source
        self.source8 = source8(source)
        self.host = host
        self.recipient = site.recipient
        self.audit = audit
        self.now = time.time()

    def blob(self, name, days=0.0):
        """Store a blob of that age; equal names are one blob."""
        data = f"blob {name}".encode()
        digest = hashlib.sha256(data).digest()
        path = self.root / blob_key(digest)
        if not path.exists():
            self.put(path, data, days)
        return digest.hex(), len(data)

    def snapshot(self, days, blobs=(), **changes):
        """Write a snapshot of that age and what it refers to; returns its id."""
        at = self.now - days * DAY
        snapshot = changes.pop("snapshot", None) or new_snapshot_id(at, None)
        listed = sorted(self.blob(name, days) for name in blobs)
        meta = {
            "source": self.source,
            "host": self.host,
            "snapshot": snapshot,
            "complete": True,
            "started": at,
            "server_time": at,
            "entries": 100,
            "bytes": 1000,
        }
        meta |= {key: changes.pop(key) for key in list(changes) if key in meta}
        db = seal(self.db(meta, listed, changes.pop("db", {})), [self.recipient])
        prefix = f"index/{self.source8}/"
        name = SnapshotName(prefix, snapshot, hashlib.sha256(db).digest(), "db").key
        facts = {
            "format": FORMAT,
            "previous": None,
            "previous_manifest": None,
            "dbs": ((name, len(db)),),
            "recipients": (self.recipient,),
            "blobs": tuple(listed),
        }
        facts |= changes.pop("manifest", {})
        text = changes.pop("text", lambda line: line)(manifest.encode(manifest.Manifest(**facts, **meta)))
        sealed = seal(text, [self.recipient, *([self.audit] if self.audit else [])])
        beside = SnapshotName(prefix, snapshot, hashlib.sha256(sealed).digest(), "manifest").key
        assert not changes
        self.put(self.root / beside, sealed, days)
        self.put(self.root / name, db, days)
        return snapshot

    def db(self, meta, blobs, changes):
        path = self.tmp / f"{secrets.token_hex(4)}.sqlite"
        rows = {
            **meta,
            "complete": int(meta["complete"]),
            "format": 1,
            "kind": "full",
            "previous": "",
            "chunker": "fastcdc-1 1 2 3",
            "source_dirs": b"/",
            "tool": "test",
            **changes,
        }
        blobs = rows.pop("blobs", blobs)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.executescript(schema())
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            rows = [(n, bytes.fromhex(blob), size, 1, "r") for n, (blob, size) in enumerate(blobs, 1)]
            db.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?, ?)", rows)
        data = path.read_bytes()
        path.unlink()
        return data

    def put(self, path, data, days):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self.now - days * DAY,) * 2)

    # -- what is there ------------------------------------------------------------------------------

    def keys(self):
        """Every object's key."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def snapshots(self):
        """The ids of the snapshots, in their order."""
        return sorted(Path(key).name.split(".")[0] for key in self.keys() if ".sqlite." in key)

    def of(self, snapshot, kind="sqlite"):
        """The file of a snapshot's DB or manifest."""
        (path,) = self.root.rglob(f"{snapshot}.*.{kind}.zst.age")
        return path

    def blobs(self, *names):
        """Those of the named blobs that are stored."""
        return {name for name in names if self.blob_path(name).exists()}

    def blob_path(self, name):
        return self.root / blob_key(hashlib.sha256(f"blob {name}".encode()).digest())
