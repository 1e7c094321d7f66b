"""Find entries in snapshots: which of them have a path, and in which versions.

One snapshot is copied at a time; what is found waits in a database of its own until all are through, so
memory is that of one path's versions.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from vaultik.look.content import find_content, find_xattrs
from vaultik.look.paths import Paths
from vaultik.look.snapshots import bound, iter_copied, scratch_directory, size_of
from vaultik.model import EntryType, Mark
from vaultik.snapshot.read import get_meta
from vaultik.snapshot.tree import COLUMNS, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.errors import IntegrityError
    from vaultik.look.wanted import Wanted
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_SCHEMA = """
CREATE TABLE snapshots (number INTEGER PRIMARY KEY, id TEXT NOT NULL, source8 TEXT NOT NULL, host TEXT NOT NULL) STRICT;
CREATE TABLE versions (digest BLOB PRIMARY KEY, content BLOB, type TEXT, mode INTEGER, uid INTEGER, gid INTEGER, user_name TEXT,
    group_name TEXT, size INTEGER, mtime_ns INTEGER, link_target BLOB, rdev INTEGER, marks INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE hits (path BLOB NOT NULL, source8 TEXT NOT NULL, snapshot INTEGER NOT NULL, version BLOB NOT NULL,
    PRIMARY KEY (path, source8, snapshot)) STRICT, WITHOUT ROWID;
"""
_SHOWN_MARKS = Mark.CHANGED | Mark.UNREADABLE | Mark.GAP


class Version(NamedTuple):
    """What a path was in some snapshots: equal in its content and all that a restore sets."""

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
    marks: int
    content: bytes | None
    """Of a regular file: equal for equal content."""
    snapshots: list[str]
    """Ids, by the times at which they were begun."""
    spans: list[tuple[str, str, int]]
    """The same as first, last and number of those that follow each other."""


class History(NamedTuple):
    """A path in the snapshots of one source."""

    path: bytes
    source8: str
    host: str
    versions: list[Version]
    last_without: str | None
    """The newest snapshot that was looked at, if it doesn't have the path."""


def find(
    store: Store,
    identities: Sequence[Identity],
    snapshots: Sequence[FoundSnapshot],
    wanted: Wanted,
    progress: Callable[[FoundSnapshot], None] = lambda _: None,
    damaged: Callable[[IntegrityError], None] | None = None,
) -> Iterator[History]:
    """Yield what fits in any of some snapshots, by path.

    Args:
        store: where they lie.
        identities: any of which may open them.
        snapshots: which, in any order.
        wanted: what for.
        progress: called with each that was looked at.
        damaged: told why one is left out; None to raise that.

    Raises:
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    # By source, and then by time: the last of a source is its newest.
    snapshots = sorted(snapshots, key=lambda one: (one.source8, one.name.snapshot))
    with scratch_directory() as directory, closing(sqlite3.connect(directory / "found.sqlite")) as found:
        found.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
        copies_bytes = 0
        copies = iter_copied(store, identities, snapshots, directory, damaged)
        for number, (snapshot, copy) in enumerate(copies):
            copies_bytes += size_of(copy)
            bound(found, copies_bytes)
            row = (number, snapshot.name.snapshot, snapshot.source8, str(get_meta(copy)["host"]))
            found.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", row)
            for path, entry in iter_fitting(copy, wanted):
                version = _note_version(found, copy, entry)
                found.execute("INSERT INTO hits VALUES (?, ?, ?, ?)", (path, snapshot.source8, number, version))
            found.commit()
            progress(snapshot)
        yield from _histories(found)


def iter_fitting(copy: sqlite3.Connection, wanted: Wanted) -> Iterator[tuple[bytes, Entry]]:
    """Yield the entries of a copied snapshot that fit, with their paths, in no particular order."""
    paths = Paths(copy)
    conditions = [f"type IN ({', '.join('?' * len(wanted.types))})", "mtime_ns BETWEEN ? AND ?"]
    if not wanted.any_size:
        conditions.append("type = 'f' AND size BETWEEN ? AND ?")
    bounds = [*wanted.types, *wanted.mtime_ns, *(() if wanted.any_size else wanted.size)]
    for row in copy.execute(f"SELECT {COLUMNS} FROM entries WHERE {' AND '.join(conditions)}", bounds):
        entry = Entry._make(row)
        if wanted.whole_path:
            path = paths.of(entry.parent, entry.name)
            if wanted.fits(path):
                yield path, entry
        elif wanted.fits(entry.name):
            yield paths.of(entry.parent, entry.name), entry


def _note_version(found: sqlite3.Connection, copy: sqlite3.Connection, entry: Entry) -> bytes:
    """Return the digest of all that makes a version of an entry, and keep what it stands for."""
    leader = entry.hardlink or entry.id
    content = find_content(copy, leader, entry.size) if entry.type == EntryType.FILE else None
    # The time of a directory is that of what is in it.
    mtime_ns = entry.mtime_ns if entry.type != EntryType.DIRECTORY else None
    shown = (entry.type, entry.mode, entry.uid, entry.gid, entry.user_name, entry.group_name, entry.size)
    rest = (entry.link_target, entry.rdev, entry.marks & _SHOWN_MARKS)
    more = (mtime_ns, entry.inode_flags, find_xattrs(copy, leader))
    digest = hashlib.sha256(repr((content, shown, rest, more)).encode()).digest()[:16]
    row = (digest, content, *shown, entry.mtime_ns, *rest)
    found.execute(f"INSERT OR IGNORE INTO versions VALUES ({', '.join('?' * len(row))})", row)
    return digest


def _histories(found: sqlite3.Connection) -> Iterator[History]:
    order: dict[str, list[int]] = {}
    names: dict[int, tuple[str, str]] = {}
    for number, snapshot, source8, host in found.execute("SELECT * FROM snapshots ORDER BY number"):
        order.setdefault(source8, []).append(number)
        names[number] = (snapshot, host)
    hits = found.execute("SELECT path, source8, snapshot, version FROM hits ORDER BY path, source8, snapshot")
    for (path, source8), group in groupby(hits, key=lambda hit: (hit[0], hit[1])):
        numbers: dict[bytes, list[int]] = {}
        for *_, number, digest in group:
            numbers.setdefault(digest, []).append(number)
        looked_at = order[source8]
        newest = looked_at[-1]
        has_newest = any(newest in having for having in numbers.values())
        yield History(
            path,
            source8,
            names[newest][1],
            [_version(found, digest, having, looked_at, names) for digest, having in numbers.items()],
            None if has_newest else names[newest][0],
        )


def _version(
    found: sqlite3.Connection,
    digest: bytes,
    having: list[int],
    looked_at: list[int],
    names: dict[int, tuple[str, str]],
) -> Version:
    columns = "type, mode, uid, gid, user_name, group_name, size, mtime_ns, link_target, rdev, marks, content"
    row = found.execute(f"SELECT {columns} FROM versions WHERE digest = ?", (digest,)).fetchone()
    return Version._make((*row, [names[number][0] for number in having], _spans(having, looked_at, names)))


def _spans(having: list[int], looked_at: list[int], names: dict[int, tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Return the runs of snapshots that follow each other among those that were looked at."""
    where = {number: place for place, number in enumerate(looked_at)}
    places = [where[number] for number in having]
    spans = []
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        part = [looked_at[place] for _, place in run]
        spans.append((names[part[0]][0], names[part[-1]][0], len(part)))
    return spans
