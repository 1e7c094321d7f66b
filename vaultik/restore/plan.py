"""Decide which entries of a copied snapshot are wanted, and what has to be read for them.

Works on the copy in place: the tables `wanted` and `files` are the plan. Of a group of hard links the
first wanted name is its prime: it gets the content, the others are linked to it.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import pathspec

from vaultik.errors import ConfigError, SelectionError
from vaultik.model import BlobId, ChunkId, Mark
from vaultik.restore.fetch import WantedBlob, WantedChunk
from vaultik.restore.tree import ROOT, iter_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PLAN_SCHEMA = """
CREATE TABLE wanted (entry INTEGER PRIMARY KEY) STRICT;
CREATE TABLE files (entry INTEGER PRIMARY KEY, content INTEGER NOT NULL, prime INTEGER NOT NULL, chunks INTEGER NOT NULL) STRICT;
CREATE TABLE steps (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE failures (entry INTEGER PRIMARY KEY, damaged INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE TABLE refused (what TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT
"""


class Failure(NamedTuple):
    """Why an entry can't be brought back."""

    damaged: bool
    """Something stored is missing or damaged; else the target wouldn't take it."""
    reason: str


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


def connect(path: Path) -> sqlite3.Connection:
    """Open a private database for a copied snapshot and its plan, making it if it isn't there."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def make_plan(copy: sqlite3.Connection, root: int, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
    """Plan to restore what lies at and below an entry.

    Args:
        copy: a copied snapshot, not within a transaction.
        root: the entry.
        include: gitignore patterns over the whole path; given any, only what fits one (and the
            directories that lead there) is wanted.
        exclude: patterns of what isn't wanted after all.

    Raises:
        ConfigError: a pattern is none.
        SelectionError: nothing fits.
    """
    copy.execute("BEGIN")
    for statement in _PLAN_SCHEMA.split(";"):
        copy.execute(statement)
    if include or exclude:
        _want_fitting(copy, root, _spec("--include", include), _spec("--exclude", exclude))
    else:
        copy.execute(
            "INSERT INTO wanted WITH RECURSIVE below (id) AS (VALUES (?) UNION ALL"
            " SELECT e.id FROM entries AS e JOIN below ON e.parent = below.id) SELECT id FROM below",
            (root,),
        )
    copy.execute(
        "INSERT INTO files SELECT e.id, coalesce(e.hardlink, e.id),"
        " min(e.id) OVER (PARTITION BY coalesce(e.hardlink, e.id)),"
        " (SELECT count(*) FROM entry_chunks AS ec WHERE ec.entry = coalesce(e.hardlink, e.id))"
        " FROM entries AS e JOIN wanted AS w ON w.entry = e.id WHERE e.type = 'f' AND NOT e.marks & ?",
        (int(Mark.UNREADABLE),),
    )
    copy.execute("CREATE INDEX files_by_content ON files (content) WHERE entry = prime")
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


def add_failures(copy: sqlite3.Connection, failures: Mapping[int, Failure]) -> None:
    """Record entries that can't be brought back; the first reason stands."""
    copy.executemany(
        "INSERT OR IGNORE INTO failures VALUES (?, ?, ?)", ((entry, *failure) for entry, failure in failures.items())
    )


def forget_failures(copy: sqlite3.Connection) -> bool:
    """Forget what the target wouldn't take, and the steps that it was part of: the next try may find it mended.

    Returns whether there was any.
    """
    if copy.execute("SELECT 1 FROM failures WHERE NOT damaged LIMIT 1").fetchone() is None:
        return False
    copy.execute(
        "DELETE FROM steps WHERE name NOT LIKE 'blob %' AND name <> 'snapshot' OR name IN (SELECT 'blob ' || c.blob"
        " FROM failures AS x JOIN files AS f ON f.entry = x.entry JOIN entry_chunks AS ec ON ec.entry = f.content"
        " JOIN chunks AS c ON c.id = ec.chunk WHERE NOT x.damaged)"
    )
    copy.execute("DELETE FROM failures WHERE NOT damaged")
    return True


def totals(copy: sqlite3.Connection) -> Totals:
    """Return what the plan comes to."""
    (entries,) = copy.execute("SELECT count(*) FROM wanted").fetchone()
    files, size = copy.execute(
        "SELECT count(*), total(CASE WHEN f.entry = f.prime THEN e.size ELSE 0 END) FROM files AS f JOIN entries AS e ON e.id = f.entry"
    ).fetchone()
    blobs, blob_bytes = copy.execute(f"SELECT count(*), total(size) FROM blobs WHERE id IN ({_BLOBS})").fetchone()
    unreadable, unreadable_files = copy.execute(
        "SELECT count(*), count(*) FILTER (WHERE e.type = 'f') FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
        " WHERE e.marks & ?",
        (int(Mark.UNREADABLE),),
    ).fetchone()
    return Totals(entries, files, int(size), blobs, int(blob_bytes), unreadable, unreadable_files)


_BLOBS = (
    "SELECT c.blob FROM files AS f JOIN entry_chunks AS ec ON ec.entry = f.content JOIN chunks AS c ON c.id = ec.chunk"
    " WHERE f.entry = f.prime"
)


def needed_blobs(copy: sqlite3.Connection) -> list[int]:
    """Return the rows of the blobs that the plan reads, ascending."""
    return [row[0] for row in copy.execute(f"SELECT DISTINCT c.blob {_BLOBS.removeprefix('SELECT c.blob')} ORDER BY 1")]


def get_blob(copy: sqlite3.Connection, blob: int) -> WantedBlob:
    """Return a blob by its row id."""
    digest, size, header_length = copy.execute(
        "SELECT hash, size, header_length FROM blobs WHERE id = ?", (blob,)
    ).fetchone()
    return WantedBlob(BlobId(digest), size, header_length)


class Uses(NamedTuple):
    """The chunks that a plan needs of one blob, and where each goes."""

    chunks: list[WantedChunk]
    places: dict[int, list[tuple[int, int]]]
    """For each chunk's row: (file entry, offset in the file)."""


def uses_of_blob(copy: sqlite3.Connection, blob: int) -> Uses:
    """Return what the plan needs of a blob, chunks in the order they are stored."""
    rows = copy.execute(
        "SELECT c.id, c.hash, c.size, c.frame_offset, c.frame_length, c.offset, f.entry, ec.offset FROM chunks AS c"
        " JOIN entry_chunks AS ec ON ec.chunk = c.id JOIN files AS f ON f.content = ec.entry AND f.entry = f.prime"
        " WHERE c.blob = ? ORDER BY c.frame_offset, c.offset, c.id, ec.entry, ec.offset",
        (blob,),
    )
    uses = Uses([], {})
    for number, digest, size, frame_offset, frame_length, offset, entry, at in rows:
        if number not in uses.places:
            uses.places[number] = []
            uses.chunks.append(WantedChunk(number, ChunkId(digest), size, frame_offset, frame_length, offset))
        uses.places[number].append((entry, at))
    return uses


def _spec(option: str, patterns: Sequence[str]) -> pathspec.GitIgnoreSpec | None:
    try:
        return pathspec.GitIgnoreSpec.from_lines(patterns) if patterns else None
    except ValueError as exc:
        raise ConfigError(f"{option}: {exc}", hint="patterns follow the rules of .gitignore") from exc


def _want_fitting(
    copy: sqlite3.Connection, root: int, include: pathspec.GitIgnoreSpec | None, exclude: pathspec.GitIgnoreSpec | None
) -> None:
    fitting: list[int] = []
    for path, entry in iter_tree(copy, root, b"/" if root == ROOT else b""):
        text = os.fsdecode(path.lstrip(b"/")) + ("/" if entry.type == "d" else "")
        if (include is None or include.match_file(text)) and not (exclude is not None and exclude.match_file(text)):
            fitting.append(entry.id)
    if include is not None and not fitting:
        raise SelectionError(
            "--include: nothing in the snapshot fits",
            hint="patterns count from /: /home/me/notes, or **/notes anywhere; vaultik ls -R shows what there is",
        )
    copy.executemany("INSERT INTO wanted VALUES (?)", ((entry,) for entry in fitting))
    copy.execute("INSERT OR IGNORE INTO wanted VALUES (?)", (root,))
    copy.execute(
        "INSERT OR IGNORE INTO wanted WITH RECURSIVE above (id) AS (SELECT entry FROM wanted UNION"
        " SELECT e.parent FROM entries AS e JOIN above ON e.id = above.id WHERE e.id <> ?) SELECT id FROM above WHERE id IS NOT NULL",
        (root,),
    )
