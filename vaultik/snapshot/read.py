"""Read a snapshot DB that somebody else wrote, with its layers, into a database of one's own.

Anybody can encrypt to a recipient, so nothing in the files is trusted (`untrusted`), and no row. Callers only ever see
the copy, in which every rule of FORMAT.md holds: a parent's id is smaller than its child's, names are names,
content fits its file.
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
from vaultik.snapshot.find import digest_first, look_behind
from vaultik.snapshot.untrusted import attach, find_meta, format_errors, open_untrusted
from vaultik.snapshot.write import DELTA, FULL, schema
from vaultik.store.cached import open_metadata, size_of_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.snapshot.kept import KeptLayers
    from vaultik.store.base import Store

_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_FULL_BELOW = 64 << 10
_HASH_BYTES = 32
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
    store: Store,
    found: FoundSnapshot,
    identities: Sequence[Identity],
    directory: Path,
    copy: Path,
    kept: KeptLayers | None = None,
) -> None:
    """Download a snapshot DB, check it, and copy it into a database of one's own.

    Args:
        store: where it lies.
        found: which.
        identities: any of which may open it.
        directory: a private one (0700) for the plain file, which is removed before this returns.
        copy: where to put the copy; nothing is there yet.
        kept: of who copies several: the layers of the one before, and then of this one.

    Raises:
        IntegrityError: missing, altered, or against the format; the copy is then of no worth.
        NoMatchingIdentityError: it is for somebody else.
        StoreError: the store failed.
        OSError: the directory's disk is full.
    """
    with open_snapshot(store, found, identities, directory) as db:
        layers = _layers(db)
        begun = kept.begin(layers, copy) if kept is not None else 0
        if not begun:
            with disk_errors(directory):
                _create(copy)
        for height in range(begun + 1, len(layers) + 1):
            with _open_layer(store, layers[:height], identities, directory) as layer, disk_errors(directory):
                _apply(layer, copy)
        if kept is not None and layers:
            kept.keep(layers, copy)
        with disk_errors(directory):
            _apply(db, copy)
            _finish(copy)


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


def get_meta(copy: sqlite3.Connection) -> dict[str, Any]:
    """Return the table `meta` of a copied snapshot."""
    return dict(copy.execute("SELECT key, value FROM meta"))


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
        named = type(exc)(f"{what}: {exc}")
        named.layer = exc.layer
        raise named from exc


@contextmanager
def _opened(
    store: Store, stored: _Stored, identities: Sequence[Identity], directory: Path
) -> Iterator[sqlite3.Connection]:
    """Download an SQLite file and open it for the block; it has no name any more when the block begins."""
    plain = directory / "snapshot.sqlite"
    try:
        _download(store, stored, identities, plain)
        with format_errors(), closing(open_untrusted(plain)) as db:
            # SQLite has it open; a kill from here on leaves nothing in plain.
            plain.unlink()
            yield db
    finally:
        plain.unlink(missing_ok=True)


def _download(store: Store, stored: _Stored, identities: Sequence[Identity], plain: Path) -> None:
    def read(size: int) -> None:
        fd = os.open(plain, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with (
            os.fdopen(fd, "wb") as file,
            open_metadata(store, stored.key, stored.sha256) as stream,
            digest_first(stream, stored.sha256) as hashing,
        ):
            for block in stored.decode(open_stream(hashing, identities), size_limit=DB_BOUND.most_content(size)):
                file.write(block)

    look_behind(store, stored.key, stored.sha256, stored.size, read)


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
    with _as_layer(blob), _named(f"layer {blob.hex()}", "missing"):
        key = blob_key(BlobId(blob))
        size = size_of_metadata(store, key, blob)
        if size is None:
            raise ObjectNotFoundError("missing")
        stored = _Stored(key, blob, size, decode_frames)
        with _opened(store, stored, identities, directory) as db:
            if _layers(db) != below:
                raise FormatError("builds on other layers than the snapshot")
            yield db


@contextmanager
def _as_layer(blob: bytes) -> Iterator[None]:
    try:
        yield
    except IntegrityError as exc:
        exc.layer = blob
        raise


def _kind(db: sqlite3.Connection) -> object:
    return find_meta(db, "kind")


def _check_snapshot(db: sqlite3.Connection, found: FoundSnapshot) -> None:
    if (snapshot := find_meta(db, "snapshot")) != found.name.snapshot:
        raise FormatError(f"it holds the DB of {str(snapshot)[:40]}")
    _layers(db)


def _create(copy: Path) -> None:
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(_connect(copy)) as own:
        own.executescript(schema())


def _apply(db: sqlite3.Connection, copy: Path) -> None:
    """Bring what a DB says over what those that it builds on said."""
    superseded = _SUPERSEDED if _kind(db) == DELTA else {}
    attach(db, copy)
    db.execute("BEGIN")
    for noted, tables in superseded.items():
        for table, column in tables.items():
            db.execute(f"DELETE FROM copy.{table} WHERE {column} IN (SELECT id FROM main.{noted})")
    for table in rules.TABLES:
        if table in _WHOLE:
            db.execute(f"DELETE FROM copy.{table}")
        with _as_format(table):
            # The condition makes SQLite look at every value; without one it takes whole records over.
            db.execute(f"INSERT INTO copy.{table} SELECT * FROM main.{table} WHERE true")
    db.execute("COMMIT")


def _finish(copy: Path) -> None:
    with closing(_connect(copy)) as own:
        for statement in filter(str.strip, COPY_SCHEMA.split(";")):
            with _as_format("entries"):
                own.execute(statement)
        rules.check(own)


def _connect(copy: Path) -> sqlite3.Connection:
    own = sqlite3.connect(copy, isolation_level=None)
    own.execute("PRAGMA synchronous = OFF")
    return own


@contextmanager
def _as_format(table: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as exc:
        raise FormatError(f"{table}: two rows where one is allowed, or a value of the wrong type") from exc
