"""Names of stored objects, relative to the store's prefix (FORMAT.md, "Names").

Every name carries the SHA-256 of the object's own bytes; none carries a host name or a path.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from vaultik.model import BlobId, SnapshotId

BLOBS_PREFIX = "blobs/"
DB_SUFFIX = ".sqlite.zst.age"
MANIFEST_SUFFIX = ".manifest.zst.age"

_BLOB = re.compile(r"blobs/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{64})")
_SNAPSHOT = re.compile(
    r"(?P<prefix>(?:[^/]+/)+)(?P<id>[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})\.(?P<sha256>[0-9a-f]{64})\.(?P<kind>sqlite|manifest)\.zst\.age"
)


class SnapshotName(NamedTuple):
    """Name of a snapshot DB or of a manifest."""

    prefix: str
    """What stands before the file name, with its trailing slash: `index/1a2b3c4d/`."""
    snapshot: SnapshotId
    sha256: bytes
    kind: Literal["db", "manifest"]

    @property
    def source8(self) -> str:
        """What tells sources apart in names."""
        return self.prefix.rstrip("/").rpartition("/")[2]

    @property
    def key(self) -> str:
        """The object's key."""
        suffix = DB_SUFFIX if self.kind == "db" else MANIFEST_SUFFIX
        return f"{self.prefix}{self.snapshot}.{self.sha256.hex()}{suffix}"


def blob_key(blob: BlobId) -> str:
    """Return a blob's key."""
    name = blob.hex()
    return f"{BLOBS_PREFIX}{name[:2]}/{name[2:4]}/{name}"


def parse_blob_key(key: str) -> BlobId | None:
    """Return the blob that a key names, None if it names none."""
    shape = _BLOB.fullmatch(key)
    if shape is None or shape[3][:4] != shape[1] + shape[2]:
        return None
    return BlobId(bytes.fromhex(shape[3]))


def parse_snapshot_key(key: str) -> SnapshotName | None:
    """Return the snapshot DB or manifest that a key names, None if it names none."""
    shape = _SNAPSHOT.fullmatch(key)
    if shape is None or key.startswith(BLOBS_PREFIX):
        return None
    kind: Literal["db", "manifest"] = "db" if shape["kind"] == "sqlite" else "manifest"
    return SnapshotName(shape["prefix"], SnapshotId(shape["id"]), bytes.fromhex(shape["sha256"]), kind)
