"""What a verification found: problems, which end it with exit code 4, and notes, which don't.

The tables lie in the verification's working state; who reports reads from them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.names import parse_blob_key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

SCHEMA = """
CREATE TABLE problems (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE INDEX problems_by_key ON problems (key);
CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE hits (snapshot TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (snapshot, key)) STRICT, WITHOUT ROWID;
CREATE TABLE hit_files (snapshot TEXT NOT NULL, path BLOB NOT NULL, PRIMARY KEY (snapshot, path)) STRICT, WITHOUT ROWID
"""


_NAMED = 50


class Kind(enum.StrEnum):
    """What is wrong with an object."""

    MISSING = "missing"
    SIZE = "size"
    """It is stored with another size than its snapshots say."""
    DAMAGED = "damaged"
    """Its bytes are not what its name says."""
    REPLACED = "replaced"
    """Somebody put other bytes in its place; an older version is right, and read instead."""
    UNREADABLE = "unreadable"
    """The store has it and doesn't give it away."""
    CONTENT = "content"
    """Its bytes are what its name says, and what is in them is not what should be."""
    SIGNATURE = "signature"
    """Nobody signed the snapshot who should have."""
    CHAIN = "chain"
    """A snapshot names another predecessor than there is, or the newest one is gone."""


class Problem(NamedTuple):
    """Something that is wrong."""

    kind: Kind
    key: str
    text: str
    snapshots: list[str]
    """Ids of those that need it, the first and the last of them, as far as that can be known."""
    snapshot_count: int


class HitFiles(NamedTuple):
    """The files of a snapshot that don't come out whole."""

    snapshot: str
    files: int
    paths: list[bytes]
    """The first of them."""


def add_problem(db: sqlite3.Connection, kind: Kind, key: str, text: str, snapshots: Iterable[str] = ()) -> None:
    """Note a problem, once of each kind of an object, and the snapshots that it is known to belong to."""
    db.execute(
        "INSERT INTO problems (kind, key, text) SELECT ?1, ?2, ?3"
        " WHERE NOT EXISTS (SELECT 1 FROM problems WHERE kind = ?1 AND key = ?2)",
        (kind.value, key, text),
    )
    db.executemany("INSERT OR IGNORE INTO hits VALUES (?, ?)", ((snapshot, key) for snapshot in snapshots))


def add_note(db: sqlite3.Connection, text: str) -> None:
    """Note something that a person should know, and that is no problem."""
    db.execute("INSERT INTO notes (text) VALUES (?)", (text,))


def iter_problems(db: sqlite3.Connection) -> Iterator[Problem]:
    """Yield the problems in the order they were found."""
    for kind, key, text in db.execute("SELECT kind, key, text FROM problems ORDER BY id"):
        query, names = _BY_BLOB, (parse_blob_key(key),)
        if names[0] is None:
            query, names = "SELECT snapshot FROM hits WHERE key = ?", (key,)
        (count,) = db.execute(f"SELECT count(*) FROM ({query})", names).fetchone()
        first = [row[0] for row in db.execute(f"{query} ORDER BY 1 LIMIT ?", (*names, _NAMED))]
        last = [
            row[0] for row in db.execute(f"{query} ORDER BY 1 DESC LIMIT ?", (*names, min(_NAMED, count - len(first))))
        ]
        yield Problem(Kind(kind), key, text, [*first, *reversed(last)], count)


_BY_BLOB = "SELECT DISTINCT c.snapshot FROM chosen AS c JOIN spans AS s ON c.number BETWEEN s.first AND s.last WHERE s.blob = ?"


def get_notes(db: sqlite3.Connection) -> list[str]:
    """Return the notes."""
    return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY id")]


def hit_files(db: sqlite3.Connection, most: int) -> list[HitFiles]:
    """Return by snapshot how many files don't come out whole, and the first of them by name."""
    counts = db.execute("SELECT snapshot, count(*) FROM hit_files GROUP BY snapshot ORDER BY snapshot").fetchall()
    paths = "SELECT path FROM hit_files WHERE snapshot = ? ORDER BY path LIMIT ?"
    return [HitFiles(s, count, [row[0] for row in db.execute(paths, (s, most))]) for s, count in counts]
