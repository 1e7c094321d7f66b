"""Tell a snapshot from a directory on this machine, which stands for `/` as a restore's target does.

A file's content is taken for equal where size and time are; where only the time differs, or if that is asked for, it is read and
compared chunk by chunk.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from vaultik.errors import SelectionError
from vaultik.look import pairs
from vaultik.look.content import find_content
from vaultik.look.diff import Difference, open_both, settle
from vaultik.look.directory import Directory
from vaultik.look.snapshots import copied_to, scratch_directory
from vaultik.model import Mark
from vaultik.snapshot.read import COPY_SCHEMA
from vaultik.snapshot.tree import Entry, iter_children, path_of, resolve
from vaultik.snapshot.write import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.look.directory import Problem
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store


@contextmanager
def compare_with_directory(
    store: Store,
    identities: Sequence[Identity],
    old: FoundSnapshot,
    root: Path,
    paths: Sequence[bytes],
    problem: Callable[[Problem], None],
    *,
    checksum: bool = False,
) -> Iterator[Difference]:
    """Compare a snapshot with a directory for the time of the block: each source of it, or what of them is at a path.

    Args:
        store: where it lies.
        identities: any of which may open it.
        old: the snapshot.
        root: the directory, standing for `/`.
        paths: only what is at the first of these that is in the snapshot, and below it.
        problem: told what could not be looked at.
        checksum: read every file of the same size.

    Raises:
        SelectionError: the path isn't in the snapshot, or nothing of it is below the directory.
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    with scratch_directory() as directory:
        copied_to(store, identities, old, directory, directory / "a")
        with closing(sqlite3.connect(directory / "b")) as tree:
            tree.executescript(schema() + COPY_SCHEMA)
        with open_both(directory) as db, closing(sqlite3.connect(directory / "a")) as copy:
            sources = list(_sources(copy, resolve(copy, paths)))
            live = Directory(db, root, problem)
            try:
                starts = [(source.id, live.add(path_of(copy, source.id))) for source in sources]
                if not any(new for _, new in starts):
                    where = path_of(copy, sources[0].id) if sources else paths[0]
                    raise SelectionError(
                        f"directory {root}: it has no {os.fsdecode(where)}",
                        hint="it stands for /, as a restore's TARGET does: --with / is this machine as it is",
                    )
                _compare(db, live, starts, checksum=checksum)
                yield Difference(db)
            finally:
                live.close()


def _compare(
    db: sqlite3.Connection, live: Directory, starts: Sequence[tuple[int, int | None]], *, checksum: bool
) -> None:
    live.walk()
    db.create_function("content_of_a", 2, lambda leader, size: find_content(db, leader, size, "a"))
    db.create_function("content_of_b", 3, live.content_of)
    db.create_function("same_bytes", 2, live.same_bytes)
    pairs.find_pairs(db, starts)
    if os.geteuid() != 0:
        # They can't be seen without root's rights.
        db.execute("DELETE FROM a.xattrs WHERE name < x'747275737465642f' AND name > x'747275737465642d'")
    is_read = "" if checksum else "ea.mtime_ns <> eb.mtime_ns AND "
    settle(
        db,
        # What moved was compared when that was found out.
        f"ea.size <> eb.size OR ({is_read}p.a NOT IN (SELECT a FROM moved)"
        " AND NOT same_bytes(coalesce(ea.hardlink, ea.id), eb.id))",
    )


def _sources(copy: sqlite3.Connection, entry: Entry) -> Iterator[Entry]:
    """Yield the sources at an entry and below it, or the entry itself if it lies in one."""
    if not entry.marks & Mark.IMPLIED:
        yield entry
        return
    todo = [entry]
    while todo:
        for child in iter_children(copy, todo.pop().id):
            if child.marks & Mark.IMPLIED:
                todo.append(child)
            else:
                yield child
