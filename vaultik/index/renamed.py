"""Renamed files in the index: a file that has a new name and is otherwise what it was isn't read again.

Renaming a directory leaves the files below it as they are, times of change included. So while a scan goes on, a file
that is gone is set aside, with what was recorded of it; in the end a new name of the same inode with the same
size, mtime and ctime takes that over, as an unchanged file under its old name would have kept it. Names of files
that have several are told apart by nothing, so those are read; so is everything on file systems on which those
four numbers prove less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.index.entries import ROOT
from vaultik.index.mounts import STEADY_IDS

if TYPE_CHECKING:
    import sqlite3

_ASIDE = f"SELECT id FROM entries WHERE parent IS NULL AND id <> {ROOT}"
_CONTENT = "mode, uid, gid, user_name, group_name, birth_ns, inode_flags"


def set_aside(index: sqlite3.Connection, leaving: str) -> None:
    """Take the names of files away that are recorded as they were seen last, and keep the rest of them for `settle`.

    Args:
        index: within a transaction of a scan.
        leaving: an SQL query of the ids of entries that are about to be removed.
    """
    index.execute(
        f"UPDATE entries SET parent = NULL WHERE id IN ({leaving}) AND type = 'f' AND nlink = 1 AND hardlink IS NULL"
        " AND marks = 0 AND NOT again AND id NOT IN (SELECT entry FROM changed) AND id NOT IN (SELECT entry FROM streams)"
    )


def settle(index: sqlite3.Connection) -> int:
    """Let new names take over what was set aside of their inodes, and remove the rest of it.

    Returns:
        How many files need not be read for it.
    """
    index.execute("CREATE TEMP TABLE aside (mount INTEGER, inode INTEGER, id INTEGER, PRIMARY KEY (mount, inode))")
    index.execute("CREATE TEMP TABLE renamed (old INTEGER PRIMARY KEY, new INTEGER UNIQUE)")
    try:
        index.execute(f"INSERT OR REPLACE INTO aside SELECT mount, inode, id FROM entries WHERE id IN ({_ASIDE})")
        index.execute(
            # A cross join keeps its order: what is new is looked up, by rows, among what was set aside. What this scan saw
            # stands in `changed`; the entry's own row may be of an earlier one, that was killed.
            "INSERT INTO renamed SELECT o.id, max(n.id) FROM changed AS c CROSS JOIN entries AS n ON n.id = c.entry"
            " CROSS JOIN aside AS a ON a.mount = n.mount AND a.inode = c.inode CROSS JOIN entries AS o ON o.id = a.id"
            " WHERE c.unread AND n.nlink = 1 AND n.marks = 0 AND NOT n.again AND NOT o.again"
            " AND (c.size, c.mtime_ns, c.ctime_ns) = (o.size, o.mtime_ns, o.ctime_ns)"
            f" AND n.mount IN ({STEADY_IDS}) AND n.id NOT IN (SELECT entry FROM pieces) GROUP BY o.id"
        )
        _take_over(index)
        _remove(index)
        return int(index.execute("SELECT count(*) FROM renamed").fetchone()[0])
    finally:
        index.execute("DROP TABLE aside")
        index.execute("DROP TABLE renamed")


def _take_over(index: sqlite3.Connection) -> None:
    index.execute(
        f"UPDATE entries AS n SET ({_CONTENT}) = ({', '.join(f'o.{column}' for column in _CONTENT.split(', '))})"
        " FROM renamed AS r JOIN entries AS o ON o.id = r.old WHERE n.id = r.new"
    )
    for table in ("entry_chunks", "xattrs"):
        index.execute(f"UPDATE {table} AS t SET entry = r.new FROM renamed AS r WHERE t.entry = r.old")
    index.execute("DELETE FROM changed WHERE entry IN (SELECT new FROM renamed)")


def _remove(index: sqlite3.Connection) -> None:
    for table in ("entry_chunks", "xattrs"):
        index.execute(f"DELETE FROM {table} WHERE entry IN ({_ASIDE})")
    index.execute(f"DELETE FROM entries WHERE parent IS NULL AND id <> {ROOT}")
