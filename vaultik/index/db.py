"""Open, create, migrate and check the index's SQLite file; the one door to it.

It knows files and schema versions, not what the tables mean. Guarantees: the file is 0600; it never
lies on a network file system; a damaged one is moved aside, never repaired in place, since the worst
that a fresh index costs is a full upload, and the worst that a wrong one costs is a snapshot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING

from vaultik import interrupts
from vaultik.directories import make_private
from vaultik.errors import LocalIndexError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_TIMEOUT_S = 120
"""How long a writer waits for another: recording a bundle of many files is one transaction."""

NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "lustre",
        "glusterfs",
        "gfs2",
        "ocfs2",
        "9p",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.rclone",
    ]
)

_NO_RIGHT = "set index_path to a place where this user may write, or run as root"
_RESULT_CODES_OF_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def open_index(path: Path) -> sqlite3.Connection:
    """Open the index, creating and migrating it as needed.

    Returns:
        A connection in autocommit mode: transactions are explicit (`transaction`).

    Raises:
        LocalIndexError: on a network file system, from a newer vaultik, damaged, or not usable.
    """
    _refuse_network(path)
    with mapped(path):
        connection = _connect(path)
        try:
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block in one write transaction, committed at its end, rolled back by any exception.

    Signals wait for the end: an exception between two instructions could leave it open.
    """
    with interrupts.deferred():
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into LocalIndexError that names the index.

    Damage carries the hint that the next run builds a fresh index.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise map_error(exc, path) from exc


def map_error(exc: sqlite3.Error | OSError, path: Path) -> LocalIndexError:
    """Return the error to raise for one of SQLite's or the system's at the index."""
    if isinstance(exc, OSError):
        hint = _NO_RIGHT if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else None
        return LocalIndexError(f"index {path}: {exc.strerror or exc}", hint=hint)
    if is_damage(exc):
        hint = "the next backup moves it aside and builds a fresh one (a full upload at worst)"
        return LocalIndexError(f"index {path}: damaged: {exc}", hint=hint)
    return LocalIndexError(f"index {path}: {exc}", hint=_hint(exc))


def is_damage(exc: BaseException) -> bool:
    """Tell whether an error means that the file itself is damaged."""
    return isinstance(exc, sqlite3.Error) and getattr(exc, "sqlite_errorname", "").startswith(_RESULT_CODES_OF_DAMAGE)


def quick_check(connection: sqlite3.Connection) -> bool:
    """Tell whether SQLite finds the whole file sound (seconds for a big index)."""
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def move_aside(path: Path) -> Path:
    """Rename a damaged index with its WAL out of the way and return its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def open_existing(path: Path) -> sqlite3.Connection | None:
    """Open the index as it is, without creating or migrating; None if a run could make one there.

    Raises:
        LocalIndexError: a run could not use it.
    """
    _refuse_network(path)
    with mapped(path):
        if not path.exists():
            parent = next(p for p in path.parents if p.exists())
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"no right to write in {parent}")
            return None
        connection = _connect(path)
        try:
            _refuse_newer(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def file_system_of(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `path`, from the text of /proc/self/mountinfo."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount_point = (
            left.split()[4].encode("latin-1").decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
        )
        inside = mount_point == "/" or f"{path}/".startswith(f"{mount_point}/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, right.split()[0]
    return kind


def _refuse_network(path: Path) -> None:
    with open("/proc/self/mountinfo", encoding="latin-1") as file:  # noqa: PTH123 - a kernel file, not a path of ours
        kind = file_system_of(path.resolve(), file.read())
    if kind in NETWORK_FILE_SYSTEMS:
        raise LocalIndexError(
            f"index {path}: lies on a network file system ({kind})",
            hint="set index_path to a local disk: SQLite's locks are not safe there",
        )


def _connect(path: Path) -> sqlite3.Connection:
    make_private(path.parent)
    _create_private(path)
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def _create_private(path: Path) -> None:
    """Make an empty file, 0600, if nothing stands there.

    One that does is not opened: closing a descriptor of it would drop the locks by which a connection that this
    process has already keeps other programs from removing its WAL (fcntl(2), "record locks").

    Raises:
        OSError: a symlink stands there, or no file can be made.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _schema_steps() -> list[tuple[int, str, str]]:
    files = sorted(f.name for f in resources.files("vaultik.index.schema").iterdir() if f.name.endswith(".sql"))
    return [(int(name[:4]), name, resources.files("vaultik.index.schema").joinpath(name).read_text()) for name in files]


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    newest = max(number for number, _, _ in _schema_steps())
    if (version := _version(connection)) > newest:
        raise LocalIndexError(
            f"index {path}: made by a newer vaultik (schema {version}, this one knows {newest})",
            hint="upgrade vaultik, or set another index_path (a full upload)",
        )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    _refuse_newer(connection, path)
    if _version(connection) == max(number for number, _, _ in _schema_steps()):
        return
    with transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied REAL NOT NULL) STRICT"
        )
        for number, name, script in _schema_steps():
            if number > _version(connection):
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, name, time.time()))
                connection.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> Iterator[str]:
    # executescript would commit the surrounding transaction.
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _hint(exc: sqlite3.Error) -> str | None:
    name = getattr(exc, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return "the disk under the index is full: free some space, the next run continues"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another program holds the index open; vaultik's own runs never wait this long"
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return "check the rights of the file and its directory"
    return None
