"""The Luigi graph. `luigi --module vaultik.tasks Backup` and `vaultik backup` run the same one.

Backup ─ ScanSource ─ Wave(1) .. Wave(n) ─ WriteSnapshotDB
                        └ UploadBlob ← SealBlob ← ChunkFile   (for each bundle)
Restore ─ FetchSnapshotDB ─ CompareTree ─ RestoreWave(0) .. RestoreWave(n) ─ FinishTree
                                            └ RestoreBlob   (for each blob)
Verify ← TraceDamage ← ReadObjects ← LookAtStore
Prune ← DropOrphans ← FreeBlobs ← DropManifests ← DropSnapshots ← ExtendLocks ← PlanPrune
"""

from vaultik.tasks.backup import Backup, ChunkFile, ScanSource, SealBlob, UploadBlob, Wave, WriteSnapshotDB
from vaultik.tasks.prune import DropManifests, DropOrphans, DropSnapshots, ExtendLocks, FreeBlobs, PlanPrune, Prune
from vaultik.tasks.restore import (
    CompareTree,
    FetchSnapshotDB,
    FinishTree,
    Restore,
    RestoreBlob,
    RestoreTree,
    RestoreWave,
)
from vaultik.tasks.verify import LookAtStore, ReadObjects, TraceDamage, Verify

__all__ = [
    "Backup",
    "ChunkFile",
    "CompareTree",
    "DropManifests",
    "DropOrphans",
    "DropSnapshots",
    "ExtendLocks",
    "FetchSnapshotDB",
    "FinishTree",
    "FreeBlobs",
    "LookAtStore",
    "PlanPrune",
    "Prune",
    "ReadObjects",
    "Restore",
    "RestoreBlob",
    "RestoreTree",
    "RestoreWave",
    "ScanSource",
    "SealBlob",
    "TraceDamage",
    "UploadBlob",
    "Verify",
    "Wave",
    "WriteSnapshotDB",
]
