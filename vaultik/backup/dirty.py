"""What a scan looks at that was told what changed: by the index's ids, parents before what is in them.

The rest is taken from the index as it stands, so the plan holds only on the index of a full scan with
the same settings; whatever else speaks against it is a doubt, and the scan looks at everything instead.
Beyond what a watcher named it looks again at what every scan does: files that could not be read or
changed while they were, whatever the last run had no place for, the directories in which vaultik's own
files come and go.
"""

from __future__ import annotations

import json
import os
from collections import deque
from typing import TYPE_CHECKING

from vaultik.backup.exclude import own_paths
from vaultik.index import entries, runs, state
from vaultik.model import EntryType

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from vaultik.backup.changes import Changes
    from vaultik.config import Config
    from vaultik.index.entries import Known

_SCOPE = "full_scan"
_ROUNDS = 10
"""An inode whose links go on changing while they are followed is followed no further: each change is an event."""


def scope_of(config: Config, chunker: str) -> str:
    """Return everything in a config that says what a scan finds, as one text."""
    return json.dumps(
        [
            [os.fsdecode(source) for source in config.source_dirs],
            config.exclude,
            config.exclude_caches,
            config.exclude_if_present,
            config.exclude_nodump,
            config.one_file_system,
            [str(path) for path in own_paths(config)],
            chunker,
        ]
    )


def begin_full_scan(index: sqlite3.Connection) -> None:
    """Record that the index is about to hold neither the last full scan's tree nor the next one's."""
    index.execute("DELETE FROM state WHERE key = ?", (_SCOPE,))


def end_full_scan(index: sqlite3.Connection, scope: str) -> None:
    """Record that the index holds all that a scan of this scope finds."""
    state.set_state(index, _SCOPE, scope)


class Dirty:
    """The names to look at, and how far."""

    def __init__(
        self, index: sqlite3.Connection, sources: Iterable[bytes], changes: Changes, *, by_flag: bool = False
    ) -> None:
        """Find what changed in the index.

        Args:
            index: the index.
            sources: absolute, normal paths.
            changes: what a watcher says.
            by_flag: whether flags keep directories out: those are watched, since no event tells of a flag.
        """
        self._by_flag = by_flag
        self._index = index
        self._sources = {source.rstrip(b"/") or b"/" for source in sources}
        self._wanted: dict[int, bool] = {}
        self._order: deque[int] = deque()
        self._rounds = 0
        self.links = Links(index)
        self.doubt: str | None = None
        """Why it can't be told what to look at, in a line without a path."""
        self._plan(changes)

    def add(self, directories: Iterable[bytes], ids: Iterable[int]) -> None:
        """Add what is looked at as well: directories by path, as far as the index knows them; any entry by id."""
        for path in directories:
            way = entries.find_way(self._index, path)
            if self._is_below_source(path) and len(way) == _depth(path):
                self._wanted.setdefault(way[-1], False)
        for entry in ids:
            self._wanted.setdefault(entry, False)

    def take(self, entry: int) -> bool | None:
        """Strike an entry that is being looked at.

        Returns:
            None if nothing says that what it holds changed, True if that holds for all below it too.
        """
        return self._wanted.pop(entry, None)

    def next(self) -> int | None:
        """Return what to look at next by itself, as its parent need not be; None when all is done."""
        while self._wanted or self._follow_links():
            if not self._order:
                self._order.extend(sorted(self._wanted, key=lambda e: entries.path_of(self._index, e).split(b"/")))
            while self._order:
                entry = self._order.popleft()
                if entry in self._wanted:
                    return entry
        return None

    def _follow_links(self) -> bool:
        if self._rounds == _ROUNDS:
            return False
        self._rounds += 1
        self._wanted = dict.fromkeys(self.links.take(), False)
        return bool(self._wanted)

    def _plan(self, changes: Changes) -> None:
        unknown: list[tuple[int, list[int]]] = []
        for path, deep in [*((p, False) for p in changes.directories), *((p, True) for p in changes.trees)]:
            if not self._is_below_source(path):
                self.doubt = "what changed does not lie below a source"
                return
            way = entries.find_way(self._index, path)
            if len(way) == _depth(path):
                self._wanted[way[-1]] = deep
            else:
                unknown.append((_depth(path), way))
        for depth, way in sorted(unknown):
            self._reach_unknown(depth, way)

    def _reach_unknown(self, depth: int, way: list[int]) -> None:
        """See to it that what the index doesn't know is found: in the directory that it appeared in."""
        holder = entries.find_known(self._index, way[-1])
        if any(self._wanted.get(entry) for entry in way) or way[-1] in self._wanted:
            return
        if holder is not None and holder.type != EntryType.DIRECTORY and len(way) > 1 and way[-2] in self._wanted:
            return
        is_source = self._is_below_source(entries.path_of(self._index, way[-1]))
        if (
            holder is not None
            and holder.type == EntryType.DIRECTORY
            and is_source
            and (len(way) == depth - 1 or self._by_flag)
        ):
            self._wanted[way[-1]] = False
        elif holder is None or not holder.again:
            self.doubt = "something changed in a directory that the index does not know"

    def _is_below_source(self, path: bytes) -> bool:
        if not path.startswith(b"/"):
            return False
        return any(source in (b"/", path) or path.startswith(source + b"/") for source in self._sources)


