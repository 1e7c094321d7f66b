"""Snapshot DBs to begin with, and what somebody could make of one: by SQL, in its schema, in its pages."""

import contextlib
import sqlite3

from tests.fuzz.mutation import havoc
from vaultik.snapshot.write import DELTA, FULL, schema

SNAPSHOT = "20261123T081500Z-1f2e3d4c"
_META = {
    "format": 1, "snapshot": SNAPSHOT, "source": "uuid", "previous": "", "host": "h", "started": 1.5, "server_time": 2.5, "complete": 1,
    "chunker": "fastcdc-1 1 2 3", "source_dirs": b"/a", "tool": "vaultik 1", "entries": 7, "bytes": 300,
}  # fmt: skip
_ENTRIES = (
    (1, None, b"", "d", 0, None, None), (2, 1, b"a", "d", 0, None, None), (3, 2, b"file", "f", 300, None, None),
    (4, 2, b"link", "l", 4, b"file", None), (5, 2, b"again", "f", 300, None, 6), (6, 2, b"first", "f", 300, None, 6),
    (7, 2, b"pipe", "p", 0, None, None),
)  # fmt: skip
_VALUES = (
    "NULL", "0", "1", "-1", "2", "3", "5", "7", "255", "4096", "1 << 31", "1 << 40", "9223372036854775807", "-9223372036854775808", "1e999",
    "1.5", "'x'", "'f'", "'d'", "'l'", "'full'", "'delta'", "x''", "x'2e'", "x'2e2e'", "x'2f'", "x'612f62'", "x'6100'", "x'2f657463'",
    "zeroblob(32)", "zeroblob(255)", "zeroblob(256)", "zeroblob(65537)", "zeroblob(1000000)", "CAST(zeroblob(70000) AS TEXT)", "x'0707070707070707070707070707070707070707070707070707070707070707'",
    "CAST(x'ff' AS TEXT)", "id", "parent", "id + 1", "-id",
)  # fmt: skip
_COLUMNS = {
    "meta": ("key", "value"),
    "entries": (
        "id", "parent", "name", "type", "mode", "uid", "gid", "user_name", "group_name", "size", "mtime_ns", "ctime_ns", "birth_ns", "link_target",
        "rdev", "hardlink", "inode_flags", "marks",
    ),
    "xattrs": ("entry", "name", "value"),
    "blobs": ("id", "hash", "size", "header_length", "recipients"),
    "chunks": ("id", "hash", "size", "blob", "frame_offset", "frame_length", "offset"),
    "entry_chunks": ("entry", "offset", "chunk"),
    "layers": ("place", "hash"),
    "superseded_entries": ("id",),
    "superseded_chunks": ("id",),
}  # fmt: skip
_ENDLESS = "WITH RECURSIVE e(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM e)"
_SCHEMAS = (
    "CREATE TABLE more (a)",
    "CREATE VIEW v AS SELECT 1",
    f"CREATE VIEW entries AS {_ENDLESS} SELECT x AS id, 1 AS parent, x''61'' AS name FROM e",
    f"CREATE VIEW meta AS {_ENDLESS} SELECT ''format'' AS key, x AS value FROM e",
    "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value ANY NOT NULL, more AS (zeroblob(900000000))) STRICT, WITHOUT ROWID",
    "CREATE TABLE layers (place INTEGER PRIMARY KEY, hash BLOB AS (zeroblob(100000000)))",
    "CREATE TABLE xattrs (entry, name, value)",
    "CREATE VIRTUAL TABLE entries USING fts5(id, parent, name)",
    "",
)
_MEANT = (
    "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
    "CREATE INDEX i ON entries (name, zeroblob(100000))",
    "ALTER TABLE xattrs ADD COLUMN more AS (zeroblob(1000000))",
    "PRAGMA user_version = 9",
    "PRAGMA application_id = 9",
    "PRAGMA encoding = 'UTF-16'",
    "PRAGMA auto_vacuum = 2",
    "DROP TABLE xattrs",
    "VACUUM",
    "REINDEX",
)
_STEPS = 200
_REFUSED = (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError)
"""What the forger's own SQLite says."""


