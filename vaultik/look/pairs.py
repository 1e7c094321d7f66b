"""Which entry of one tree is which of another: by their paths, and of the rest by what moved.

Two trees lie in databases `a` and `b`, attached to the connection; what is found goes into tables of its own, so memory is bounded:

    pairs   (a, b)                 entries of both that are one and the same
    gone    (id, parent, ...)      those of a that are in no pair
    came    (id, parent, ...)      those of b
    moved   (a, b)                 the pairs that don't stand under the same path; what is below them isn't repeated

A directory moved if at least half of its files, by content, stand in a new one under the same names. A file moved if its content,
of at least a byte, is gone at one place and came at another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_SCHEMA = """
CREATE TABLE pairs (a INTEGER PRIMARY KEY, b INTEGER NOT NULL UNIQUE) STRICT;
CREATE TABLE moved (a INTEGER PRIMARY KEY, b INTEGER NOT NULL) STRICT;
CREATE TABLE gone (id INTEGER PRIMARY KEY, parent INTEGER, name BLOB NOT NULL, type TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, leader INTEGER NOT NULL, content BLOB) STRICT;
CREATE TABLE came (id INTEGER PRIMARY KEY, parent INTEGER, name BLOB NOT NULL, type TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, leader INTEGER NOT NULL, content BLOB) STRICT;
CREATE TABLE hidden (b INTEGER PRIMARY KEY) STRICT;
"""
_PAIRS_BELOW = """
INSERT INTO pairs WITH RECURSIVE below (a, b) AS (SELECT ?, ? UNION ALL
    SELECT ea.id, eb.id FROM below JOIN a.entries AS ea ON ea.parent = below.a
    JOIN b.entries AS eb ON eb.parent = below.b AND eb.name = ea.name)
SELECT a, b FROM below
"""
_UNPAIRED_BELOW = """
INSERT INTO pairs WITH RECURSIVE below (a, b) AS (SELECT ?, ? UNION ALL
    SELECT ea.id, eb.id FROM below JOIN a.entries AS ea ON ea.parent = below.a
    JOIN b.entries AS eb ON eb.parent = below.b AND eb.name = ea.name
    WHERE ea.id NOT IN (SELECT a FROM pairs) AND eb.id NOT IN (SELECT b FROM pairs))
SELECT a, b FROM below
"""
"""What moved into or out of a directory that moved itself stays with what it was paired with."""
_COLUMNS = "e.id, e.parent, e.name, e.type, e.size, e.mtime_ns, coalesce(e.hardlink, e.id)"
_CONTENT = {
    "gone": "UPDATE gone SET content = content_of_a(leader, size) WHERE type = 'f' AND size > 0"
    " AND size IN (SELECT size FROM came WHERE type = 'f')",
    "came": "UPDATE came SET content = content_of_b(leader, size, mtime_ns) WHERE type = 'f' AND size > 0"
    " AND size IN (SELECT size FROM gone WHERE type = 'f')",
}
_VOTES = """
CREATE TABLE votes (a INTEGER NOT NULL, b INTEGER NOT NULL, files INTEGER NOT NULL, PRIMARY KEY (a, b)) STRICT, WITHOUT ROWID
"""
_NAMED_ONCE = "SELECT min(parent) AS parent, content, name FROM {} WHERE content IS NOT NULL GROUP BY content, name HAVING count(*) = 1"
_SAME_PLACE = f"""
SELECT g.parent, c.parent, count(*) FROM ({_NAMED_ONCE.format("gone")}) AS g JOIN ({_NAMED_ONCE.format("came")}) AS c
    ON c.content = g.content AND c.name = g.name GROUP BY g.parent, c.parent
"""
_FILES_BELOW = """
WITH RECURSIVE below (id, type) AS (SELECT id, type FROM gone WHERE id = ? UNION ALL
    SELECT g.id, g.type FROM below JOIN gone AS g ON g.parent = below.id) SELECT count(*) FROM below WHERE type = 'f'
