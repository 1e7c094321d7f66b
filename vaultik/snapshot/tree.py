"""Look into a copied snapshot: paths to entries and back. Used by restore, fetch, ls."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import SelectionError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

ROOT = 1
COLUMNS = "id, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns, link_target, rdev, hardlink, inode_flags, marks"
_TREE = (
    f"WITH RECURSIVE below (level, {COLUMNS}) AS (SELECT 1, {COLUMNS} FROM entries WHERE parent = ? UNION ALL"
    f" SELECT below.level + 1, {', '.join(f'e.{column}' for column in COLUMNS.split(', '))}"
    " FROM below JOIN entries AS e ON e.parent = below.id ORDER BY 1 DESC, 4) SELECT * FROM below"
)
"""The deepest of what is known goes first: only one directory's entries are ever at the deepest level.

SQLite keeps to that order while nothing is joined to it outside.
"""
_NEAR = 3


class Entry(NamedTuple):
    """An entry's row, without what nothing here needs."""

    id: int
    parent: int | None
    name: bytes
    type: str
    mode: int
    uid: int
    gid: int
    user_name: str | None
    group_name: str | None
    size: int
    mtime_ns: int
    link_target: bytes | None
    rdev: int | None
    hardlink: int | None
    inode_flags: int | None
    marks: int


def get_entry(copy: sqlite3.Connection, entry: int, schema: str = "main") -> Entry:
    """Return an entry by its id, of a copy that is attached as `schema`."""
    return Entry._make(copy.execute(f"SELECT {COLUMNS} FROM {schema}.entries WHERE id = ?", (entry,)).fetchone())


def find_entry(copy: sqlite3.Connection, parent: int, name: bytes) -> Entry | None:
    """Return the entry of a name in a directory, None if there is none."""
    row = copy.execute(f"SELECT {COLUMNS} FROM entries WHERE parent = ? AND name = ?", (parent, name)).fetchone()
    return Entry._make(row) if row else None


def iter_children(copy: sqlite3.Connection, parent: int) -> Iterator[Entry]:
    """Yield what a directory holds, by name. Nothing may be written to the copy meanwhile."""
    query = f"SELECT {COLUMNS} FROM entries WHERE parent = ? ORDER BY name"
    return map(Entry._make, copy.execute(query, (parent,)))


def iter_tree(copy: sqlite3.Connection, entry: int, path: bytes) -> Iterator[tuple[bytes, Entry]]:
    """Yield everything below a directory with its path, depth first, by name, in the memory of one path.

    What is still to come waits in SQLite's own queue, which goes to the disk when it grows.
    """
    prefix = bytearray(path.rstrip(b"/") + b"/")
    ends = [len(prefix)]
    for level, *columns in copy.execute(_TREE, (entry,)):
        child = Entry._make(columns)
        del ends[level:], prefix[ends[-1] :]
        yield bytes(prefix) + child.name, child
        if child.type == "d":
            prefix += child.name + b"/"
            ends.append(len(prefix))


def path_of(copy: sqlite3.Connection, entry: int) -> bytes:
    """Return an entry's absolute path."""
    names: list[bytes] = []
    at = get_entry(copy, entry)
    while at.parent is not None:
        names.append(at.name)
        at = get_entry(copy, at.parent)
    return b"/" + b"/".join(reversed(names))


def find_path(copy: sqlite3.Connection, paths: Sequence[bytes], schema: str = "main") -> Entry | None:
    """Return the entry at the first of some absolute paths that is there, None if there is none."""
    for path in paths:
        found, missing = _walk(copy, path, schema)
        if missing is None:
            return get_entry(copy, found, schema)
    return None


def resolve(copy: sqlite3.Connection, paths: Sequence[bytes]) -> Entry:
    """Return the entry at the first of some absolute paths that is there.

    Raises:
        SelectionError: there is none; those near the first are named.
    """
    entry = find_path(copy, paths)
    if entry is not None:
        return entry
    found, missing = _walk(copy, paths[0])
    assert missing is not None
    raise SelectionError(f"path {os.fsdecode(paths[0])}: not in this snapshot", hint=_near(copy, found, missing))


def _walk(copy: sqlite3.Connection, path: bytes, schema: str = "main") -> tuple[int, bytes | None]:
    """Return the last entry on a path, and the name below it that isn't there."""
    at = ROOT
    query = f"SELECT id FROM {schema}.entries WHERE parent = ? AND name = ?"
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        row = copy.execute(query, (at, name)).fetchone()
        if row is None:
            return at, name
        at = row[0]
    return at, None


def _near(copy: sqlite3.Connection, parent: int, name: bytes) -> str:
    here = os.fsdecode(path_of(copy, parent))
    names = {
        os.fsdecode(row[0]): None
        for row in copy.execute("SELECT name FROM entries WHERE parent = ? LIMIT 10000", (parent,))
    }
    near = difflib.get_close_matches(os.fsdecode(name), names, n=_NEAR)
    if near:
        return "near ones: " + ", ".join(os.path.join(here, found) for found in near)  # noqa: PTH118 - names may be any bytes
    return f"vaultik ls shows what is in {here}"