def make(kind=FULL, *, more=()):
    """A whole, sound DB; of a delta, one that builds on the layer of an empty name."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(schema(kind))
        db.executemany("INSERT INTO meta VALUES (?, ?)", sorted({**_META, "kind": kind}.items()))
        db.execute("INSERT INTO blobs VALUES (1, ?, 5000, 200, 'age1')", (b"b" * 32,))
        if kind == DELTA:
            db.execute("INSERT INTO superseded_entries VALUES (3)")
            db.execute("INSERT INTO superseded_chunks VALUES (1)")
        for number, parent, name, type_, size, link, leader in _ENTRIES if kind == FULL else _ENTRIES[2:3]:
            rest = (type_, 0o644, 0, 0, "root", None, size, 5, 5, None, link, None, leader, 0, 0)
            db.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 18)})", (number, parent, name, *rest))
        db.execute("INSERT INTO xattrs VALUES (3, ?, ?)", (b"user.a", b"b"))
        for number in (1, 2) if kind == FULL else (1,):
            db.execute(
                "INSERT INTO chunks VALUES (?, ?, 100, 1, 0, 250, ?)", (number, bytes([number]) * 32, number * 100)
            )
        for entry, offset, chunk in [(3, 0, 1), (3, 200, 2), (6, 0, 2)] if kind == FULL else [(3, 0, 1)]:
            db.execute("INSERT INTO entry_chunks VALUES (?, ?, ?)", (entry, offset, chunk))
        for statement in more:
            db.execute(statement)
        db.execute("VACUUM")
        return db.serialize()


def many(count):
    """A statement that adds directories, so that tables take pages of several levels."""
    return (
        "INSERT INTO entries SELECT 100 + value, 2, CAST(format('%0100d', value) AS BLOB), 'd', 493, 0, 0, NULL, NULL, 0, 0, 0, NULL, NULL, NULL,"
        f" NULL, NULL, 0 FROM (WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {count}) SELECT value FROM n)"
    )


def mutate(data, rng):
    """One DB made into another."""
    return by_sql(data, rng) if rng.random() < 0.5 else by_pages(data, rng)


def by_sql(data, rng):
    """Change rows and schema, as SQLite lets one."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        try:
            db.deserialize(data)
            db.set_progress_handler(_ended(), 10_000)
            db.execute("PRAGMA writable_schema = ON")
            for _ in range(rng.choice((1, 1, 2, 3))):
                with contextlib.suppress(*_REFUSED):
                    db.execute(_statement(rng))
            return db.serialize() if db.execute("PRAGMA page_count").fetchone()[0] < 400 else data
        except _REFUSED:
            return by_pages(data, rng)


def _ended():
    left = iter(range(_STEPS))
    return lambda: next(left, None) is None


def _statement(rng):
    table = rng.choice(list(_COLUMNS))
    column, value = rng.choice(_COLUMNS[table]), rng.choice(_VALUES)
    where = rng.choice(
        (
            "true",
            f"{_COLUMNS[table][0]} = {rng.randrange(9)}",
            f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {rng.randrange(9)})",
        )
    )
    match rng.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            return f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE {where}"
        case 5:
            return f"DELETE FROM {table} WHERE {where}"
        case 6:
            columns = ", ".join(value if name == column else name for name in _COLUMNS[table])
            return f"INSERT OR IGNORE INTO {table} SELECT {columns} FROM {table} WHERE {where}"
        case 7:
            names = ", ".join(rng.choice(_VALUES) for _ in _COLUMNS[table])
            return f"INSERT OR REPLACE INTO {table} VALUES ({names})"
        case 8:
            sql = rng.choice(_SCHEMAS)
            return f"UPDATE sqlite_schema SET sql = '{sql}', type = '{sql[7:].partition(' ')[0].lower()}' WHERE name = '{table}'"
        case 9:
            what, value = rng.choice(
                (
                    ("rootpage", rng.randrange(12)),
                    ("name", "'x'"),
                    ("tbl_name", "'x'"),
                    ("type", "'index'"),
                    ("sql", "sql || ' '"),
                    ("sql", "NULL"),
                )
            )
            return f"UPDATE sqlite_schema SET {what} = {value} WHERE name = '{table}'"
        case 10:
            return many(rng.choice((10, 300)))
    return rng.choice(_MEANT)


def by_pages(data, rng):
    """Change what pages say: their kind, their cells, their children, or whole pages for others."""
    page = int.from_bytes(data[16:18], "big") or 4096
    page = page if 512 <= page <= 32768 else 4096
    pages = [data[at : at + page] for at in range(0, len(data), page)]
    if not pages:
        return havoc(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        one, two = rng.randrange(len(pages)), rng.randrange(len(pages))
        head = 100 if one == 0 else 0
        match rng.randrange(8):
            case 0:
                pages[one] = havoc(pages[one], rng)[:page].ljust(page, b"\0")
            case 1:
                pages[one] = _with(pages[one], head, bytes([rng.choice((2, 5, 10, 13, 0))]))
            case 2:
                cells = rng.choice((0, 1, 2, 300, 0xFFFF))
                pages[one] = _with(pages[one], head + rng.choice((1, 3, 5)), cells.to_bytes(2, "big"))
            case 3:
                pages[one] = _with(
                    pages[one], head + 8, rng.choice((one + 1, two + 1, 0, 0xFFFFFFFF)).to_bytes(4, "big")
                )
            case 4 if one:
                pages[one] = pages[two][:page].ljust(page, b"\0")
            case 5:
                # Every cell of an inner page leads to one page: few pages, rows without number.
                child = (two + 1).to_bytes(4, "big")
                cells = b"".join((12 + 2 * n + 2000).to_bytes(2, "big") for n in range(300))
                body = bytes([5, 0, 0, 1, 44, 0, 0, 0]) + child + cells
                pages[one] = (pages[one][:head] + body).ljust(2000, b"\0") + (child + b"\1") * 300
                pages[one] = pages[one][:page].ljust(page, b"\0")
            case 6:
                pages[0] = _with(
                    pages[0],
                    rng.choice((16, 18, 20, 21, 24, 28, 32, 36, 44, 52, 56, 92)),
                    rng.randbytes(rng.choice((1, 2, 4))),
                )
            case 7:
                at = rng.randrange(page)
                pages[one] = _with(pages[one], at, rng.choice((b"\xff" * 9, b"\x81" * 9 + b"\0", bytes(9), b"\x7f")))
    changed = bytearray(b"".join(pages))
    if rng.random() < 0.7:
        changed[28:32] = len(pages).to_bytes(4, "big")
    return bytes(changed)


def _with(page, at, piece):
    return (page[:at] + piece + page[at + len(piece) :])[: len(page)]