"""


def find_pairs(db: sqlite3.Connection, starts: Iterable[tuple[int | None, int | None]]) -> None:
    """Fill the tables.

    Args:
        db: with `a` and `b` attached, and the functions `content_of_a` (leader, size) and `content_of_b` (leader, size, time),
            which give a digest of a file's content, or NULL.
        starts: what to compare: an entry of each, None where there is none. None lies below another.
    """
    for start_a, start_b in starts:
        if start_a is not None and start_b is not None:
            db.execute(_PAIRS_BELOW, (start_a, start_b))
        elif start_a is not None:
            _note(db, "gone", "a", "SELECT ?", (start_a,))
        elif start_b is not None:
            _note(db, "came", "b", "SELECT ?", (start_b,))
    unpaired = (
        "SELECT e.id FROM pairs JOIN {0}.entries AS e ON e.parent = pairs.{0} WHERE e.id NOT IN (SELECT {0} FROM pairs)"
    )
    _note(db, "gone", "a", unpaired.format("a") + " AND pairs.b NOT IN (SELECT b FROM hidden)")
    _note(db, "came", "b", unpaired.format("b"))
    for table in ("gone", "came"):
        db.execute(f"CREATE INDEX {table}_by_parent ON {table} (parent)")
        db.execute(f"CREATE INDEX {table}_by_size ON {table} (size)")
    for statement in _CONTENT.values():
        db.execute(statement)
    _move_directories(db)
    _move_files(db, "content, name")
    _move_files(db, "content")


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables."""
    db.executescript(_SCHEMA + _VOTES)


def _note(db: sqlite3.Connection, table: str, tree: str, first: str, values: tuple[int, ...] = ()) -> None:
    """Note what a query finds in a tree, and all below it."""
    db.execute(
        f"INSERT INTO {table} WITH RECURSIVE below (id) AS ({first} UNION ALL"
        f" SELECT e.id FROM below JOIN {tree}.entries AS e ON e.parent = below.id)"
        f" SELECT {_COLUMNS}, NULL FROM below JOIN {tree}.entries AS e ON e.id = below.id",
        values,
    )


def _forget_paired(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM gone WHERE id IN (SELECT a FROM pairs)")
    db.execute("DELETE FROM came WHERE id IN (SELECT b FROM pairs)")


def _move_directories(db: sqlite3.Connection) -> None:
    for old, new, files in db.execute(_SAME_PLACE):
        top = _top(db, old, new)
        if top is not None:
            statement = "INSERT INTO votes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET files = files + excluded.files"
            db.execute(statement, (*top, files))
    for old, new, files in db.execute("SELECT a, b, files FROM votes ORDER BY files DESC, a, b"):
        is_free = db.execute(
            "SELECT ? NOT IN (SELECT a FROM pairs) AND ? NOT IN (SELECT b FROM pairs)", (old, new)
        ).fetchone()[0]
        if is_free and files * 2 >= db.execute(_FILES_BELOW, (old,)).fetchone()[0]:
            db.execute(_UNPAIRED_BELOW, (old, new))
            db.execute("INSERT INTO moved VALUES (?, ?)", (old, new))
    _forget_paired(db)


def _top(db: sqlite3.Connection, old: int, new: int) -> tuple[int, int] | None:
    """Return the topmost directories above two (or these) that went together; None if one of the two neither went nor came."""
    top = None
    query = "SELECT g.parent, c.parent, g.name = c.name FROM gone AS g, came AS c WHERE g.id = ? AND c.id = ?"
    while (row := db.execute(query, (old, new)).fetchone()) is not None:
        top = (old, new)
        old, new, same_name = row
        if not same_name:
            break
    return top


def _move_files(db: sqlite3.Connection, by: str) -> None:
    """Pair files of one content one by one, whatever number there is of each."""
    ranked = "SELECT id, {0}, row_number() OVER (PARTITION BY {0} ORDER BY name, id) AS rank FROM {1} WHERE content IS NOT NULL"
    names = by.split(", ")
    db.execute(
        f"INSERT INTO moved SELECT g.id, c.id FROM ({ranked.format(by, 'gone')}) AS g JOIN ({ranked.format(by, 'came')}) AS c"
        f" ON {' AND '.join(f'c.{name} = g.{name}' for name in (*names, 'rank'))}"
    )
    db.execute("INSERT OR IGNORE INTO pairs SELECT a, b FROM moved")
    _forget_paired(db)
