"""An index as an older vaultik left it: its schema's latest steps taken back."""

import sqlite3
from contextlib import closing

UNDO = {
    11: "DROP TABLE layers; DROP TABLE touched_entries; DROP TABLE touched_chunks",
    10: "ALTER TABLE bundles ADD COLUMN plaintext_bytes INTEGER NOT NULL DEFAULT 0",
    9: "DROP INDEX entries_with_gaps",
    8: "DROP TABLE own_snapshots; DROP INDEX entries_by_hardlink",
    7: "DROP TABLE moves; DROP TABLE remains; ALTER TABLE blobs DROP COLUMN retiring; ALTER TABLE blobs DROP COLUMN kept_at",
    6: "DROP TABLE streams",
    5: "ALTER TABLE runs DROP COLUMN error",
    4: "DROP INDEX entries_again; ALTER TABLE runs DROP COLUMN full; DELETE FROM state WHERE key = 'full_scan'",
}


def make_older(path, version):
    """Take an index back to a version of its schema."""
    with closing(sqlite3.connect(path)) as index, index:
        (now,) = index.execute("PRAGMA user_version").fetchone()
        for step in range(now, version, -1):
            index.executescript(UNDO[step])
        index.execute("DELETE FROM migrations WHERE version > ?", (version,))
        index.execute(f"PRAGMA user_version = {version}")
