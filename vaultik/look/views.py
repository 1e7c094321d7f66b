r"""The views that queries see of a copied snapshot, beside its own tables (FORMAT.md, "Snapshot DB"): docs/looking.md describes them.

Texts in them are as they are shown: what isn't printable as `\x..` or `\u....`, a backslash doubled.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from vaultik.look.content import find_content
from vaultik.look.paths import Paths
from vaultik.model import NAME_OF_TYPE, Mark
from vaultik.shown import printable

if TYPE_CHECKING:
    from pathlib import Path

_TYPES = " ".join(f"WHEN '{letter}' THEN '{name}'" for letter, name in NAME_OF_TYPE.items())
_TIME = "datetime(e.{0} / 1000000000 - (e.{0} % 1000000000 < 0), 'unixepoch')"
_FACTS = f"""
    e.id, shown_path(@N, e.parent, e.name) AS path, shown(e.name) AS name, shown_directory(@N, e.parent) AS directory,
    printf('%04o', e.mode) AS mode, e.uid, e.gid, e.user_name, e.group_name,
    {_TIME.format("mtime_ns")} AS mtime, e.mtime_ns, {_TIME.format("ctime_ns")} AS ctime, e.ctime_ns,
    {_TIME.format("birth_ns")} AS birth, e.birth_ns, e.hardlink,
    (e.marks & {Mark.CHANGED}) <> 0 AS changed_while_read, (e.marks & {Mark.UNREADABLE}) <> 0 AS unreadable
"""
_SCHEMA = f"""
CREATE TABLE frames (blob INTEGER NOT NULL, frame_offset INTEGER NOT NULL, size INTEGER NOT NULL, stored INTEGER NOT NULL,
    PRIMARY KEY (blob, frame_offset)) STRICT, WITHOUT ROWID;
INSERT INTO frames SELECT blob, frame_offset, sum(size), max(frame_length) FROM chunks GROUP BY blob, frame_offset;
CREATE VIEW paths AS SELECT {_FACTS}, CASE e.type {_TYPES} END AS type, e.size, shown(e.link_target) AS link_target, e.rdev
    FROM entries AS e;
CREATE VIEW files AS SELECT {_FACTS}, e.size, extension(e.name) AS extension,
    (SELECT round(coalesce(sum(1.0 * c.size * f.stored / f.size), 0), 2) FROM entry_chunks AS ec
        JOIN chunks AS c ON c.id = ec.chunk JOIN frames AS f ON f.blob = c.blob AND f.frame_offset = c.frame_offset
        WHERE ec.entry = coalesce(e.hardlink, e.id)) AS stored,
    content(@N, coalesce(e.hardlink, e.id), e.size) AS content
    FROM entries AS e WHERE e.type = 'f';
CREATE VIEW snapshot AS SELECT max(value) FILTER (WHERE key = 'snapshot') AS id, max(value) FILTER (WHERE key = 'host') AS host,
    max(value) FILTER (WHERE key = 'source') AS source, datetime(max(value) FILTER (WHERE key = 'started'), 'unixepoch') AS started,
    datetime(max(value) FILTER (WHERE key = 'server_time'), 'unixepoch') AS stored_at,
    max(value) FILTER (WHERE key = 'complete') AS complete, max(value) FILTER (WHERE key = 'entries') AS entries,
    max(value) FILTER (WHERE key = 'bytes') AS bytes FROM meta;
"""
NAMES = ("snapshot", "files", "paths", "entries", "xattrs", "blobs", "chunks", "entry_chunks", "frames", "meta")
"""What a query may name."""


def add_views(copy: Path, number: int) -> None:
    """Add the views to a copy that will be attached as `s<number>` where `add_functions` was called for it.

    Raises:
        sqlite3.Error: the disk is full.
    """
    with closing(sqlite3.connect(copy.as_uri(), uri=True)) as db:
        db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA.replace('@N', str(number))}")


def add_functions(db: sqlite3.Connection, copies: list[sqlite3.Connection]) -> None:
    """Add the functions that the views of copies call.

    Args:
        db: the connection to which the copies are attached.
        copies: a connection of its own to each, the first to that of number 1.
    """
    paths = [Paths(copy) for copy in copies]

    def directory_of(number: int, parent: int | None) -> str | None:
        return None if parent is None else printable(paths[number - 1].directory(parent))

    for name, arguments, function in (
        ("shown", 1, lambda name: None if name is None else printable(name)),
        ("shown_path", 3, lambda number, parent, name: printable(paths[number - 1].of(parent, name))),
        ("shown_directory", 2, directory_of),
        ("extension", 1, _extension),
        ("content", 3, lambda number, leader, size: find_content(copies[number - 1], leader, size).hex()),
    ):
        db.create_function(name, arguments, function, deterministic=True)


def _extension(name: bytes) -> str:
    """Return what stands behind the last dot of a name, in small letters, without the dot; of `.name` nothing."""
    stem, dot, extension = name.rpartition(b".")
    return printable(extension).lower() if stem and dot else ""
