"""Names that the target's file system takes for one, as `Makefile` and `makefile` on some.

Of these the first is restored; the others, with all that is below them, are failures that name it, and nothing
is written for them. Whether the file system does that is tried out once, and then with the very names that might
be taken for each other: it alone knows its rules. A directory below may be another file system's, or have rules of
its own (ext4's casefold): where names might be taken for each other, the place itself is looked at.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.restore.ledger import Failure, Kind, add_failures
from vaultik.restore.target import is_fatal
from vaultik.shown import plural, printable
from vaultik.snapshot.tree import path_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_TRIED = b"vaultik-a\xc3\xa9"
_OTHERS = (b"VAULTIK-A\xc3\xa9", b"vaultik-a\xc3\x89", b"vaultik-ae\xcc\x81")
"""Names that some take for it: another case, also beyond ASCII, and another way to write the accent."""
_OUR_OWN = 0
_CASEFOLD = 0x40000000
"""The flag of a directory that takes names for each other (ext4, f2fs); what comes into it inherits it."""
_KEYS = """
CREATE TEMP TABLE keys (entry INTEGER PRIMARY KEY, parent INTEGER, name BLOB, key TEXT)
"""
_ALIKE = (
    "SELECT parent, key, entry, name FROM temp.keys WHERE (parent, key) IN"
    " (SELECT parent, key FROM temp.keys GROUP BY parent, key HAVING count(*) > 1) ORDER BY parent, key, entry"
)


def leave_out_clashes(
    copy: sqlite3.Connection, directory: Path, top: Path | None, root: int, own: bytes | None = None
) -> None:
    """Take off a plan what would clash, and note it as failures.

    Args:
        copy: a copied snapshot, whose table `wanted` is filled and nothing that rests on it.
        directory: one on the file system, in which something may be made for a moment.
        top: the target's own directory; None if it isn't there yet.
        root: the entry whose contents stand in it.
        own: a name in there that is taken already.

    Raises:
        OSError: nothing can be made in the directory.
    """
    groups = _groups(copy, root, own)
    if not groups:
        return
    with tempfile.TemporaryDirectory(prefix=".vaultik-", dir=directory) as made:
        place = Path(made)
        is_folded = _takes_names_for_others(place)
        for parent, names in groups:
            if is_folded:
                found = list(_clashes(place, names))
            elif _becomes_folded(copy, parent):
                found = [(entry, names[0][1]) for entry, _ in names[1:]]
            else:
                found = list(_clashes_below(copy, top, root, parent, names)) if top is not None else []
            for entry, first in found:
                _leave_out(copy, entry, first)


def _groups(copy: sqlite3.Connection, root: int, own: bytes | None) -> list[tuple[int, list[tuple[int, bytes]]]]:
    """Return the names that some file system might take for each other, by directory, each with its entry, ascending."""
    copy.create_function("name_key", 1, _key, deterministic=True)
    copy.execute("DROP TABLE IF EXISTS temp.keys")
    copy.execute(_KEYS)
    copy.execute(
        "INSERT INTO temp.keys SELECT e.id, e.parent, e.name, name_key(e.name)"
        " FROM entries AS e JOIN wanted AS w ON w.entry = e.id WHERE e.parent IS NOT NULL"
    )
    if own is not None:
        copy.execute("INSERT INTO temp.keys VALUES (?, ?, ?, name_key(?))", (_OUR_OWN, root, own, own))
    rows = copy.execute(_ALIKE).fetchall()
    copy.execute("DROP TABLE temp.keys")
    return [
        (parent, [(entry, name) for _, _, entry, name in group])
        for (parent, _), group in groupby(rows, key=lambda row: row[:2])
    ]


def _becomes_folded(copy: sqlite3.Connection, directory: int) -> bool:
    """Tell whether a directory is to take names for each other, where that is a directory's matter: no backup has two such in it."""
    at: int | None = directory
    while at is not None:
        at, flags = copy.execute("SELECT parent, inode_flags FROM entries WHERE id = ?", (at,)).fetchone()
        if (flags or 0) & _CASEFOLD:
            return True
    return False


def _clashes_below(
    copy: sqlite3.Connection, top: Path, root: int, directory: int, names: list[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Yield the clashes in a directory that stands in the target and isn't as the target is."""
    with ExitStack() as stack:
        fd = first = _open(stack, top)
        try:
            for name in path_of(copy, directory)[len(path_of(copy, root)) :].split(b"/"):
                fd = _open(stack, name, fd) if name else fd
        except OSError:
            pass  # what isn't there will be as what is above it
        is_other = os.fstat(fd).st_dev != os.fstat(first).st_dev
        if is_other or (linux.get_inode_flags(fd) or 0) & _CASEFOLD:
            with (
                suppress(PermissionError),
                tempfile.TemporaryDirectory(prefix=".vaultik-", dir=f"/proc/self/fd/{fd}") as made,
            ):
                yield from _clashes(Path(made), names)


def _open(stack: ExitStack, path: Path | bytes, above: int | None = None) -> int:
    fd = os.open(
        path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if above is not None else 0), dir_fd=above
    )
    stack.callback(os.close, fd)
    return fd


def _takes_names_for_others(place: Path) -> bool:
    path = os.fsencode(place) + b"/"
    try:
        os.close(os.open(path + _TRIED, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return any(os.path.lexists(path + name) for name in _OTHERS)
    finally:
        with suppress(OSError):
            os.unlink(path + _TRIED)  # noqa: PTH108 - names are bytes


def _clashes(place: Path, names: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield each entry whose name is taken for that of one before it, and that one's name."""
    path = os.fsencode(place) + b"/"
    taken: dict[int, bytes] = {}
    made: list[bytes] = []
    for entry, name in names:
        try:
            fd = os.open(path + name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            yield entry, taken.get(os.lstat(path + name).st_ino, b"another")
        except OSError as exc:
            if is_fatal(exc):
                raise
            # A name that can't be had at all says so when it is needed.
        else:
            taken[os.fstat(fd).st_ino] = name
            made.append(name)
            os.close(fd)
    for name in made:
        os.unlink(path + name)  # noqa: PTH108 - names are bytes


def _leave_out(copy: sqlite3.Connection, entry: int, first: bytes) -> None:
    rows = copy.execute(
        "WITH RECURSIVE below (id) AS (VALUES (?) UNION ALL SELECT e.id FROM entries AS e JOIN below ON e.parent = below.id)"
        " SELECT id FROM below JOIN wanted ON entry = id",
        (entry,),
    ).fetchall()
    copy.executemany("DELETE FROM wanted WHERE entry = ?", rows)
    if not rows:
        return  # below one that was left out
    below = f", with {plural(len(rows) - 1, 'entry', 'entries')} below it" if len(rows) > 1 else ""
    reason = f"this file system takes its name for {printable(first)}, which stands beside it; left out{below}"
    add_failures(copy, {entry: Failure(Kind.CLASH, reason)})


def _key(name: bytes) -> str:
    """Return what is equal for all names that any file system takes for each other."""
    if name.isascii():
        return name.lower().rstrip(b" .").hex()
    text = unicodedata.normalize("NFKC", os.fsdecode(name)).casefold()
    return unicodedata.normalize("NFKC", text).rstrip(" .").encode("utf-8", "surrogateescape").hex()
