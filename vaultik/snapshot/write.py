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
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vaultik.model import BlobId

FORMAT = 1
FULL, DELTA = "full", "delta"
_SCHEMAS = {FULL: ("schema.sql",), DELTA: ("schema.sql", "delta.sql")}

_ENTRIES = (
    "id, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target,"
    f" rdev, hardlink, inode_flags, marks | iif(id IN (SELECT id FROM stale), {Mark.STALE}, 0)"
)
_UNFINISHED = (
    # What was never read, and what refers to a chunk that is in no stored blob.
    "INSERT INTO absent SELECT entry FROM source.changed WHERE unread UNION SELECT entry FROM source.entry_chunks"
    " WHERE chunk NOT IN (SELECT c.id FROM source.chunks AS c JOIN source.blobs AS b ON b.id = c.blob WHERE b.uploaded = 1)",
    # What is only sealed afresh is as it was.
    "INSERT INTO stale SELECT entry FROM source.changed WHERE NOT lost",
)


class Totals(NamedTuple):
    """What a snapshot holds."""

    entries: int
    bytes: int
    """Of its chunks, each once: content that somebody had to have, not sizes, which cost nothing to claim."""


class Below(NamedTuple):
    """The layers that a delta builds on."""

    layers: tuple[BlobId, ...]
    """The lowest first."""
    since: int
    """The number of the topmost: rows that were touched under it or a later one are the delta's."""


def schema(kind: str = FULL) -> str:
    """Return the SQL that makes an empty snapshot DB of a kind (FORMAT.md, "Snapshot DB")."""
    folder = resources.files("vaultik.snapshot")
    return "".join(folder.joinpath(name).read_text() for name in _SCHEMAS[kind])


def plain_path(index_path: Path) -> Path:
    """Return where a snapshot DB lies while it is built, in plain: beside the index, and nowhere else."""
    return index_path.with_name(f"{index_path.name}.snapshot")


def write_snapshot_db(
    index_path: Path, target: Path, meta: Mapping[str, int | float | str | bytes], below: Below | None = None
) -> Totals:
    """Write the index's tree and content as a snapshot DB.

    A name whose file is still to be read stands in it with the content that was recorded of it last, marked
    stale; if there is none, not at all. Chunks and blobs are all that are uploaded.

    Args:
        index_path: the index; nothing may write to it meanwhile.
        target: an empty file that becomes the DB.
        meta: the rows of the table `meta`, but for kind and totals.
        below: write only what differs from these layers; no file may be left to read then.

    Raises:
        sqlite3.Error: the disk is full, or the index is damaged.
    """
    kind = DELTA if below else FULL
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
        db.executescript(schema(kind))
        db.execute("ATTACH ? AS source", (str(index_path),))
        db.execute("BEGIN")
        for name in ("absent", "stale"):
            db.execute(f"CREATE TEMP TABLE {name} (id INTEGER PRIMARY KEY)")
        for statement in () if below else _UNFINISHED:
            db.execute(statement)
        if below:
            _supersede(db, below)
        for statement in _copies(kind):
            db.execute(statement)
        totals = _totals(db, "source" if below else "main")
        db.executemany("INSERT INTO meta VALUES (?, ?)", sorted({**meta, "kind": kind, **totals._asdict()}.items()))
        db.execute("COMMIT")
    return totals


def check_snapshot_db(index_path: Path, target: Path, below: Below | None) -> None:
    """Check what `write_snapshot_db` wrote against the rules, before anything may refer to it.

    What a delta and its layers come to is the index, which has every table but `meta`.

    Raises:
        sqlite3.Error: the index is damaged.
        FormatError: a row breaks a rule of the format: no reader would take this DB.
    """
    if below is None:
        with closing(sqlite3.connect(target, isolation_level=None)) as db:
            rules.check(db)
        return
    with closing(sqlite3.connect(f"{index_path.absolute().as_uri()}?mode=ro", uri=True)) as whole:
        whole.execute("ATTACH ? AS delta", (str(target),))
        rules.check(whole)


def _copies(kind: str) -> Iterator[str]:
    """Yield what copies everything that is uploaded, and every entry whose content is; of a delta, what it supersedes."""
    which = "id IN (SELECT id FROM main.superseded_{})" if kind == DELTA else "TRUE"
    yield (
        f"INSERT INTO entries SELECT {_ENTRIES} FROM source.entries WHERE {which.format('entries')}"
        " AND NOT (type = 'f' AND (id IN (SELECT id FROM absent) OR coalesce(hardlink, id) IN (SELECT id FROM absent)))"
        " ORDER BY id"
    )
    yield (
        "INSERT INTO xattrs SELECT entry, name, value FROM source.xattrs"
        " WHERE entry IN (SELECT id FROM main.entries) ORDER BY entry, name"
    )
    yield (
        "INSERT INTO blobs SELECT id, hash, size, header_length, recipients FROM source.blobs WHERE uploaded = 1 ORDER BY id"
    )
    yield (
        "INSERT INTO chunks SELECT id, hash, size, blob, frame_offset, frame_length, offset FROM source.chunks"
        f" WHERE {which.format('chunks')} AND blob IN (SELECT id FROM main.blobs) ORDER BY id"
    )
    yield (
        "INSERT INTO entry_chunks SELECT entry, offset, chunk FROM source.entry_chunks"
        " WHERE entry IN (SELECT id FROM main.entries) ORDER BY entry, offset"
    )


def _supersede(db: sqlite3.Connection, below: Below) -> None:
    """Note the layers, and the rows of theirs that hold no more."""
    db.executemany("INSERT INTO layers VALUES (?, ?)", enumerate(below.layers))
    for table in ("entries", "chunks"):
        db.execute(
            f"INSERT INTO superseded_{table} SELECT id FROM source.touched_{table} WHERE since >= ? ORDER BY id",
            (below.since,),
        )


def _totals(db: sqlite3.Connection, tree: str) -> Totals:
    query = f"SELECT (SELECT count(*) FROM {tree}.entries), (SELECT coalesce(sum(size), 0) FROM {tree}.chunks)"
    return Totals._make(db.execute(query).fetchone())
