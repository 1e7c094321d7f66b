"""Tell two trees apart: two snapshots, or a snapshot and a directory (`live`).

What is compared is what a restore would bring back: content, type, mode, owner, time, target, device, extended attributes, inode
flags; not the time of a directory, which is that of what is in it. Everything is worked out in a temporary database.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import SelectionError
from vaultik.look import pairs
from vaultik.look.content import find_content
from vaultik.look.paths import Paths
from vaultik.look.snapshots import bound, copied_to, scratch_directory, size_of
from vaultik.snapshot.kept import KeptLayers
from vaultik.snapshot.tree import find_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

ADDED, REMOVED, CHANGED, TYPE, MOVED, METADATA = "added", "removed", "changed", "type", "moved", "metadata"
_SCHEMA = """
CREATE TABLE differing (a INTEGER PRIMARY KEY) STRICT;
CREATE TABLE changes (path BLOB NOT NULL, kind TEXT NOT NULL, a INTEGER, b INTEGER) STRICT;
"""
_BOTH = "FROM pairs AS p JOIN a.entries AS ea ON ea.id = p.a JOIN b.entries AS eb ON eb.id = p.b"
_LEADER = "coalesce(e{0}.hardlink, e{0}.id)"
_CHUNKS = f"{{0}}.entry_chunks AS x{{0}} JOIN {{0}}.chunks AS c{{0}} ON c{{0}}.id = x{{0}}.chunk WHERE x{{0}}.entry = {_LEADER}"
_XATTRS = f"{{0}}.xattrs AS x{{0}} WHERE x{{0}}.entry = {_LEADER}"


def _other_rows(rows: str, same: str) -> str:
    """Return the condition that two sets of rows differ: one of a that b hasn't, or another number of them."""
    a, b = rows.format("a"), rows.format("b")
    return (
        f"EXISTS (SELECT 1 FROM {a} AND NOT EXISTS (SELECT 1 FROM {b} AND {same}))"
        f" OR (SELECT count(*) FROM {a}) <> (SELECT count(*) FROM {b})"
    )


_OTHER_CHUNKS = _other_rows(_CHUNKS, "xb.offset = xa.offset AND cb.hash = ca.hash")
_OTHER_XATTRS = _other_rows(_XATTRS, "xb.name = xa.name AND xb.value = xa.value")
_ASPECTS = {
    "mode": "ea.mode <> eb.mode",
    "owner": "(ea.uid, ea.gid) <> (eb.uid, eb.gid) OR ea.user_name IS NOT eb.user_name OR ea.group_name IS NOT eb.group_name",
    "time": "ea.mtime_ns <> eb.mtime_ns AND ea.type <> 'd'",
    "xattrs": _OTHER_XATTRS,
    "flags": "ea.inode_flags <> eb.inode_flags",
}
"""What metadata differs; NULL is no difference."""
_OTHER_METADATA = " OR ".join(f"({condition})" for condition in _ASPECTS.values())
_KIND = (
    "CASE WHEN ea.type <> eb.type THEN 'type'"
    " WHEN p.a IN (SELECT a FROM differing) OR ea.link_target IS NOT eb.link_target OR ea.rdev IS NOT eb.rdev THEN 'changed'"
    " WHEN p.a IN (SELECT a FROM moved) THEN 'moved'"
    f" WHEN {_OTHER_METADATA} THEN 'metadata' END"
)
_SIDE = "type, mode, uid, gid, user_name, group_name, size, mtime_ns, link_target, rdev, marks"


class Side(NamedTuple):
    """An entry as one of both trees has it."""

    path: bytes
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


class Change(NamedTuple):
    """One difference."""

    kind: str
    old: Side | None
    new: Side | None
    metadata: tuple[str, ...]
    """Which of mode, owner, time, xattrs, flags differ besides."""

    @property
    def is_moved(self) -> bool:
        """Whether it stands under another path, whatever else is so."""
        return self.old is not None and self.new is not None and self.old.path != self.new.path


class Totals(NamedTuple):
    """How many entries of a kind, and their files' sizes in the old tree and in the new."""

    entries: int
    old_bytes: int
    new_bytes: int


