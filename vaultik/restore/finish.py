"""Everything of a restore that isn't a blob's content: directories before it; links, special files and attributes after.

Trouble at one name costs that name: it is kept as a failure and the rest goes on. Directories stay
private and open to their owner until all that is in them is done, deepest first; so a restore that is
interrupted anywhere can be continued.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik.model import FORMAT_OF_TYPE, EntryType
from vaultik.restore.attributes import SPECIAL
from vaultik.restore.directories import Directories
from vaultik.restore.flags import SETTABLE_FLAGS
from vaultik.restore.ledger import Kind, add_done, forget_written, guarded, iter_ids
from vaultik.restore.mend import Mender
from vaultik.restore.naming import READ, clear_way, stands
from vaultik.restore.write import finish_part, write_whole
from vaultik.snapshot.tree import get_entry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

FINISH = ("given up", "files", "mended", "hard links", "others", "flags", "directories")
"""What is done when all blobs have been read, in the one order that keeps."""
LAST = FINISH[5:]
"""What may forbid every later change, a rename too."""

_COPIED = 8 << 20
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

    def steps(self) -> dict[str, Callable[[], None]]:
        """Return what is left to do by the names of `FINISH`, in that order; each step may be done again."""
        steps = (
            self._given_up,
            self._files,
            Mender(self._copy, self._target, self._attributes).mend,
            self._hard_links,
            self._others,
            self._flags,
            Directories(self._copy, self._target, self._attributes).finish,
        )
        return dict(zip(FINISH, steps, strict=True))

    def put_back(self) -> None:
        """Set the flags again that were taken off: the plan goes, and nobody else knows of them."""
        for number in iter_ids(self._copy, "SELECT entry FROM loosened ORDER BY 1 DESC"):
            with suppress(OSError):
                directory, name = (
                    self._target.place(number) if number != self._target.root else (self._target.root_fd, b".")
                )
                fd = os.open(name, READ, dir_fd=directory)
                try:
                    self._attributes.put_back(number, fd)
                finally:
                    os.close(fd)

    def _given_up(self) -> None:
        """Remove what was written of files that failed: of damaged ones, whose other blobs may have held a part.

        Of those that another try may finish, what several chunks have grown into is kept.
        """
        query = (
            "SELECT f.entry FROM files AS f JOIN failures AS x ON x.entry = f.entry"
            f" WHERE f.entry = f.prime AND (x.kind = {int(Kind.DAMAGED)} OR f.chunks <= 1) ORDER BY 1"
        )
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
                self._target.remove_temporary(number)
                forget_written(self._copy, number)

    def _files(self) -> None:
        """Finish every file that no blob could finish by itself: after this each is done, or a failure."""
        query = f"SELECT entry FROM files WHERE entry = prime AND entry {_NOT_FAILED} AND entry {_NOT_DONE} ORDER BY 1"
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
                if self._file(number):
                    add_done(self._copy, [number])

    def _file(self, number: int) -> bool:
        entry = get_entry(self._copy, number)
        (blobs,) = self._copy.execute("SELECT blobs FROM files WHERE entry = ?", (number,)).fetchone()
        if blobs:
            return finish_part(self._copy, self._target, self._attributes, number)
        write_whole(self._target, self._attributes, entry)
        return True

    def _hard_links(self) -> None:
        query = f"SELECT entry FROM files WHERE entry <> prime AND prime {_NOT_FAILED} ORDER BY 1"
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
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
            there, here = stands(held, source), stands(directory, name)
            if there is not None and not (here is not None and os.path.samestat(there, here)):
                directory, temporary = self._target.temporary(number)
                clear_way(directory, temporary)
                try:
                    os.link(source, temporary, src_dir_fd=held, dst_dir_fd=directory, follow_symlinks=False)
                except PermissionError:
                    if not stat.S_ISREG(there.st_mode):
                        raise
                    self._loosen(prime, held, source)
                    os.link(source, temporary, src_dir_fd=held, dst_dir_fd=directory, follow_symlinks=False)
                self._name(number)
            return there is not None
        finally:
            os.close(held)

    def _loosen(self, entry: int, directory: int, name: bytes) -> None:
        """Make a file one that can be linked to: an earlier try may have made it immutable; `flags` comes again."""
        try:
            fd = os.open(name, READ, dir_fd=directory)
        except OSError:
            return
        try:
            self._attributes.loosen(get_entry(self._copy, entry), fd)
        finally:
            os.close(fd)

    def _name(self, number: int) -> None:
        """Give what stands under an entry's temporary name its own, or remove it."""
        try:
            self._target.name(get_entry(self._copy, number))
        except OSError:
            with suppress(OSError):
                self._target.remove_temporary(number)
            raise

    def _others(self) -> None:
        query = (
            "SELECT e.id FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
            f" WHERE e.type NOT IN ('f', 'd') AND e.id {_NOT_DONE} ORDER BY 1"
        )
        made: list[int] = []
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
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
        directory, temporary = self._target.temporary(entry)
        clear_way(directory, temporary)
        if not self._make(entry, directory, temporary):
            return False
        self._attributes.on_name(entry, directory, temporary)
        self._name(entry.id)
        return True

    def _make(self, entry: Entry, directory: int, name: bytes) -> bool:
        if entry.type == EntryType.SYMLINK:
            assert entry.link_target is not None
            os.symlink(entry.link_target, name, dir_fd=directory)
            return True
        try:
            os.mknod(name, FORMAT_OF_TYPE[entry.type] | 0o600, entry.rdev or 0, dir_fd=directory)
        except PermissionError:
            self._attributes.refuse(entry.id, SPECIAL)
            return False
        return True

    def _flags(self) -> None:
        """Set files' inode flags: nothing may be done to an immutable one after, not even a hard link to it."""
        query = (
            "SELECT entry FROM files JOIN entries AS e ON e.id = entry"
            f" WHERE entry = prime AND (e.inode_flags & {SETTABLE_FLAGS} OR entry IN (SELECT entry FROM loosened))"
            f" AND entry {_NOT_FAILED} ORDER BY 1"
        )
        for number in iter_ids(self._copy, query):
            with guarded(self._copy, number):
                directory, name = self._target.place(number)
                fd = os.open(name, READ, dir_fd=directory)
                try:
                    self._attributes.set_flags(get_entry(self._copy, number), fd)
                finally:
                    os.close(fd)
