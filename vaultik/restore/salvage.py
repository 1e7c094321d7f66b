"""Keep what can be read of damaged files: under a name that says so, never under their own.

    lost       ranges of files that could not be read, and why
    salvaged   the names of what could be

A file of which chunks are lost grows like any other, with holes where they would be. It never counts as done:
when all its blobs have been read, it gets the name NAME.vaultik-salvaged, and its entry is a failure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from vaultik.restore import ledger
from vaultik.restore.ledger import Failure, Kind
from vaultik.restore.naming import open_directory, rename_new, stands
from vaultik.shown import plural
from vaultik.snapshot.tree import get_entry, path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

SUFFIX = b".vaultik-salvaged"
_NAME_MAX = 255
_NAMES_AT_MOST = 10_000
_SHOWN = 5
_SETID = stat.S_ISUID | stat.S_ISGID


class Lost(NamedTuple):
    """A range of a file that could not be read."""

    entry: int
    offset: int
    size: int
    blob: int
    reason: str


class Salvaged(NamedTuple):
    """What could be read of a damaged file."""

    path: bytes
    """The file's own, in the snapshot."""
    place: bytes
    """Where it stands instead: a path below the target, as those of the snapshot are."""
    lost: list[tuple[int, int]]
    """Offset and length of what is zeros instead of the file's bytes, ascending, nothing twice."""


def add_lost(copy: sqlite3.Connection, lost: Sequence[Lost]) -> None:
    """Note what could not be read."""
    copy.executemany("INSERT OR REPLACE INTO lost VALUES (?, ?, ?, ?, ?)", lost)


def forget_lost(copy: sqlite3.Connection, blob: int) -> None:
    """Forget what could not be read of a blob that is read again, of files that aren't done with it."""
    copy.execute(
        f"DELETE FROM lost WHERE blob = ? AND {ledger.NOT_SALVAGED} AND NOT EXISTS"
        " (SELECT 1 FROM written AS w WHERE w.entry = lost.entry AND w.blob = lost.blob AND w.complete)",
        (blob,),
    )


def is_hurt(copy: sqlite3.Connection, entry: int) -> bool:
    """Tell whether something of a file is lost."""
    return copy.execute("SELECT 1 FROM lost WHERE entry = ?", (entry,)).fetchone() is not None


def keep(copy: sqlite3.Connection, target: Target, attributes: AttributeWriter, number: int, fd: int) -> None:
    """Give what could be read of a file its name; the file is a failure from now on.

    Args:
        copy: the copied snapshot and its plan.
        target: the tree.
        attributes: sets the file's own; not what would let it run as somebody else.
        number: the file.
        fd: what stands under its temporary name.

    Raises:
        OSError: the target won't have it.
    """
    entry = get_entry(copy, number)
    failure = _failure(copy, number)
    if not _has_more(copy, number):
        target.remove_temporary(number)
        ledger.add_failures(copy, {number: failure})
        return
    if os.fstat(fd).st_size != entry.size:
        os.ftruncate(fd, entry.size)
    attributes.on_descriptor(entry._replace(mode=entry.mode & ~_SETID), fd)
    with contextlib.suppress(OSError):
        os.removexattr(fd, "security.capability")
    directory, _ = target.place(entry)
    _, temporary = target.temporary(entry)
    for name in _names(entry.name):
        if stands(directory, name) is not None or _is_another(copy, entry, name):
            continue
        # Noted before, so that a kill in between leaves no second one.
        copy.execute("INSERT OR REPLACE INTO salvaged VALUES (?, ?)", (number, name))
        if rename_new(directory, temporary, name):
            ledger.add_failures(copy, {number: failure})
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def settle(copy: sqlite3.Connection, target: Target) -> None:
    """End what a kill left between the name of what was salvaged and its entry's failure."""
    query = "SELECT entry, name FROM salvaged WHERE entry NOT IN (SELECT entry FROM failures)"
    for number, name in copy.execute(query).fetchall():
        with ledger.guarded(copy, number):
            directory, _ = target.place(number)
            if stands(directory, name) is not None:
                ledger.add_failures(copy, {number: _failure(copy, number)})
            else:
                copy.execute("DELETE FROM salvaged WHERE entry = ?", (number,))


def all_salvaged(copy: sqlite3.Connection) -> list[Salvaged]:
    """Return what was salvaged, by entry."""
    rows = copy.execute("SELECT entry, name FROM salvaged ORDER BY 1").fetchall()
    found = []
    for number, name in rows:
        path = path_of(copy, number)
        found.append(Salvaged(path, path[: path.rindex(b"/") + 1] + name, _lost_ranges(copy, number)))
    return found


def joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges (offset, length), ascending, that touch each other."""
    found: list[tuple[int, int]] = []
    for offset, size in ranges:
        if found and offset <= sum(found[-1]):
            begin, before = found[-1]
            found[-1] = (begin, max(before, offset + size - begin))
        else:
            found.append((offset, size))
    return found


def zeros(lost: Sequence[tuple[int, int]]) -> str:
    """Say which ranges of a salvaged file are not the file's."""
    shown = [f"{offset} to {offset + size - 1}" for offset, size in lost[:_SHOWN]]
    more = f" and {plural(len(lost) - _SHOWN, 'range')} more" if len(lost) > _SHOWN else ""
    return f"zeros are in place of bytes {', '.join(shown)}{more}"


def bring_beside(copy: sqlite3.Connection, number: int, directory: Path, place: Path) -> Path | None:
    """Bring what was salvaged of one file from a directory to beside its place. Returns where it stands, None if nothing was.

    Raises:
        OSError: it can't be brought there.
    """
    row = copy.execute("SELECT name FROM salvaged WHERE entry = ?", (number,)).fetchone()
    if row is None:
        return None
    with contextlib.ExitStack() as stack:
        old, new = open_directory(stack, directory), open_directory(stack, place.parent)
        for name in _names(os.fsencode(place.name)):
            if rename_new(old, row[0], name, new):
                return place.with_name(os.fsdecode(name))
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(place))


def _lost_ranges(copy: sqlite3.Connection, number: int) -> list[tuple[int, int]]:
    return joined(copy.execute("SELECT offset, size FROM lost WHERE entry = ? ORDER BY 1", (number,)).fetchall())


def _failure(copy: sqlite3.Connection, number: int) -> Failure:
    row = copy.execute("SELECT reason FROM lost WHERE entry = ? ORDER BY offset LIMIT 1", (number,)).fetchone()
    return Failure(Kind.DAMAGED, row[0] if row else "damaged")


def _has_more(copy: sqlite3.Connection, number: int) -> bool:
    """Tell whether anything of a file could be read."""
    (chunks,) = copy.execute("SELECT chunks FROM files WHERE entry = ?", (number,)).fetchone()
    (lost,) = copy.execute("SELECT count(*) FROM lost WHERE entry = ?", (number,)).fetchone()
    return bool(lost < chunks)


def _is_another(copy: sqlite3.Connection, entry: Entry, name: bytes) -> bool:
    """Tell whether the snapshot has something of that name beside a file: it may still be to come."""
    query = "SELECT 1 FROM entries WHERE parent = ? AND name = ?"
    return copy.execute(query, (entry.parent, name)).fetchone() is not None


def _names(own: bytes) -> Iterator[bytes]:
    """Yield names that say what it is, the plainest first."""
    for count in range(1, _NAMES_AT_MOST):
        suffix = SUFFIX + (b"" if count == 1 else b"-%d" % count)
        yield own[: _NAME_MAX - len(suffix)] + suffix