def plan_dirty(
    index: sqlite3.Connection, config: Config, changes: Changes, *, scope: str, run: int
) -> tuple[Dirty | None, str]:
    """Return what a scan has to look at, or None and the reason why it must look at everything."""
    complete = state.get_state(index, _SCOPE)
    if complete is None:
        return None, "no full scan is complete yet"
    if complete != scope:
        return None, "what belongs into the backup is configured otherwise than at the last one"
    dirty = Dirty(index, config.source_dirs, changes, by_flag=config.exclude_nodump)
    if dirty.doubt is not None:
        return None, dirty.doubt
    own = {os.path.realpath(os.fsencode(path.parent)) for path in own_paths(config)}
    troubled = {os.path.dirname(path) for path in runs.unreadable_before(index, run)}  # noqa: PTH120 - bytes
    dirty.add(own | troubled, entries.iter_again(index))
    return dirty, ""


class Links:
    """Inodes with several names of which one was seen to change: the others change with it, wherever they are.

    A regular file's names share one content, so it is enough that one of them is looked at, unless their number
    changed. Rows of a temporary table: a whole tree of links may go at once.
    """

    def __init__(self, index: sqlite3.Connection) -> None:
        self._index = index
        index.execute("DROP TABLE IF EXISTS temp.links")
        index.execute("CREATE TEMP TABLE links (mount INTEGER, inode INTEGER, nlink INTEGER, ctime_ns INTEGER)")

    def note(self, known: Known | None, st: os.stat_result, mount: int) -> None:
        """Note what stood and what stands now under a name that changed; `mount` is the latter's."""
        inode = entries.signed(st.st_ino)
        if known is not None and known.nlink > 1 and (known.mount, known.inode) != (mount, inode):
            self._index.execute("INSERT INTO temp.links VALUES (?, ?, NULL, NULL)", (known.mount, known.inode))
        if st.st_nlink > 1 or (known is not None and known.nlink > 1):
            row = (mount, inode, st.st_nlink, entries.time_ns(st.st_ctime_ns))
            self._index.execute("INSERT INTO temp.links VALUES (?, ?, ?, ?)", row)

    def note_removal(self, entry: int) -> None:
        """Note every inode with several names in a tree that is about to be removed."""
        self._index.execute(
            "INSERT INTO temp.links SELECT mount, inode, NULL, NULL FROM entries WHERE type <> 'd' AND nlink > 1 AND id IN"
            " (WITH RECURSIVE below (id) AS (VALUES (?) UNION ALL"
            "  SELECT e.id FROM entries AS e JOIN below AS b ON e.parent = b.id) SELECT id FROM below)",
            (entry,),
        )

    def take(self) -> set[int]:
        """Return the entries whose inodes were noted and whose rows say otherwise, and forget the notes."""
        found = self._index.execute(
            "SELECT e.id FROM temp.links AS l JOIN entries AS e ON e.mount = l.mount AND e.inode = l.inode"
            " WHERE e.type <> 'd' AND e.nlink > 1"
            " AND (l.nlink IS NULL OR e.nlink <> l.nlink OR (e.type <> 'f' AND e.ctime_ns <> l.ctime_ns))"
        )
        ids = {row[0] for row in found} | self._first_names()
        self._index.execute("DELETE FROM temp.links")
        return ids

    def _first_names(self) -> set[int]:
        """Return the names that were the only one of their inode: no index leads to them, so all rows are read if need be."""
        self._index.execute(
            "DELETE FROM temp.links WHERE nlink IS NULL OR nlink <= (SELECT count(*) FROM entries AS e"
            " WHERE e.type <> 'd' AND e.nlink > 1 AND e.mount = links.mount AND e.inode = links.inode)"
        )
        if self._index.execute("SELECT 1 FROM temp.links LIMIT 1").fetchone() is None:
            return set()
        found = self._index.execute(
            "SELECT id FROM entries WHERE type <> 'd' AND nlink = 1"
            " AND (mount, inode) IN (SELECT mount, inode FROM temp.links)"
        )
        return {row[0] for row in found}


def _depth(path: bytes) -> int:
    return 1 + sum(1 for name in path.split(b"/") if name)
