"""Open a snapshot DB that somebody else wrote, and copy its rows into a database of one's own.

Anybody can encrypt to a recipient, so nothing in the file is trusted: not its schema, not its rows.
The guards are those of SQLite's own advice on untrusted files ("Defense Against The Dark Arts"), the
limits those of FORMAT.md. Callers only ever see the copy, in which every rule of the format holds:
a parent's id is smaller than its child's, names are names, content fits its file.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.core.age_stream import open_stream
from vaultik.core.bounds import DB_BOUND
from vaultik.core.frames import decode_frames, decode_stream
from vaultik.core.names import blob_key
from vaultik.errors import (
    FormatError,
    IntegrityError,
    NoMatchingIdentityError,
    ObjectNotFoundError,
)
from vaultik.model import BlobId
from vaultik.snapshot import rules
from vaultik.snapshot.find import digest_first
from vaultik.snapshot.write import DELTA, FORMAT, FULL, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_STEPS = 100_000
_LEAST_STEPS = 10_000_000
_STEPS_PER_BYTE = 50
_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_FULL_BELOW = 64 << 10
_SQLITE_HEADER = b"SQLite format 3\0"
_HASH_BYTES = 32
_SCHEMA_ROWS = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
_MOST_TABLES = 20
_SUPERSEDED = {
    "superseded_entries": {"entries": "id", "xattrs": "entry", "entry_chunks": "entry"},
    "superseded_chunks": {"chunks": "id"},
}
"""What no longer holds of the layers: of which table, by which column."""
_WHOLE = ("meta", "blobs")
"""Tables that a delta has as a whole."""

COPY_SCHEMA = """
CREATE UNIQUE INDEX entries_by_name ON entries (parent, name);
CREATE INDEX chunks_by_blob ON chunks (blob, frame_offset, offset);
CREATE INDEX entry_chunks_by_chunk ON entry_chunks (chunk);
"""


def fetch_snapshot(
    store: Store, found: FoundSnapshot, identities: Sequence[Identity], directory: Path, copy: sqlite3.Connection
) -> None:
    """Download a snapshot DB, check it, and copy it into an empty database.

    Args:
        store: where it lies.
        found: which.
        identities: any of which may open it.
        directory: a private one (0700) for the plain file, which is removed before this returns.
        copy: an empty database in autocommit mode.

    Raises:
        IntegrityError: missing, altered, or against the format; the copy is then of no worth.
        NoMatchingIdentityError: it is for somebody else.
        StoreError: the store failed.
        OSError: the directory's disk is full.
    """
    with open_snapshot(store, found, identities, directory) as db:
        with disk_errors(directory):
            copy.executescript(schema())
            copy.execute("BEGIN")
        layers = _layers(db)
        for height in range(1, len(layers) + 1):
            with _open_layer(store, layers[:height], identities, directory) as layer, disk_errors(directory):
                _apply(layer, copy)
        with disk_errors(directory):
            _apply(db, copy)
            _finish(copy)
            copy.execute("COMMIT")


@contextmanager
def open_snapshot(
    store: Store, found: FoundSnapshot, identities: Sequence[Identity], directory: Path
) -> Iterator[sqlite3.Connection]:
    """Download a snapshot DB and open it for the block, which may select columns of its tables and nothing else.

    Schema, page structure and the kind of DB are checked; rows are whatever the writer put there. Of a delta it is
    what differs from its layers; `meta` and `blobs` are the whole snapshot's all the same.

    Args:
        store: where it lies.
        found: which.
        identities: any of which may open it.
        directory: a private one (0700); the plain file has no name in it any more when the block begins.

    Raises:
        IntegrityError: missing, altered, or against the format; what the block finds so is named alike.
        NoMatchingIdentityError: it is for somebody else.
        StoreError: the store failed.
        OSError: the directory's disk is full.
    """
    stored = _Stored(found.name.key, found.name.sha256, found.size_bytes, decode_stream)
    with (
        _named(f"snapshot {found.name.snapshot}", "its DB is missing"),
        _opened(store, stored, identities, directory) as db,
    ):
        _check_snapshot(db, found)
        yield db


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what SQLite says of a disk, and of nothing else, into OSError.

    Args:
        place: a directory on the disk that holds the database.
    """
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code not in _DISK:
            raise
        # That its shared memory or a journal doesn't fit is an I/O error to SQLite.
        disk = os.statvfs(place)
        is_full = code == sqlite3.SQLITE_FULL or disk.f_bavail * disk.f_frsize < _FULL_BELOW
        number = errno.ENOSPC if is_full else errno.EIO
        raise OSError(number, os.strerror(number)) from exc


@contextmanager
def _format_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise FormatError(f"its DB is not as the format demands: {exc}") from exc


def get_meta(copy: sqlite3.Connection) -> dict[str, Any]:
    """Return the table `meta` of a copied snapshot."""
    return dict(copy.execute("SELECT key, value FROM meta"))


