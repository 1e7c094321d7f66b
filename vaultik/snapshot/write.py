"""Write a snapshot DB from the index: one SQLite file of the format's exact schema.

The rows are copied by SQLite itself, in key order, from the attached index; ids stay what they are
in the index, so that they are stable from run to run. The file holds names and hashes, so it is
made 0600 where the caller says and is the caller's to remove.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import resources
from typing import TYPE_CHECKING

from vaultik.snapshot import rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1

_COPY = {
    "entries": "id, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns,"
    " link_target, rdev, hardlink, inode_flags, marks",
    "xattrs": "entry, name, value",
    "blobs": "id, hash, size, header_length, recipients",
    "chunks": "id, hash, size, blob, frame_offset, frame_length, offset",
    "entry_chunks": "entry, offset, chunk",
}
_ORDER = {"entries": "id", "xattrs": "entry, name", "blobs": "id", "chunks": "id", "entry_chunks": "entry, offset"}


def schema() -> str:
    """Return the SQL that makes an empty snapshot DB (FORMAT.md, "Snapshot DB")."""
    return resources.files("vaultik.snapshot").joinpath("schema.sql").read_text()


def plain_path(index_path: Path) -> Path:
    """Return where a snapshot DB lies while it is built, in plain: beside the index, and nowhere else."""
    return index_path.with_name(f"{index_path.name}.snapshot")


def write_snapshot_db(index_path: Path, target: Path, meta: Mapping[str, int | float | str | bytes]) -> None:
    """Write the index's tree and content as a snapshot DB.

    Args:
        index_path: the index; nothing may write to it meanwhile.
        target: an empty file that becomes the DB.
        meta: the rows of the table `meta`.

    Raises:
        sqlite3.Error: the disk is full, or the index is damaged.
        FormatError: a row breaks a rule of the format: no reader would take this DB.
    """
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(schema())
        db.execute("ATTACH ? AS source", (str(index_path),))
        db.execute("BEGIN")
        db.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        for table, columns in _COPY.items():
            db.execute(f"INSERT INTO {table} SELECT {columns} FROM source.{table} ORDER BY {_ORDER[table]}")
        db.execute("COMMIT")
        rules.check(db)
