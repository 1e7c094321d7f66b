"""The rules of a snapshot DB (FORMAT.md, "Snapshot DB"), as queries that find a row which breaks one.

Who writes a DB checks them before it is sealed, who reads one on the copy of its rows: what is stored
can be restored. Column types are held by the STRICT tables themselves.
"""

from __future__ import annotations

import sqlite3

from vaultik.errors import FormatError

TABLES = {"meta": 2, "entries": 18, "xattrs": 3, "blobs": 5, "chunks": 7, "entry_chunks": 3}
"""Every table with its number of columns, in the order to copy them."""
DELTA_TABLES = ("layers", "superseded_entries", "superseded_chunks")
"""Those that a delta has besides."""
MOST_LAYERS = 64

LARGEST_CHUNK = 512 << 20
FRAME_BYTES = 1 << 20
LONGEST_NAME = 255
LONGEST_LINK = 4096
_LONGEST_HEADER = 1 << 16
_LONGEST_VALUE = 1 << 16
DEEPEST = 4096
"""How many names below `/` a directory may lie: more than a path that the kernel takes can have."""
_LARGEST_XATTR = 1 << 16
_LONGEST_XATTR_LIST = 1 << 16
"""Linux's own limit (XATTR_LIST_MAX) on the names of one entry, a NUL after each."""
_END_OF_TIME_S = 253_402_300_800
"""The year 10000."""
_U32 = (1 << 32) - 1

_META = {
    "format": "integer",
    "kind": "text",
    "snapshot": "text",
    "source": "text",
    "previous": "text",
    "host": "text",
    "started": "real",
    "server_time": "real",
    "complete": "integer",
    "chunker": "text",
    "source_dirs": "blob",
    "tool": "text",
    "entries": "integer",
    "bytes": "integer",
}
_KEYS = ", ".join(f"('{key}', '{kind}')" for key, kind in _META.items())

