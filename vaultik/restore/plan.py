"""Decide which entries of a copied snapshot are wanted, what has to be read for them, and what is done already.

Works on the copy in place; its tables beside the snapshot's are the plan. Of a group of hard links the
first wanted name is its prime: it gets the content, the others are linked to it.

    wanted    what is to be restored
    above     directories among it that only lead there; those that stood before keep what they have: the mode, too,
              if one had to be opened to be written to
    files     the files among it, with the content of each and how many chunks and blobs hold it
    reads     the blobs to read, in their order, and which have been
    done      what has its own name in the target, whole; nothing touches that again. `found`: it was there before
    mend      files among these whose attributes are not right, or (`apart`) whose inode has other names too: those get one of their own
    loosened  flags that forbid every change, taken off what is to be written to, until it has its own or these again
    written   which blobs have been written into the temporary that stands for a file of several chunks, and
              which are being written; a temporary that is made anew forgets all of them
    failures  what can't be brought back, and why
    damaged   chunks that could not be read where the snapshot says they are
    lost      what of files can't be read, where their other parts are kept (salvage.py); `salvaged`: under which name
    refused   what could not be set, for each entry
    names     what the snapshot calls the users and groups that its ACLs may name
    notes     what a person should know of paths that are not the plan's: what was changed, what could not be removed
    removed   how many names that the snapshot doesn't have were removed
    steps     which of the other steps are done
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import ConfigError, SelectionError
from vaultik.model import Mark
from vaultik.patterns import HINT, Patterns
from vaultik.restore import owners
from vaultik.shown import printable
from vaultik.snapshot.read import COPY_SCHEMA
from vaultik.snapshot.tree import ROOT, iter_tree
from vaultik.snapshot.write import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_PLAN_SCHEMA = """
CREATE TABLE wanted (entry INTEGER PRIMARY KEY) STRICT;
CREATE TABLE above (entry INTEGER PRIMARY KEY, stood INTEGER NOT NULL DEFAULT 0, mode INTEGER, opened INTEGER) STRICT;
CREATE TABLE files (entry INTEGER PRIMARY KEY, content INTEGER NOT NULL, prime INTEGER NOT NULL, chunks INTEGER NOT NULL,
    blobs INTEGER NOT NULL) STRICT;
