"""Open an SQLite file that somebody else wrote, for reading columns of known tables and nothing else.

Nothing in it is trusted: not its size, not its schema, not its pages. The guards are those of SQLite's own advice on
untrusted files ("Defense Against The Dark Arts"). What rows say is for whoever reads them to check.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from vaultik.errors import FormatError
from vaultik.snapshot import rules
from vaultik.snapshot.write import DELTA, FORMAT, FULL, schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STEPS = 100_000
_LEAST_STEPS = 10_000_000
_STEPS_PER_BYTE = 50
_SQLITE_HEADER = b"SQLite format 3\0"
_START = 108
"""Bytes of SQLite's header and of the one that the first page's b-tree has: its type at 100, its number of rows at 103."""
_LEAF = 13
_SCHEMA_ROWS = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
_MOST_TABLES = 20


def open_untrusted(path: Path) -> sqlite3.Connection:
    """Open a snapshot DB of either kind, whose kind is that of its schema, to the byte.

    Raises:
        FormatError: it is none.
        sqlite3.Error: as well (`format_errors`).
    """
    with path.open("rb") as file:
        _check_start(file.read(_START), path.stat().st_size)
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        _restrain(db, path.stat().st_size)
        _check_kind(db)
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise FormatError("its DB is damaged inside")
        db.set_authorizer(_only_reads)
    except BaseException:
        db.close()
        raise
    return db


def _check_start(start: bytes, size: int) -> None:
    """Check what a file begins with, before SQLite sees it."""
    page = int.from_bytes(start[16:18], "big")
    pages = int.from_bytes(start[28:32], "big")
    if len(start) < _START or start[:16] != _SQLITE_HEADER or start[18:20] != b"\1\1":
        raise FormatError("its DB is no SQLite file")
    if size != pages * (65536 if page == 1 else page):
        raise FormatError("its DB is not of the size it says")
    # SQLite reads a whole schema before anything limits it: a million tables take it more than ten minutes.
    if start[100] != _LEAF or int.from_bytes(start[103:105], "big") > _MOST_TABLES:
        raise FormatError("its DB has another schema than format 1, not on its first page")


class _Budget:
    """Ends what takes SQLite far more steps than reading a file of that size several times."""

    def __init__(self, size_bytes: int) -> None:
        self._left = (_LEAST_STEPS + _STEPS_PER_BYTE * size_bytes) // _STEPS

    def __call__(self) -> int:
        self._left -= 1
        return self._left < 0


def _restrain(db: sqlite3.Connection, size: int) -> None:
    for limit, value in (
        (sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 16),
        (sqlite3.SQLITE_LIMIT_COLUMN, 64),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 20),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 4),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    ):
        db.setlimit(limit, value)
    db.set_progress_handler(_Budget(size), _STEPS)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON"):
        db.execute(f"PRAGMA {pragma}")


def _check_kind(db: sqlite3.Connection) -> None:
    """Check that a DB says of what format and kind it is, and has that kind's schema, to the byte."""
    found = db.execute(_SCHEMA_ROWS).fetchmany(_MOST_TABLES)
    kind = next((kind for kind in (FULL, DELTA) if found == _schema_rows(kind)), None)
    if kind is None:
        raise FormatError("its DB has another schema than format 1")
    says = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('format', 'kind')"))
    if says != {"format": FORMAT, "kind": kind}:
        shown = f"format {str(says.get('format'))[:20]!r} of kind {str(says.get('kind'))[:20]!r}"
        raise FormatError(f"{shown}, this vaultik knows format {FORMAT}, and this DB's schema is of kind {kind!r}")


def _schema_rows(kind: str) -> list[Any]:
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(schema(kind))
        return fresh.execute(_SCHEMA_ROWS).fetchall()


def _only_reads(action: int, first: str | None, _second: str | None, _db: str | None, _by: str | None) -> int:
    may_be_read = action == sqlite3.SQLITE_READ and first in {*rules.TABLES, *rules.DELTA_TABLES}
    return sqlite3.SQLITE_OK if may_be_read or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY


def _reads_and_fills_copy(action: int, first: str | None, second: str | None, db: str | None, by: str | None) -> int:
    if db == "copy" and first in rules.TABLES and action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action == sqlite3.SQLITE_TRANSACTION else _only_reads(action, first, second, db, by)


def find_meta(db: sqlite3.Connection, key: str) -> object:
    """Return one row of `meta`, None if there is none: in a DB that isn't copied there may be any number of them."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def attach(db: sqlite3.Connection, copy: Path) -> None:
    """Let the connection of an untrusted DB add rows to a database of one's own, `copy`, and remove some.

    The guarded connection gets to know both; one without guards never sees the file. What it may do is measured by
    the size of both from then on: a small delta may take much out of a large copy.
    """
    db.set_authorizer(None)
    (size,) = db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    db.set_progress_handler(_Budget(size + copy.stat().st_size), _STEPS)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
    db.execute("ATTACH ? AS copy", (copy.absolute().as_uri(),))
    db.execute("PRAGMA copy.synchronous = OFF")
    db.execute("PRAGMA query_only = OFF")
    db.set_authorizer(_reads_and_fills_copy)


@contextmanager
def format_errors() -> Iterator[None]:
    """Turn what SQLite says of an untrusted file into FormatError."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as exc:
        # The latter where SQLite's message has bytes of the file in it.
        raise FormatError(f"its DB is not as the format demands: {exc}") from exc
