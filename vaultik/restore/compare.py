"""Look at what is in the target already: of an earlier try, or of the tree that is to be updated.

A file counts as done if it is what the snapshot says by size and time (by its bytes where these can't be
believed); its attributes are mended without fetching anything. What an earlier try noted as done is looked
at in the same way: somebody may have been at it since. Of a file that is half written, what is noted as
being in it is read back and hashed. After this the plan says what has to be fetched, and nothing else is.

What differs is written again where that is allowed: everything in an update, else only what this restore
itself has left there. What somebody else put there stays, and is a failure of its entry.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaultik.restore import ledger, salvage
from vaultik.restore.ledger import Failure, Kind
from vaultik.restore.mend import state_of
from vaultik.restore.target import IN_THE_WAY
from vaultik.snapshot.tree import get_entry, path_of

if TYPE_CHECKING:
    import sqlite3

    from vaultik.restore.attributes import AttributeWriter
    from vaultik.restore.likeness import Likeness
    from vaultik.restore.target import Target
    from vaultik.snapshot.tree import Entry

_KEEP = 1000
_CHANGED = "was changed after it had been restored"
_FIRST = (
    "SELECT min(e.id) FROM entries AS e JOIN wanted AS w ON w.entry = e.id"
    " WHERE e.hardlink = ? AND e.hardlink IS NOT NULL AND e.type <> 'f'"
)


class Comparer:
    """Compares a plan with its target, and settles what is left to do."""

    def __init__(
        self,
        copy: sqlite3.Connection,
        target: Target,
        attributes: AttributeWriter,
        likeness: Likeness,
        *,
        replace: bool,
    ) -> None:
        """Prepare.

        Args:
            copy: the copied snapshot and its plan.
            target: what is looked at; nothing in it is changed.
            attributes: tells whether they agree.
            likeness: tells what is alike.
            replace: whether what differs may be replaced, whoever wrote it.
        """
        self._copy = copy
        self._target = target
        self._attributes = attributes
        self._likeness = likeness
        self._replace = replace
        self._found: list[int] = []
        self._open: list[int] = []
        self._mend: list[tuple[int, bool, str]] = []

    def run(self) -> None:
        """Compare all.

        Raises:
            OSError: the whole target failed.
        """
        self._copy.execute("DELETE FROM mend")
        salvage.settle(self._copy, self._target)
        self._copy.execute("CREATE TEMP TABLE IF NOT EXISTS inodes (inode TEXT PRIMARY KEY) WITHOUT ROWID")
        self._copy.execute("DELETE FROM temp.inodes")
        for of, compare in (
            ("files AS f JOIN entries AS e ON e.id = f.entry WHERE f.entry = f.prime", self._file),
            ("wanted AS w JOIN entries AS e ON e.id = w.entry WHERE e.type NOT IN ('f', 'd')", self._other),
        ):
            query = f"SELECT e.id FROM {of} AND e.id NOT IN (SELECT entry FROM failures) ORDER BY 1"
            for number in ledger.iter_ids(self._copy, query):
                with ledger.guarded(self._copy, number):
                    compare(get_entry(self._copy, number))
                if len(self._found) + len(self._open) >= _KEEP:
                    self._flush()
            self._flush()
        self._parts()
        with ledger.transaction(self._copy):
            ledger.read_again(self._copy)

    def _file(self, entry: Entry) -> None:
        st = self._target.find(entry.id)
        if st is None:
            self._open.append(entry.id)
            return
        directory, name = self._target.place(entry)
        if not self._likeness.same_content(entry, st, directory, name) and not (
            # An earlier try may have left times out, as this one doesn't.
            self._is_done(entry.id) and self._likeness.same_content(entry, st, directory, name, deep=True)
        ):
            self._differs(entry, directory, name)
            return
        path = b"/proc/self/fd/%d/%s" % (directory, name)
        agrees = (
            self._likeness.same_time(entry, st)
            and self._attributes.agree(entry, st, path)
            and not self._attributes.has_surplus_flags(entry, directory, name)
        )
        apart = st.st_nlink > 1 and self._is_shared(entry, st, agrees=agrees)
        if apart or not agrees:
            self._mend.append((entry.id, apart, state_of(st)))
        self._found.append(entry.id)

    def _is_shared(self, entry: Entry, st: os.stat_result, *, agrees: bool) -> bool:
        """Tell whether a file must get an inode of its own before it is right, or before it may be mended."""
        names = self._copy.execute(
            "SELECT ?1 UNION ALL SELECT entry FROM files WHERE prime = ?1 AND entry <> prime", (entry.id,)
        ).fetchall()
        own = sum(
            found is not None and os.path.samestat(found, st) for found in map(self._target.find, (n for (n,) in names))
        )
        if own == st.st_nlink:
            return False
        inode = f"{st.st_dev} {st.st_ino}"
        new = self._copy.execute("INSERT OR IGNORE INTO temp.inodes VALUES (?)", (inode,)).rowcount
        return not agrees or not new

    def _differs(self, entry: Entry, directory: int, name: bytes) -> None:
        """Decide on a file that isn't what the snapshot says."""
        if not self._is_done(entry.id):
            if self._replace or self._likeness.is_ours(entry, directory, name):
                self._open.append(entry.id)
                return
            self._refuse(entry, IN_THE_WAY)
        elif self._likeness.is_ours(entry, directory, name):
            self._open.append(entry.id)
        elif self._replace:
            self._open.append(entry.id)
            ledger.add_note(self._copy, path_of(self._copy, entry.id), f"{_CHANGED}, and was restored again")
        else:
            self._refuse(entry, f"{_CHANGED}, and was left so; --force restores it again")

    def _refuse(self, entry: Entry, reason: str) -> None:
        self._open.append(entry.id)
        ledger.add_failures(self._copy, {entry.id: Failure(Kind.TARGET, reason)})

    def _other(self, entry: Entry) -> None:
        st = self._target.find(entry.id)
        directory, name = self._target.place(entry) if st is not None else (-1, b"")
        if (
            st is not None
            and self._likeness.same_kind(entry, st, directory, name)
            and self._likeness.same_time(entry, st)
            and self._attributes.agree(entry, st, b"/proc/self/fd/%d/%s" % (directory, name))
            and self._is_linked(entry, st)
        ):
            self._found.append(entry.id)
        else:
            self._open.append(entry.id)

    def _is_linked(self, entry: Entry, st: os.stat_result) -> bool:
        """Tell whether a link or special file shares its inode with those that it should, as far as that can be seen."""
        if entry.hardlink is None:
            return st.st_nlink == 1
        (first,) = self._copy.execute(_FIRST, (entry.hardlink,)).fetchone()
        there = self._target.find(first) if first is not None else None
        return there is not None and os.path.samestat(there, st)

    def _is_done(self, entry: int) -> bool:
        return self._copy.execute("SELECT 1 FROM done WHERE entry = ?", (entry,)).fetchone() is not None

    def _flush(self) -> None:
        with ledger.transaction(self._copy):
            self._copy.executemany("INSERT OR IGNORE INTO done VALUES (?, 1)", ((n,) for n in self._found))
            self._copy.executemany("DELETE FROM done WHERE entry = ?", ((n,) for n in self._open))
            self._copy.executemany("INSERT OR REPLACE INTO mend VALUES (?, ?, ?)", self._mend)
        self._found.clear()
        self._open.clear()
        self._mend.clear()

    def _parts(self) -> None:
        """Read back what is noted as written into files that are not finished, and forget what isn't there."""
        for entry in ledger.written_files(self._copy):
            written = {
                row[0] for row in self._copy.execute("SELECT blob FROM written WHERE entry = ? AND complete", (entry,))
            }
            missing = self._missing(get_entry(self._copy, entry), written)
            with ledger.transaction(self._copy):
                self._copy.executemany(
                    "DELETE FROM written WHERE entry = ? AND blob = ?", ((entry, blob) for blob in missing)
                )

    def _missing(self, entry: Entry, written: set[int]) -> set[int]:
        try:
            fd = self._target.find_temporary(entry.id)
        except OSError:
            fd = None
        if fd is None:
            return written
        try:
            return self._likeness.damaged_blobs(entry.hardlink or entry.id, written, fd)
        finally:
            os.close(fd)