def find_meta(db: sqlite3.Connection, key: str) -> object:
    """Return one row of `meta`, None if there is none: in a DB that isn't copied there may be any number of them."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


class _Stored(NamedTuple):
    """An object that holds an SQLite file."""

    key: str
    sha256: bytes
    size: int
    decode: Callable[..., Iterator[bytes]]
    """Takes the zstd frames out of its plaintext."""


@contextmanager
def _named(what: str, missing: str) -> Iterator[None]:
    """Say in what something is missing or wrong."""
    try:
        yield
    except NoMatchingIdentityError as exc:
        raise NoMatchingIdentityError(f"{what}: {exc}", hint=exc.hint) from exc
    except ObjectNotFoundError as exc:
        raise IntegrityError(f"{what}: {missing}") from exc
    except IntegrityError as exc:
        raise type(exc)(f"{what}: {exc}") from exc


@contextmanager
def _opened(
    store: Store, stored: _Stored, identities: Sequence[Identity], directory: Path
) -> Iterator[sqlite3.Connection]:
    """Download an SQLite file and open it for the block; it has no name any more when the block begins."""
    plain = directory / "snapshot.sqlite"
    try:
        _download(store, stored, identities, plain)
        with _format_errors(), closing(_open_untrusted(plain)) as db:
            # SQLite has it open; a kill from here on leaves nothing in plain.
            plain.unlink()
            yield db
    finally:
        plain.unlink(missing_ok=True)


def _download(store: Store, stored: _Stored, identities: Sequence[Identity], plain: Path) -> None:
    fd = os.open(plain, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file, store.open(stored.key) as stream, digest_first(stream, stored.sha256) as hashing:
        limit = DB_BOUND.most_content(stored.size)
        for block in stored.decode(open_stream(hashing, identities), size_limit=limit):
            file.write(block)


def _layers(db: sqlite3.Connection) -> list[bytes]:
    """Return the blobs that a DB builds on, the lowest first.

    Raises:
        FormatError: too many, or one that the snapshot doesn't list, and no prune would keep for it.
    """
    if _kind(db) == FULL:
        return []
    rows = db.execute(
        "SELECT l.hash, b.id FROM layers AS l LEFT JOIN blobs AS b ON b.hash = l.hash ORDER BY l.place LIMIT ?",
        (rules.MOST_LAYERS + 1,),
    ).fetchall()
    if not 1 <= len(rows) <= rules.MOST_LAYERS or any(blob is None or len(h) != _HASH_BYTES for h, blob in rows):
        raise FormatError(f"its DB builds on {len(rows)} layers, or on what is no blob of its own")
    return [layer for layer, _ in rows]


@contextmanager
def _open_layer(
    store: Store, layers: Sequence[bytes], identities: Sequence[Identity], directory: Path
) -> Iterator[sqlite3.Connection]:
    """Download the last of some layers and open it for the block.

    Raises:
        IntegrityError: missing, altered, against the format, or not one that builds on the others.
    """
    *below, blob = layers
    with _named(f"layer {blob.hex()}", "missing"):
        info = store.head(blob_key(BlobId(blob)))
        if info is None:
            raise ObjectNotFoundError("missing")
        stored = _Stored(info.key, blob, info.size_bytes, decode_frames)
        with _opened(store, stored, identities, directory) as db:
            if _layers(db) != below:
                raise FormatError("builds on other layers than the snapshot")
            yield db


def _open_untrusted(path: Path) -> sqlite3.Connection:
    with path.open("rb") as file:
        start = file.read(100)
    page = int.from_bytes(start[16:18], "big")
    pages = int.from_bytes(start[28:32], "big")
    if len(start) < 100 or start[:16] != _SQLITE_HEADER or start[18:20] != b"\1\1":  # noqa: PLR2004 - SQLite's header
        raise FormatError("its DB is no SQLite file")
    if path.stat().st_size != pages * (65536 if page == 1 else page):
        raise FormatError("its DB is not of the size it says")
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


def _kind(db: sqlite3.Connection) -> object:
    return find_meta(db, "kind")


def _check_snapshot(db: sqlite3.Connection, found: FoundSnapshot) -> None:
    if (snapshot := find_meta(db, "snapshot")) != found.name.snapshot:
        raise FormatError(f"it holds the DB of {str(snapshot)[:40]}")
    _layers(db)


def _apply(db: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Bring what a DB says over what those that it builds on said."""
    if _kind(db) == DELTA:
        for noted, tables in _SUPERSEDED.items():
            for table, column in tables.items():
                rows = db.execute(f"SELECT id FROM {noted}")
                copy.executemany(f"DELETE FROM {table} WHERE {column} = ?", rows)
    for table, columns in rules.TABLES.items():
        if table in _WHOLE:
            copy.execute(f"DELETE FROM {table}")
        with _as_format(table):
            rows = db.execute(f"SELECT * FROM {table}")
            copy.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)


def _finish(copy: sqlite3.Connection) -> None:
    for statement in filter(str.strip, COPY_SCHEMA.split(";")):
        with _as_format("entries"):
            copy.execute(statement)
    rules.check(copy)


@contextmanager
def _as_format(table: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as exc:
        raise FormatError(f"{table}: two rows where one is allowed, or a value of the wrong type") from exc