CREATE TABLE reads (place INTEGER PRIMARY KEY, blob INTEGER NOT NULL UNIQUE, done INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE done (entry INTEGER PRIMARY KEY, found INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE mend (entry INTEGER PRIMARY KEY, apart INTEGER NOT NULL, seen TEXT NOT NULL) STRICT;
CREATE TABLE loosened (entry INTEGER PRIMARY KEY, flags INTEGER NOT NULL) STRICT;
CREATE TABLE notes (path BLOB PRIMARY KEY, text TEXT NOT NULL, failed INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE removed (count INTEGER NOT NULL) STRICT;
CREATE TABLE written (entry INTEGER NOT NULL, blob INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (entry, blob)) STRICT, WITHOUT ROWID;
CREATE INDEX written_by_blob ON written (blob);
CREATE TABLE failures (entry INTEGER PRIMARY KEY, kind INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE TABLE damaged (chunk INTEGER PRIMARY KEY) STRICT;
CREATE TABLE lost (entry INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, blob INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (entry, offset)) STRICT, WITHOUT ROWID;
CREATE INDEX lost_by_blob ON lost (blob);
CREATE TABLE salvaged (entry INTEGER PRIMARY KEY, name BLOB NOT NULL) STRICT;
CREATE TABLE refused (entry INTEGER NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (entry, what)) STRICT, WITHOUT ROWID;
CREATE TABLE steps (name TEXT PRIMARY KEY) STRICT
"""


SHAPE = hashlib.sha256(f"{schema()}{COPY_SCHEMA}{_PLAN_SCHEMA}".encode()).hexdigest()[:16]
"""Another for each shape that a copied snapshot with its plan has had."""


class Totals(NamedTuple):
    """What a plan comes to."""

    entries: int
    files: int
    bytes: int
    blobs: int
    blob_bytes: int
    """Stored size of the blobs that are needed, in whole or in part."""
    unreadable: int
    """Entries that could not be read when they were backed up."""
    unreadable_files: int
    """Files among them, which are left out."""


class Left(NamedTuple):
    """What of a plan is still to be done."""

    files: int
    bytes: int
    blobs: int
    blob_bytes: int
    """Stored size of the blobs that are still to be read, in whole or in part."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the private database of a copied snapshot and its plan.

    It is only looked at by name: to open and close it would take this process's locks off it.

    Raises:
        OSError: it isn't there, or something else is.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def make_plan(
    copy: sqlite3.Connection,
    root: int,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    narrow: Callable[[sqlite3.Connection], None] = lambda _copy: None,
) -> None:
    """Plan to restore what lies at and below an entry.

    Args:
        copy: a copied snapshot, not within a transaction.
        root: the entry.
        include: gitignore patterns over the whole path; given any, only what fits one (and the
            directories that lead there) is wanted.
        exclude: patterns of what isn't wanted after all.
        narrow: takes off `wanted` what the target can't take.

    Raises:
        ConfigError: a pattern is none.
        SelectionError: nothing fits.
    """
    copy.execute("BEGIN")
    for statement in _PLAN_SCHEMA.split(";"):
        copy.execute(statement)
    owners.note_names(copy)
    if include or exclude:
        _want_fitting(copy, root, include, exclude)
    else:
        copy.execute(
            "INSERT INTO wanted WITH RECURSIVE below (id) AS (VALUES (?) UNION ALL"
            " SELECT e.id FROM entries AS e JOIN below ON e.parent = below.id) SELECT id FROM below",
            (root,),
        )
    narrow(copy)
    copy.execute(
        "INSERT INTO files SELECT e.id, coalesce(e.hardlink, e.id),"
        " min(e.id) OVER (PARTITION BY coalesce(e.hardlink, e.id)),"
        " (SELECT count(*) FROM entry_chunks AS ec WHERE ec.entry = coalesce(e.hardlink, e.id)),"
        " (SELECT count(DISTINCT c.blob) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"
        " WHERE ec.entry = coalesce(e.hardlink, e.id))"
        " FROM entries AS e JOIN wanted AS w ON w.entry = e.id WHERE e.type = 'f' AND NOT e.marks & ?",
        (Mark.UNREADABLE,),
    )
    copy.execute("CREATE INDEX others_by_group ON entries (hardlink) WHERE hardlink IS NOT NULL AND type <> 'f'")
    copy.execute("CREATE INDEX files_by_prime ON files (prime) WHERE entry <> prime")
    copy.execute("CREATE INDEX files_by_content ON files (content) WHERE entry = prime")
    copy.execute(
        "INSERT INTO reads (blob) SELECT DISTINCT c.blob FROM files AS f JOIN entry_chunks AS ec ON ec.entry = f.content"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE f.entry = f.prime ORDER BY 1"
    )
    copy.execute("COMMIT")


def leave_out(copy: sqlite3.Connection, name: bytes) -> int:
    """Take an entry of the top directory, with what is below it, off the plan. Returns how many entries that are."""
    rows = copy.execute(
        "WITH RECURSIVE below (id) AS (SELECT id FROM entries WHERE parent = ? AND name = ? UNION ALL"
        " SELECT e.id FROM entries AS e JOIN below ON e.parent = below.id) SELECT id FROM below",
        (ROOT, name),
    ).fetchall()
    for table in ("wanted", "files"):
        copy.executemany(f"DELETE FROM {table} WHERE entry = ?", rows)
    return len(rows)


def totals(copy: sqlite3.Connection) -> Totals:
    """Return what the plan comes to."""
    (entries,) = copy.execute("SELECT count(*) FROM wanted").fetchone()
    files, size = copy.execute(
        "SELECT count(*), total(CASE WHEN f.entry = f.prime THEN e.size ELSE 0 END) FROM files AS f JOIN entries AS e ON e.id = f.entry"
    ).fetchone()
    blobs, blob_bytes = copy.execute(
        "SELECT count(*), total(size) FROM reads AS r JOIN blobs AS b ON b.id = r.blob"
    ).fetchone()
    unreadable, unreadable_files = copy.execute(
        "SELECT count(*), count(*) FILTER (WHERE e.type = 'f') FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
        " WHERE e.marks & ?",
        (Mark.UNREADABLE,),
    ).fetchone()
    return Totals(entries, files, int(size), blobs, int(blob_bytes), unreadable, unreadable_files)


def left(copy: sqlite3.Connection) -> Left:
    """Return what is still to be done."""
    files, size = copy.execute(
        "SELECT count(*), total(e.size) FROM files AS f JOIN entries AS e ON e.id = f.entry WHERE f.entry = f.prime"
        " AND f.entry NOT IN (SELECT entry FROM done) AND f.entry NOT IN (SELECT entry FROM failures)"
    ).fetchone()
    blobs, blob_bytes = copy.execute(
        "SELECT count(*), total(size) FROM reads AS r JOIN blobs AS b ON b.id = r.blob WHERE NOT r.done"
    ).fetchone()
    return Left(files, int(size), blobs, int(blob_bytes))


class Selection:
    """Which paths are wanted: those that fit `--include`, if there is any, and not `--exclude`."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Compile the patterns.

        Raises:
            ConfigError: one is none.
        """
        self._include = _spec("--include", include)
        self._exclude = _spec("--exclude", exclude)

    def fit(self, path: bytes, *, is_directory: bool) -> bool:
        """Tell whether a path is wanted, whether or not the snapshot has it."""
        text = _text(path, is_directory=is_directory)
        return (self._include is None or self._include.fit(text)) and not (
            self._exclude is not None and self._exclude.fit(text)
        )


def _text(path: bytes, *, is_directory: bool) -> str:
    """Return a path as patterns take it."""
    return os.fsdecode(path.lstrip(b"/")) + ("/" if is_directory else "")


def _spec(option: str, patterns: Sequence[str]) -> Patterns | None:
    try:
        return Patterns(patterns) if patterns else None
    except ValueError as exc:
        raise ConfigError(f"{option}: {exc}", hint=HINT) from exc


def _want_fitting(copy: sqlite3.Connection, root: int, include: Sequence[str], exclude: Sequence[str]) -> None:
    selection, fitting = Selection(include, exclude), []
    # A name that is mistyped shall not be missed in silence: what was asked for beside it would come back alone.
    idle = {pattern: Patterns([pattern]) for pattern in include if not pattern.startswith("!")}
    for path, entry in iter_tree(copy, root, b"/" if root == ROOT else b""):
        if selection.fit(path, is_directory=entry.type == "d"):
            fitting.append(entry.id)
        if idle:
            text = _text(path, is_directory=entry.type == "d")
            idle = {pattern: compiled for pattern, compiled in idle.items() if not compiled.fit(text)}
    if idle or (include and not fitting):
        raise SelectionError(
            f"--include{f' {printable(next(iter(idle)))}' if idle else ''}: nothing in the snapshot fits",
            hint="patterns count from /: /home/me/notes, or **/notes anywhere; vaultik ls -R shows what there is",
        )
    copy.executemany("INSERT INTO wanted VALUES (?)", ((entry,) for entry in fitting))
    copy.execute("INSERT OR IGNORE INTO wanted VALUES (?)", (root,))
    copy.execute(
        "INSERT INTO above (entry) WITH RECURSIVE way (id) AS (SELECT entry FROM wanted UNION"
        " SELECT e.parent FROM entries AS e JOIN way ON e.id = way.id WHERE e.id <> ?)"
        " SELECT id FROM way WHERE id IS NOT NULL AND id NOT IN (SELECT entry FROM wanted)",
        (root,),
    )
    copy.execute("INSERT INTO wanted SELECT entry FROM above")
