"""Write chunks into files. A file gets its own name only when every byte of it has been verified.

A file of one chunk is written, finished and named at once. One of several chunks grows under its temporary
name; which blobs are in it stands in the plan (`written`), so it is finished only when all of them were
written into that very temporary. What has its own name is noted as done, and nothing opens it again. So
whatever is killed, what has its own name is right, and a blob that is read again touches only the others.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik.restore import ledger, salvage
from vaultik.restore.ledger import Failure, Kind
from vaultik.restore.salvage import Lost
from vaultik.restore.target import is_fatal
from vaultik.snapshot.tree import get_entry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.needs import Place
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

_OPEN_AT_MOST = 64
_KEEP = 1000
"""Marks and failures are noted so many at a time: memory doesn't depend on the number of files."""


class FileWriter:
    """Writes the files that use one blob."""

    def __init__(self, copy: sqlite3.Connection, target: Target, attributes: AttributeWriter, blob: int) -> None:
        """Begin with a blob; what another process began to write of it and didn't end is forgotten."""
        self._copy = copy
        self._target = target
        self._attributes = attributes
        self._blob = blob
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._done: list[int] = []
        self._failures: dict[int, Failure] = {}
        self._lost: list[Lost] = []
        self._damaged: list[int] = []
        self.finished = 0
        copy.execute("DELETE FROM written WHERE blob = ? AND NOT complete", (blob,))
        salvage.forget_lost(copy, blob)

    def write(self, place: Place, data: bytes | memoryview) -> None:
        """Write a verified chunk at its place in a file. What goes wrong with this file alone is a failure.

        Raises:
            OSError: the whole target failed.
        """
        if place.file.id in self._failures:
            return
        try:
            if place.chunks == 1:
                self._write_whole(place, data)
            else:
                _write_at(self._part(place.file), place.offset, data)
        except OSError as exc:
            self._fail(place.file.id, exc)

    def note_damaged(self, chunk: int) -> None:
        """Note a chunk that can't be read where the snapshot says it is."""
        self._damaged.append(chunk)
        if len(self._damaged) >= _KEEP:
            self.flush()

    def lose(self, place: Place, size: int, reason: str) -> None:
        """Leave a hole in a file, where a chunk of that size can't be read; the rest of it is written.

        Raises:
            OSError: the whole target failed.
        """
        if place.file.id in self._failures:
            return
        try:
            self._part(place.file)
        except OSError as exc:
            self._fail(place.file.id, exc)
            return
        self._lost.append(Lost(place.file.id, place.offset, size, self._blob, reason))
        if len(self._lost) >= _KEEP:
            self.flush()

    def give_up(self, entry: int, failure: Failure) -> None:
        """Give a file up."""
        self._failures.setdefault(entry, failure)
        fd = self._fds.pop(entry, None)
        if fd is not None:
            os.close(fd)
        if len(self._failures) >= _KEEP:
            self.flush()

    def end(self) -> None:
        """Finish the files that this blob holds whole, and note that it has been read.

        Raises:
            OSError: the whole target failed.
        """
        self.close()
        self.flush()
        with ledger.transaction(self._copy):
            # Of a file that failed, a part may be missing.
            self._copy.execute(
                "DELETE FROM written WHERE blob = ? AND entry IN (SELECT entry FROM failures)", (self._blob,)
            )
            self._copy.execute("UPDATE written SET complete = 1 WHERE blob = ?", (self._blob,))
        for entry in self._whole_parts():
            try:
                if finish_part(self._copy, self._target, self._attributes, entry):
                    self._note_done(entry)
            except OSError as exc:
                self._fail(entry, exc)
        self.flush()
        with ledger.transaction(self._copy):
            self._copy.execute("UPDATE reads SET done = 1 WHERE blob = ?", (self._blob,))

    def flush(self) -> None:
        """Note in the plan what is done and what failed."""
        with ledger.transaction(self._copy):
            ledger.add_done(self._copy, self._done)
            ledger.add_failures(self._copy, self._failures)
            salvage.add_lost(self._copy, self._lost)
            ledger.add_damaged(self._copy, self._damaged)
            self._attributes.flush()
        self._done.clear()
        self._failures.clear()
        self._lost.clear()
        self._damaged.clear()

    def close(self) -> None:
        """Close what is open."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _write_whole(self, place: Place, data: bytes | memoryview) -> None:
        write_whole(self._target, self._attributes, place.file, place.offset, data)
        self._note_done(place.file.id)

    def _part(self, file: Entry) -> int:
        """Return the open temporary of a file of several chunks."""
        fd = self._fds.get(file.id)
        if fd is not None:
            return fd
        if len(self._fds) >= _OPEN_AT_MOST:
            os.close(self._fds.popitem(last=False)[1])
        fd = self._fds[file.id] = self._open_part(file)
        return fd

    def _open_part(self, file: Entry) -> int:
        """Open a temporary and note that this blob is being written into it."""
        entry = file.id
        with ledger.transaction(self._copy):
            known = {row[0] for row in self._copy.execute("SELECT blob FROM written WHERE entry = ?", (entry,))}
            fd, made = self._target.open_part(entry)
            try:
                if made:
                    ledger.forget_written(self._copy, entry)
                    self._attributes.on_creation(file, fd)
                elif not known:
                    # Of a try that was killed before it noted anything.
                    os.ftruncate(fd, 0)
                if not (made and self._blob in known):
                    self._copy.execute("INSERT OR IGNORE INTO written VALUES (?, ?, 0)", (entry, self._blob))
            except BaseException:
                os.close(fd)
                raise
        if made and self._blob in known:
            os.close(fd)
            raise OSError(None, "was taken away while it was being written")
        return fd

    def _whole_parts(self) -> Iterator[int]:
        """Yield the files of several chunks that have all of them from this blob."""
        last = 0
        while rows := self._copy.execute(_WHOLE, (self._blob, last, _KEEP)).fetchall():
            yield from (row[0] for row in rows)
            last = rows[-1][0]

    def _note_done(self, entry: int) -> None:
        self._done.append(entry)
        self.finished += 1
        if len(self._done) >= _KEEP:
            self.flush()

    def _fail(self, entry: int, exc: OSError) -> None:
        if is_fatal(exc):
            raise exc
        self.give_up(entry, Failure(Kind.TARGET, exc.strerror or str(exc)))


_WHOLE = (
    "SELECT w.entry FROM written AS w JOIN files AS f ON f.entry = w.entry WHERE w.blob = ? AND f.blobs = 1 AND w.entry > ?"
    " AND w.entry NOT IN (SELECT entry FROM failures) AND w.entry NOT IN (SELECT entry FROM done) ORDER BY w.entry LIMIT ?"
)


def finish_part(copy: sqlite3.Connection, target: Target, attributes: AttributeWriter, number: int) -> bool:
    """Finish a file of several chunks, if all its blobs were written into the temporary that stands for it.

    Returns:
        Whether it has its name now; if something of it is lost, what could be read has another.

    Raises:
        OSError: they were not, or the target won't have it.
    """
    (wanted,) = copy.execute("SELECT blobs FROM files WHERE entry = ?", (number,)).fetchone()
    (written,) = copy.execute("SELECT count(*) FROM written WHERE entry = ? AND complete", (number,)).fetchone()
    fd = target.find_temporary(number)
    if fd is None or written != wanted:
        ledger.forget_written(copy, number)
        if fd is not None:
            os.close(fd)
        raise OSError(None, "what was written of it is gone")
    try:
        if salvage.is_hurt(copy, number):
            salvage.keep(copy, target, attributes, number, fd)
            return False
        name_file(target, attributes, get_entry(copy, number), fd)
        return True
    finally:
        os.close(fd)


def write_whole(
    target: Target, attributes: AttributeWriter, entry: Entry, offset: int = 0, data: bytes | memoryview = b""
) -> None:
    """Make, write and finish a file that has all its bytes in one piece, or none.

    Raises:
        OSError: the target won't have it; nothing is left under its temporary name.
    """
    fd = target.make_temporary(entry)
    try:
        attributes.on_creation(entry, fd)
        _write_at(fd, offset, data)
        name_file(target, attributes, entry, fd)
    except OSError:
        with suppress(OSError):
            target.remove_temporary(entry.id)
        raise
    finally:
        os.close(fd)


def name_file(target: Target, attributes: AttributeWriter, entry: Entry, fd: int) -> None:
    """Give a file whose bytes are all there its size, attributes and name."""
    if os.fstat(fd).st_size != entry.size:
        os.ftruncate(fd, entry.size)
    attributes.on_descriptor(entry, fd)
    target.name(entry)


def _write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:] if at else data, offset + at)
