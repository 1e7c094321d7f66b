"""What takes the space in one snapshot: how much is the same, how well it compresses, and which files and directories are the largest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from vaultik.look.snapshots import copied_to, scratch_directory
from vaultik.look.views import add_functions, add_views
from vaultik.snapshot.read import get_meta

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_MOSTLY = 0.8
"""A directory of which one in it has more than this is as large as that one, and not told of."""
_ONE_NAME = "type = 'f' AND (hardlink IS NULL OR hardlink = id)"
_TOTALS = """
CREATE TEMP TABLE shares (id INTEGER PRIMARY KEY, stored REAL NOT NULL);
INSERT INTO shares SELECT ec.entry, sum(1.0 * c.size * f.stored / f.size) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk
    JOIN frames AS f ON f.blob = c.blob AND f.frame_offset = c.frame_offset GROUP BY ec.entry;
CREATE TEMP TABLE totals (id INTEGER PRIMARY KEY, parent INTEGER, files INTEGER NOT NULL, size REAL NOT NULL, stored REAL NOT NULL);
INSERT INTO totals SELECT id, parent, 0, 0, 0 FROM entries WHERE type = 'd';
INSERT INTO totals SELECT e.parent, NULL, count(*), total(e.size), total(s.stored) FROM entries AS e
    LEFT JOIN shares AS s ON s.id = e.id WHERE e.type = 'f' AND (e.hardlink IS NULL OR e.hardlink = e.id) GROUP BY e.parent
    ON CONFLICT DO UPDATE SET files = excluded.files, size = excluded.size, stored = excluded.stored;
"""
_ADD_UP = """
UPDATE totals SET files = totals.files + c.files, size = totals.size + c.size, stored = totals.stored + c.stored
FROM totals AS c WHERE c.id = ? AND totals.id = c.parent
"""
_DIRECTORIES = f"""
SELECT p.path, CAST(t.size AS INTEGER), CAST(t.stored AS INTEGER), t.files FROM totals AS t JOIN paths AS p ON p.id = t.id WHERE t.id IN (
    SELECT id FROM totals AS d WHERE size > 0 AND size * {_MOSTLY} >= coalesce((SELECT max(size) FROM totals WHERE parent = d.id), 0)
    ORDER BY size DESC, id LIMIT ?)
ORDER BY t.size DESC, p.id
"""
_FILES = f"""
SELECT path, size, CAST(stored AS INTEGER), 1 FROM files
WHERE id IN (SELECT id FROM entries WHERE {_ONE_NAME} ORDER BY size DESC, id LIMIT ?)
ORDER BY size DESC, id
"""


class Large(NamedTuple):
    """A file or directory that takes space."""

    path: str
    """As it is shown."""
    size: int
    stored: int
    """Of frames that hold chunks of others as well, the part."""
    files: int


class Usage(NamedTuple):
    """What a snapshot holds. Bytes."""

    snapshot: str
    host: str
    server_time: float
    complete: bool
    types: dict[str, int]
    """How many entries there are of each type."""
    size: int
    """Of all files, holes included; of the names of a hard link once."""
    content: int
    """What stands in them, holes left out."""
    different: int
    """The same with each piece once."""
    frames: int
    """As it is stored: compressed."""
    blobs: int
    """How many blobs that is in."""
    stored: int
    """The bytes of these: with what other snapshots need, or nobody any more."""
    directories: list[Large]
    """The largest, with all that is below them; none of which one directory in it makes up most."""
    files: list[Large]


def find_usage(store: Store, identities: Sequence[Identity], found: FoundSnapshot, most: int) -> Usage:
    """Return what takes the space in a snapshot.

    Args:
        store: where it lies.
        identities: any of which may open it.
        found: which.
        most: how many files and directories to return.

    Raises:
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    with scratch_directory() as directory:
        copied_to(store, identities, found, directory, directory / "copy")
        return usage_of(directory / "copy", most)


def usage_of(path: Path, most: int) -> Usage:
    """Return what takes the space in a copied snapshot, which gets views for it."""
    add_views(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as copy, closing(sqlite3.connect(path)) as other:
        add_functions(copy, [other])
        meta = get_meta(copy)
        return Usage(
            str(meta["snapshot"]),
            str(meta["host"]),
            float(meta["server_time"]),
            bool(meta["complete"]),
            dict(copy.execute("SELECT type, count(*) FROM entries GROUP BY type ORDER BY count(*) DESC")),
            _number(copy, f"SELECT total(size) FROM entries WHERE {_ONE_NAME}"),
            _number(copy, "SELECT total(c.size) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"),
            _number(copy, "SELECT total(size) FROM chunks"),
            _number(copy, "SELECT total(stored) FROM frames"),
            _number(copy, "SELECT count(DISTINCT blob) FROM frames"),
            _number(copy, "SELECT total(size) FROM blobs WHERE id IN (SELECT blob FROM frames)"),
            _directories(copy, most),
            [Large._make(row) for row in copy.execute(_FILES, (most,))],
        )


def _directories(copy: sqlite3.Connection, most: int) -> list[Large]:
    copy.executescript(_TOTALS)
    # A parent's id is smaller than its child's: what is in a directory has been added up when its turn comes.
    copy.execute("BEGIN")
    copy.executemany(_ADD_UP, copy.execute("SELECT id FROM entries WHERE type = 'd' AND id > 1 ORDER BY id DESC"))
    copy.execute("COMMIT")
    copy.execute("CREATE INDEX totals_by_parent ON totals (parent)")
    return [Large._make(row) for row in copy.execute(_DIRECTORIES, (most,))]


def _number(copy: sqlite3.Connection, query: str) -> int:
    return int(copy.execute(query).fetchone()[0] or 0)
