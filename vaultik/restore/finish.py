"""Everything of a restore that isn't a blob's content: directories before it; links, special files and attributes after.

Trouble at one name costs that name: it is kept as a failure and the rest goes on. Directories stay
private and open to their owner until all that is in them is done, deepest first; so a restore that is
interrupted anywhere can be continued.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY
from vaultik.model import FORMAT_OF_TYPE, EntryType
from vaultik.restore.attributes import SETTABLE_FLAGS, SPECIAL
from vaultik.restore.ledger import Failure, Kind, add_done, add_failures, forget_written
from vaultik.restore.target import READ, clear_way, is_fatal, link, make_directory
from vaultik.restore.tree import get_entry
from vaultik.restore.write import finish_part, write_whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.restore.tree import Entry

FINISH = ("given up", "files", "hard links", "others", "flags", "directories")
"""What is done when all blobs have been read, in the one order that keeps."""
LAST = FINISH[4:]
"""What may forbid every later change, a rename too."""

_RANGE = 10_000
_KEEP = 1000
_NOT_FAILED = "NOT IN (SELECT entry FROM failures)"
_NOT_DONE = "NOT IN (SELECT entry FROM done)"


_FIRST = (
    "SELECT min(e.id) FROM entries AS e JOIN wanted AS w ON w.entry = e.id"
    f" WHERE e.hardlink = ? AND e.hardlink IS NOT NULL AND e.type <> 'f' AND e.id {_NOT_FAILED}"
)


class Finisher:
    """Makes a tree's directories, and finishes it when its blobs have all been read."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter) -> None:
        self._copy = copy
        self._target = target
        self._attributes = attributes

    def make_directories(self) -> None:
        """Make every wanted directory, parents first."""
        query = "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd' ORDER BY 1"
        for number in _ids(self._copy, query):
            if number != self._target.root:
                with self._guarded(number):
                    if make_directory(*self._target.place(number)):
                        self._on_creation(number)

    def _on_creation(self, number: int) -> None:
        entry = get_entry(self._copy, number)
        if entry.inode_flags:
            fd = self._open(number)
            try:
                self._attributes.on_creation(entry, fd)
            finally:
                os.close(fd)

    def reopen_directories(self) -> None:
        """Undo what may forbid changes in directories, parents first: a finished tree is to be mended."""
        query = "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type = 'd' AND e.id <> 1 ORDER BY 1"
        for number in _ids(self._copy, query):
            with self._guarded(number):
                make_directory(*self._target.place(number))
                fd = self._open(number)
                try:
                    self._attributes.loosen(get_entry(self._copy, number), fd)
                    os.fchmod(fd, 0o700)
                finally:
                    os.close(fd)

    def steps(self) -> dict[str, Callable[[], None]]:
        """Return what is left to do by the names of `FINISH`, in that order; each step may be done again."""
        steps = (self._given_up, self._files, self._hard_links, self._others, self._flags, self._directories)
        return dict(zip(FINISH, steps, strict=True))

    def remove_temporaries(self, *, all_kinds: bool) -> None:
        """Remove what was written of files that failed: of damaged ones, whose other blobs may have held a part, or of all.

        Of those that another try may finish, what several chunks have grown into is kept.
        """
        kinds = "" if all_kinds else f"AND (x.kind = {int(Kind.DAMAGED)} OR f.chunks <= 1)"
        query = f"SELECT f.entry FROM files AS f JOIN failures AS x ON x.entry = f.entry WHERE f.entry = f.prime {kinds} ORDER BY 1"
        for number in _ids(self._copy, query):
            with self._guarded(number):
                self._target.remove_temporary(number)
                forget_written(self._copy, number)

    def _given_up(self) -> None:
        self.remove_temporaries(all_kinds=False)

    def _files(self) -> None:
        """Finish every file that no blob could finish by itself: after this each is done, or a failure."""
        query = f"SELECT entry FROM files WHERE entry = prime AND entry {_NOT_FAILED} AND entry {_NOT_DONE} ORDER BY 1"
        for number in _ids(self._copy, query):
            with self._guarded(number):
                self._file(number)
                add_done(self._copy, [number])

    def _file(self, number: int) -> None:
        entry = get_entry(self._copy, number)
        (blobs,) = self._copy.execute("SELECT blobs FROM files WHERE entry = ?", (number,)).fetchone()
        if blobs:
            finish_part(self._copy, self._target, self._attributes, number)
            return
        write_whole(self._target, self._attributes, entry)

    def _hard_links(self) -> None:
        query = f"SELECT entry FROM files WHERE entry <> prime AND prime {_NOT_FAILED} ORDER BY 1"
        for number in _ids(self._copy, query):
            with self._guarded(number):
                self._hard_link(number)

    def _hard_link(self, number: int) -> None:
        (prime,) = self._copy.execute("SELECT prime FROM files WHERE entry = ?", (number,)).fetchone()
        if not self._link(prime, number):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _link(self, prime: int, number: int) -> bool:
        """Give what stands for one entry another's name too. Returns whether something stands there."""
        # The first descriptor may be closed by the second place().
        source_directory, source = self._target.place(prime)
        held = os.dup(source_directory)
        try:
            directory, name = self._target.place(number)
            there = _stands(held, source)
            if there is not None and _stands(directory, name) != there:
                clear_way(directory, name)
                # An earlier try may have made the file immutable; `flags` comes again.
                link(held, source, directory, name)
            return there is not None
        finally:
            os.close(held)

    def _others(self) -> None:
        query = (
            "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
            f" WHERE e.type NOT IN ('f', 'd') AND e.id {_NOT_DONE} ORDER BY 1"
        )
        made: list[int] = []
        for number in _ids(self._copy, query):
            with self._guarded(number):
                if self._other(get_entry(self._copy, number)):
                    made.append(number)
            if len(made) >= _KEEP:
                add_done(self._copy, made)
                made.clear()
        add_done(self._copy, made)

    def _other(self, entry: Entry) -> bool:
        prime = entry.hardlink and self._copy.execute(_FIRST, (entry.hardlink,)).fetchone()[0]
        if prime and prime < entry.id and self._link(prime, entry.id):
            return True
        directory, name = self._target.place(entry.id)
        clear_way(directory, name)
        if not self._make(entry, directory, name):
            return False
        self._attributes.on_name(entry, directory, name)
        return True

    def _make(self, entry: Entry, directory: int, name: bytes) -> bool:
        if entry.type == EntryType.SYMLINK:
            assert entry.link_target is not None
            os.symlink(entry.link_target, name, dir_fd=directory)
            return True
        try:
            os.mknod(name, FORMAT_OF_TYPE[EntryType(entry.type)] | 0o600, entry.rdev or 0, dir_fd=directory)
        except PermissionError:
            self._attributes.refuse(entry.id, SPECIAL)
            return False
        return True

    def _flags(self) -> None:
        """Set files' inode flags: nothing may be done to an immutable one after, not even a hard link to it."""
        query = (
            "SELECT entry FROM files JOIN entries AS e ON e.id = entry"
            f" WHERE entry = prime AND e.inode_flags & {SETTABLE_FLAGS} AND entry {_NOT_FAILED} ORDER BY 1"
        )
        for number in _ids(self._copy, query):
            with self._guarded(number):
                directory, name = self._target.place(number)
                fd = os.open(name, READ, dir_fd=directory)
                try:
                    self._attributes.set_flags(get_entry(self._copy, number), fd)
                finally:
                    os.close(fd)

    def _directories(self) -> None:
        """Set directories' attributes, deepest first: a child has a larger id than its parent."""
        query = (
            "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
            f" WHERE e.type = 'd' AND e.id <> 1 AND e.id {_NOT_FAILED} ORDER BY 1 DESC"
        )
        for number in _ids(self._copy, query):
            with self._guarded(number):
                fd = os.dup(self._target.root_fd) if number == self._target.root else self._open(number)
                try:
                    entry = get_entry(self._copy, number)
                    self._attributes.loosen(entry, fd)
                    self._attributes.on_descriptor(entry, fd)
                    self._attributes.set_flags(entry, fd)
                finally:
                    os.close(fd)

    def _open(self, number: int) -> int:
        directory, name = self._target.place(number)
        try:
            return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        except PermissionError:
            # Closed already, before this was interrupted.
            passing = os.open(name, OPEN_DIRECTORY | os.O_PATH, dir_fd=directory)
            try:
                Path(f"/proc/self/fd/{passing}").chmod(0o700)
                return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            finally:
                os.close(passing)

    @contextmanager
    def _guarded(self, number: int) -> Iterator[None]:
        """Keep what goes wrong with one entry as its failure."""
        try:
            yield
        except OSError as exc:
            if is_fatal(exc):
                raise
            add_failures(self._copy, {number: Failure(Kind.TARGET, exc.strerror or str(exc))})


def _stands(directory: int, name: bytes) -> tuple[int, int] | None:
    """Return which inode stands under a name, None if none does."""
    try:
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return st.st_dev, st.st_ino


def _ids(copy: sqlite3.Connection, query: str) -> Iterator[int]:
    """Yield ids, read before the loop's body changes what the query looks at."""
    copy.execute("CREATE TEMP TABLE IF NOT EXISTS todo (at INTEGER PRIMARY KEY, id INTEGER)")
    copy.execute("DELETE FROM temp.todo")
    copy.execute(f"INSERT INTO temp.todo (id) {query}")
    last = 0
    while rows := copy.execute("SELECT at, id FROM temp.todo WHERE at > ? LIMIT ?", (last, _RANGE)).fetchall():
        yield from (number for _, number in rows)
        last = rows[-1][0]