class Difference:
    """What two trees differ in, as long as its context is open."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def totals(self) -> dict[str, Totals]:
        """Return the totals of each kind that there is, and of `unchanged`."""
        query = (
            "SELECT c.kind, count(*), total(iif(ea.type = 'f', ea.size, 0)), total(iif(eb.type = 'f', eb.size, 0)) FROM changes AS c"
            " LEFT JOIN a.entries AS ea ON ea.id = c.a LEFT JOIN b.entries AS eb ON eb.id = c.b GROUP BY c.kind"
        )
        # Not sum(): a few holes as large as a file may have are more than SQLite's numbers.
        found = {kind: Totals(count, int(old), int(new)) for kind, count, old, new in self._db.execute(query)}
        same = (
            f"SELECT count(*), total(iif(ea.type = 'f', ea.size, 0)) {_BOTH}"
            " WHERE p.a NOT IN (SELECT a FROM changes WHERE a IS NOT NULL)"
        )
        count, size = self._db.execute(same).fetchone()
        return {**found, "unchanged": Totals(count, int(size), int(size))}

    def __iter__(self) -> Iterator[Change]:
        """Yield every difference, by path (of the new tree, where it is there)."""
        old_paths, new_paths = Paths(self._db, "a"), Paths(self._db, "b")
        for kind, a, b in self._db.execute("SELECT kind, a, b FROM changes ORDER BY path, kind"):
            yield Change(
                kind,
                None if a is None else self._side("a", old_paths, a),
                None if b is None else self._side("b", new_paths, b),
                () if a is None or b is None else self._metadata(a),
            )

    def _side(self, tree: str, paths: Paths, entry: int) -> Side:
        query = f"SELECT parent, name, {_SIDE} FROM {tree}.entries WHERE id = ?"
        parent, name, *rest = self._db.execute(query, (entry,)).fetchone()
        return Side(paths.of(parent, name), *rest)

    def _metadata(self, a: int) -> tuple[str, ...]:
        query = f"SELECT {', '.join(_ASPECTS.values())} {_BOTH} WHERE p.a = ?"
        row = self._db.execute(query, (a,)).fetchone()
        return tuple(name for name, differs in zip(_ASPECTS, row, strict=True) if differs)


@contextmanager
def compare_snapshots(
    store: Store,
    identities: Sequence[Identity],
    old: FoundSnapshot,
    new: FoundSnapshot,
    paths: Sequence[bytes] = (b"/",),
) -> Iterator[Difference]:
    """Compare two snapshots for the time of the block.

    Args:
        store: where they lie.
        identities: any of which may open them.
        old: the one.
        new: the other.
        paths: only what is at the first of these that is there, and below it.

    Raises:
        SelectionError: it is in neither.
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    with scratch_directory() as directory:
        kept = KeptLayers(directory / "layers")
        for name, found in (("a", old), ("b", new)):
            copied_to(store, identities, found, directory, directory / name, kept)
        with compare_copies(directory, paths) as difference:
            yield difference


@contextmanager
def compare_copies(directory: Path, paths: Sequence[bytes] = (b"/",)) -> Iterator[Difference]:
    """Compare the copied snapshots `a` and `b` of a directory for the time of the block; as `compare_snapshots`."""
    with open_both(directory) as db:
        starts = [_find(db, tree, paths) for tree in ("a", "b")]
        if starts == [None, None]:
            raise SelectionError(
                f"path {paths[0].decode('utf-8', 'backslashreplace')}: in neither snapshot",
                hint="vaultik ls shows what is in one, vaultik find which have it",
            )
        for tree in ("a", "b"):
            db.create_function(f"content_of_{tree}", -1, _content_of(db, tree))
        pairs.find_pairs(db, [(starts[0], starts[1])])
        settle(db, f"ea.size <> eb.size OR {_OTHER_CHUNKS}")
        yield Difference(db)


@contextmanager
def open_both(directory: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for a comparison, in which the files `a` and `b` of a directory are attached."""
    with closing(sqlite3.connect((directory / "diff").as_uri(), uri=True, isolation_level=None)) as db:
        for tree in ("a", "b"):
            db.execute(f"ATTACH ? AS {tree}", ((directory / tree).as_uri(),))
        for schema in ("main", "a", "b"):
            # Nothing of it outlives this process.
            db.execute(f"PRAGMA {schema}.journal_mode = OFF")
            db.execute(f"PRAGMA {schema}.synchronous = OFF")
        pairs.prepare(db)
        db.executescript(_SCHEMA)
        yield db


def settle(db: sqlite3.Connection, other_content: str) -> None:
    """Note every difference between what is paired, and what isn't.

    Args:
        db: as `pairs.find_pairs` left it.
        other_content: of two regular files `ea` and `eb`: whether their content differs. SQL.
    """
    db.execute(f"INSERT INTO differing SELECT p.a {_BOTH} WHERE ea.type = 'f' AND eb.type = 'f' AND ({other_content})")
    bound(db, size_of(db, "a") + size_of(db, "b"))
    old_paths, new_paths = Paths(db, "a"), Paths(db, "b")
    db.create_function("old_path", 2, old_paths.of)
    db.create_function("new_path", 2, new_paths.of)
    db.execute(
        f"INSERT INTO changes SELECT new_path(parent, name), kind, a, b FROM (SELECT eb.parent, eb.name, {_KIND} AS kind, p.a, p.b {_BOTH})"
        " WHERE kind IS NOT NULL"
    )
    db.execute(f"INSERT INTO changes SELECT old_path(parent, name), '{REMOVED}', id, NULL FROM gone")
    db.execute(f"INSERT INTO changes SELECT new_path(parent, name), '{ADDED}', NULL, id FROM came")
    db.execute("CREATE INDEX changes_by_a ON changes (a)")


def _find(db: sqlite3.Connection, tree: str, paths: Sequence[bytes]) -> int | None:
    entry = find_path(db, paths, tree)
    return None if entry is None else entry.id


def _content_of(db: sqlite3.Connection, tree: str) -> Callable[..., bytes]:
    return lambda leader, size, *_: find_content(db, leader, size, tree)
