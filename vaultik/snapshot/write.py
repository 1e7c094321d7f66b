"""Write a snapshot DB from the index: one SQLite file of the format's exact schema.

The rows are copied by SQLite itself, in key order, from the attached index; ids stay what they are
in the index, so that they are stable from run to run. The file holds names and hashes, so it is
made 0600 where the caller says and is the caller's to remove.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from vaultik.model import Mark
from vaultik.snapshot import rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1

_ENTRIES = (
    "id, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target,"
    f" rdev, hardlink, inode_flags, marks | iif(id IN (SELECT id FROM stale), {Mark.STALE}, 0)"
)
_COPY = (
    f"INSERT INTO entries SELECT {_ENTRIES} FROM source.entries"
    " WHERE NOT (type = 'f' AND (id IN (SELECT id FROM absent) OR coalesce(hardlink, id) IN (SELECT id FROM absent)))"
    " ORDER BY id",
    "INSERT INTO xattrs SELECT entry, name, value FROM source.xattrs"
    " WHERE entry IN (SELECT id FROM main.entries) ORDER BY entry, name",
    "INSERT INTO blobs SELECT id, hash, size, header_length, recipients FROM source.blobs WHERE uploaded = 1 ORDER BY id",
    "INSERT INTO chunks SELECT id, hash, size, blob, frame_offset, frame_length, offset FROM source.chunks"
    " WHERE blob IN (SELECT id FROM main.blobs) ORDER BY id",
    "INSERT INTO entry_chunks SELECT entry, offset, chunk FROM source.entry_chunks"
    " WHERE entry NOT IN (SELECT id FROM absent) ORDER BY entry, offset",
)
"""Everything that the index has uploaded, and every entry whose content is. (All of it, when a run is through.)"""

_UNFINISHED = (
    # What was never read, and what refers to a chunk that is in no stored blob.
    "INSERT INTO absent SELECT entry FROM source.changed WHERE unread UNION SELECT entry FROM source.entry_chunks"
    " WHERE chunk NOT IN (SELECT c.id FROM source.chunks AS c JOIN source.blobs AS b ON b.id = c.blob WHERE b.uploaded = 1)",
    # What is only sealed afresh is as it was.
    "INSERT INTO stale SELECT entry FROM source.changed WHERE NOT lost",
)
_TOTALS = "SELECT (SELECT count(*) FROM main.entries), (SELECT coalesce(sum(size), 0) FROM main.chunks)"


class Totals(NamedTuple):
    """What a snapshot holds."""

    entries: int
    bytes: int
    """Of its chunks, each once: content that somebody had to have, not sizes, which cost nothing to claim."""


def schema() -> str:
    """Return the SQL that makes an empty snapshot DB (FORMAT.md, "Snapshot DB")."""
    return resources.files("vaultik.snapshot").joinpath("schema.sql").read_text()


def plain_path(index_path: Path) -> Path:
    """Return where a snapshot DB lies while it is built, in plain: beside the index, and nowhere else."""
    return index_path.with_name(f"{index_path.name}.snapshot")


def write_snapshot_db(index_path: Path, target: Path, meta: Mapping[str, int | float | str | bytes]) -> Totals:
    """Write the index's tree and content as a snapshot DB.

    A name whose file is still to be read stands in it with the content that was recorded of it last, marked
    stale; if there is none, not at all. Chunks and blobs are all that are uploaded.

    Args:
        index_path: the index; nothing may write to it meanwhile.
        target: an empty file that becomes the DB.
        meta: the rows of the table `meta`, but for the totals.

    Raises:
        sqlite3.Error: the disk is full, or the index is damaged.
        FormatError: a row breaks a rule of the format: no reader would take this DB.
    """
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
        db.executescript(schema())
        db.execute("ATTACH ? AS source", (str(index_path),))
        db.execute("BEGIN")
        for name in ("absent", "stale"):
            db.execute(f"CREATE TEMP TABLE {name} (id INTEGER PRIMARY KEY)")
        for statement in (*_UNFINISHED, *_COPY):
            db.execute(statement)
        totals = Totals._make(db.execute(_TOTALS).fetchone())
        db.executemany("INSERT INTO meta VALUES (?, ?)", sorted({**meta, **totals._asdict()}.items()))
        db.execute("COMMIT")
        rules.check(db)
    return totals