RULES = (
    (
        "meta: a row that doesn't belong, or of the wrong type",
        f"SELECT key FROM meta WHERE (key, typeof(value)) NOT IN (VALUES {_KEYS}) OR length(value) > {_LONGEST_VALUE}",
    ),
    (
        "meta: a number out of range",
        "SELECT key FROM meta WHERE (typeof(value) = 'integer' AND value < 0)"
        f" OR (typeof(value) = 'real' AND (value >= 0 AND value < {_END_OF_TIME_S}) IS NOT TRUE)",
    ),
    ("meta: a row is missing", f"SELECT count(*) FROM meta HAVING count(*) <> {len(_META)}"),
    (
        "entries: a name that is none",
        "SELECT id FROM entries WHERE ((id = 1) = (name = x'') AND instr(name, x'2f') = 0 AND instr(name, x'00') = 0"
        f" AND name NOT IN (x'2e', x'2e2e') AND length(name) <= {LONGEST_NAME}) IS NOT TRUE",
    ),
    (
        "entries: a row out of range",
        "SELECT id FROM entries WHERE (id >= 1 AND (id = 1) = (parent IS NULL) AND (id <> 1 OR type = 'd')"
        " AND type IN ('f', 'd', 'l', 'p', 's', 'c', 'b') AND mode BETWEEN 0 AND 4095"
        f" AND uid BETWEEN 0 AND {_U32} AND gid BETWEEN 0 AND {_U32} AND size >= 0 AND marks >= 0"
        f" AND coalesce(length(user_name), 0) <= {LONGEST_NAME} AND coalesce(length(group_name), 0) <= {LONGEST_NAME}"
        " AND (link_target IS NOT NULL) = (type = 'l') AND (type = 'f' OR size = coalesce(length(link_target), 0))"
        f" AND (type <> 'l' OR (length(link_target) BETWEEN 1 AND {LONGEST_LINK} AND instr(link_target, x'00') = 0))"
        " AND (rdev IS NOT NULL) = (type IN ('c', 'b')) AND coalesce(rdev, 0) >= 0 AND (hardlink IS NULL OR type <> 'd')"
        f" AND coalesce(inode_flags, 0) BETWEEN 0 AND {_U32}) IS NOT TRUE",
    ),
    ("entries: no root", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM entries WHERE id = 1)"),
    (
        "entries: a parent that is no earlier directory",
        "SELECT e.id FROM entries AS e LEFT JOIN entries AS p ON p.id = e.parent"
        " WHERE e.id <> 1 AND (p.id IS NULL OR p.type <> 'd' OR p.id >= e.id)",
    ),
    (
        "entries: a hard link to no leader, or to one of another type or size",
        "SELECT e.id FROM entries AS e LEFT JOIN entries AS l ON l.id = e.hardlink"
        " WHERE e.hardlink IS NOT NULL AND (l.id IS NULL OR l.hardlink IS NOT l.id OR l.type <> e.type"
        " OR l.size <> e.size)",
    ),
    (
        "xattrs: a row out of range, or of no entry",
        f"SELECT entry FROM xattrs WHERE (length(name) BETWEEN 1 AND {LONGEST_NAME} AND instr(name, x'00') = 0"
        f" AND length(value) <= {_LARGEST_XATTR} AND entry IN (SELECT id FROM entries)) IS NOT TRUE",
    ),
    (
        "xattrs: more of one entry than Linux lists",
        f"SELECT entry FROM xattrs GROUP BY entry HAVING sum(length(name) + 1) > {_LONGEST_XATTR_LIST}",
    ),
    (
        "blobs: a row out of range",
        f"SELECT id FROM blobs WHERE (id >= 1 AND length(hash) = 32 AND header_length BETWEEN 1 AND {_LONGEST_HEADER}"
        " AND header_length < size) IS NOT TRUE",
    ),
    (
        "chunks: a row out of range",
        f"SELECT id FROM chunks WHERE (length(hash) = 32 AND size BETWEEN 1 AND {LARGEST_CHUNK} AND frame_offset >= 0"
        f" AND frame_length BETWEEN 1 AND {LARGEST_CHUNK + (1 << 20)} AND offset >= 0"
        f" AND (offset = 0 OR offset + size <= {FRAME_BYTES})) IS NOT TRUE",
    ),
    (
        "chunks: in no blob, or past its end",
        "SELECT c.id FROM chunks AS c LEFT JOIN blobs AS b ON b.id = c.blob"
        " WHERE (c.frame_offset + c.frame_length <= b.size) IS NOT TRUE",
    ),
    (
        "entry_chunks: of no file, or of no chunk",
        "SELECT ec.entry FROM entry_chunks AS ec LEFT JOIN entries AS e ON e.id = ec.entry LEFT JOIN chunks AS c ON c.id = ec.chunk"
        " WHERE c.id IS NULL OR e.type IS NOT 'f' OR coalesce(e.hardlink, e.id) <> e.id",
    ),
    (
        "entry_chunks: overlapping, or past the end of the file",
        "SELECT entry FROM (SELECT ec.entry AS entry, ec.offset AS start, ec.offset + c.size AS stop, e.size AS size,"
        " lead(ec.offset, 1, e.size) OVER (PARTITION BY ec.entry ORDER BY ec.offset) AS next"
        " FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk JOIN entries AS e ON e.id = ec.entry)"
        " WHERE start < 0 OR stop > next OR stop > size",
    ),
)
"""What may not be: a name for it, and the query that finds it."""
_TEXTS = {"meta": "SELECT value FROM meta", "entries": "SELECT DISTINCT user_name, group_name FROM entries"}
"""All texts whose bytes no other rule knows."""


def check(db: sqlite3.Connection) -> None:
    """Check every rule.

    Raises:
        FormatError: one is broken; it is named with the first row that breaks it.
    """
    for what, query in RULES:
        row = db.execute(f"{query} LIMIT 1").fetchone()
        if row is not None:
            raise FormatError(f"{what} (row {str(row[0])[:20]})")
    _check_texts(db)
    _check_depth(db)


def _check_texts(db: sqlite3.Connection) -> None:
    """Check that what is a text can be read as one: SQLite takes any bytes for it."""
    for what, query in _TEXTS.items():
        try:
            for _ in db.execute(query):
                pass
        except sqlite3.OperationalError as exc:
            if "decode" not in str(exc):
                raise
            raise FormatError(f"{what}: a text that is not UTF-8") from exc


def _check_depth(db: sqlite3.Connection) -> None:
    """Check how deep directories lie, in one pass: a parent's id is smaller than its child's."""
    db.execute(
        f"CREATE TEMP TABLE depths (id INTEGER PRIMARY KEY, depth INTEGER NOT NULL CHECK (depth <= {DEEPEST})) STRICT"
    )
    try:
        db.executemany(
            "INSERT INTO temp.depths VALUES (?, coalesce((SELECT depth + 1 FROM temp.depths WHERE id = ?), 0))",
            db.execute("SELECT id, parent FROM entries WHERE type = 'd' ORDER BY id"),
        )
    except sqlite3.IntegrityError as exc:
        raise FormatError(f"entries: a directory more than {DEEPEST} names below /") from exc
    db.execute("DROP TABLE temp.depths")
