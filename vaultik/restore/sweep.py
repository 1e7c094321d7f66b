"""Leave in a target what the snapshot has, and no leftovers: temporary names, and with --delete all that isn't in it.

Removed is only what was selected, in directories whose contents the snapshot knows: not beside a source (in
a parent that is there for its name alone), not in a directory that couldn't be read, or not every name of it,
not in another mount than the target's, never the target itself, nor what is spared.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.model import Mark
from vaultik.restore import ledger
from vaultik.restore.ledger import Kind
from vaultik.restore.naming import clear_way, stands
from vaultik.restore.remove import IDENTITY, MOUNTED, STORE, Remover, inode_of, names_in
from vaultik.snapshot.tree import get_entry, path_of
from vaultik.store.local import LocalStore

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from vaultik.restore.plan import Selection
    from vaultik.restore.target import Target
    from vaultik.store.base import Store

_DIRECTORIES = (
    "SELECT w.entry FROM wanted AS w JOIN entries AS e ON e.id = w.entry"
    " WHERE e.type = 'd' AND e.id NOT IN (SELECT entry FROM failures) ORDER BY 1"
)
_KEPT = (
    "SELECT 1 FROM failures AS x JOIN files AS f ON f.entry = x.entry"
    f" WHERE x.entry = ? AND x.kind <> {int(Kind.DAMAGED)} AND f.chunks > 1"
)
_KNOWN = (
    "SELECT 1 FROM entries WHERE parent = ?1 AND name = ?2"
    " UNION ALL SELECT 1 FROM salvaged AS s JOIN entries AS e ON e.id = s.entry WHERE e.parent = ?1 AND s.name = ?2"
)
_UNKNOWN = Mark.IMPLIED | Mark.UNREADABLE | Mark.GAP


class Sweeper:
    """Removes what doesn't belong."""

    def __init__(
        self,
        copy: sqlite3.Connection,
        target: Target,
        selection: Selection | None,
        *,
        spare: bytes = b"",
        spared: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        """Prepare.

        Args:
            copy: the copied snapshot and its plan.
            target: the tree.
            selection: what may go of that which the snapshot doesn't have; None for nothing.
            spare: a name at the top that stays.
            spared: what stays, a directory with all that is in it, by device and inode; and why.
        """
        self._copy = copy
        self._target = target
        self._selection = selection
        self._spare = spare
        self._spared = spared or {}
        self._mount = linux.mount_of(target.root_fd)
        self._remover = Remover(self._mount, self._spared, self._may_go, self._note)

    def sweep(self) -> None:
        """Remove it.

        Raises:
            OSError: the whole target failed.
        """
        for number in ledger.iter_ids(self._copy, _DIRECTORIES):
            with ledger.guarded(self._copy, number):
                self._sweep(number)
            self._count()

    def empty(self, directory: int, name: bytes, entry: int) -> None:
        """Remove what may go of a directory that stands where an entry goes which is none."""
        if self._selection is not None:
            self._remover.empty(directory, name, path_of(self._copy, entry))
            self._count()

    def iter_extra(self) -> Iterator[bytes]:
        """Yield the paths that would be removed, a directory's with a slash and without what is below."""
        for number in ledger.iter_ids(self._copy, _DIRECTORIES):
            with suppress(OSError):  # not there (yet), or none that may be looked into
                fd = self._target.directory(number)
                extra = [(path, is_directory) for _, path, is_directory in self._extra(number, fd)]
                for path, is_directory in sorted([*extra, *self._replaced(number, fd)]):
                    if self._may_go(path, is_directory):
                        yield path + (b"/" if is_directory else b"")

    def _sweep(self, number: int) -> None:
        fd = self._target.directory(number)
        for name in names_in(fd):
            entry = self._target.entry_of_temporary(name)
            if entry is not None and self._copy.execute(_KEPT, (entry,)).fetchone() is None:
                clear_way(fd, name)
        for name, path, _ in list(self._extra(number, fd)):
            self._remover.remove(fd, name, path)

    def _extra(self, number: int, fd: int) -> Iterator[tuple[bytes, bytes, bool]]:
        """Yield name, path and whether it is a directory of what the snapshot doesn't have in a directory, or has as something else."""
        entry = get_entry(self._copy, number)
        if self._selection is None or entry.marks & _UNKNOWN:
            return
        if linux.mount_of(fd) != self._mount:
            self._note(path_of(self._copy, number), MOUNTED, failed=False)
            return
        above = path_of(self._copy, number).rstrip(b"/")
        known: set[tuple[int, int]] | None = None
        for name in names_in(fd):
            if self._is_known(number, name) or (number == self._target.root and name == self._spare):
                continue
            if known is None:
                known = self._inodes(number, fd)
            st = stands(fd, name)
            # A file system may call something by another name than the one that it was given.
            alias = (
                st is not None and (st.st_dev, st.st_ino) in known and (stat.S_ISDIR(st.st_mode) or st.st_nlink == 1)
            )
            if st is None or alias or self._target.entry_of_temporary(name) is not None:
                continue
            if (why := self._spared.get(inode_of(st))) is not None:
                self._note(above + b"/" + name, why, failed=False)
            else:
                yield name, above + b"/" + name, stat.S_ISDIR(st.st_mode)

    def _replaced(self, number: int, fd: int) -> Iterator[tuple[bytes, bool]]:
        """Yield directories that stand where the snapshot has something else."""
        query = (
            "SELECT e.name FROM entries AS e JOIN wanted AS w ON w.entry = e.id WHERE e.parent = ? AND e.type <> 'd'"
        )
        for (name,) in self._copy.execute(query, (number,)).fetchall():
            st = stands(fd, name)
            if st is not None and stat.S_ISDIR(st.st_mode):
                yield path_of(self._copy, number).rstrip(b"/") + b"/" + name, True

    def _is_known(self, directory: int, name: bytes) -> bool:
        return self._copy.execute(_KNOWN, (directory, name)).fetchone() is not None

    def _inodes(self, directory: int, fd: int) -> set[tuple[int, int]]:
        """Return the inodes of what the snapshot has in a directory."""
        names = self._copy.execute("SELECT name FROM entries WHERE parent = ?", (directory,)).fetchall()
        found = (stands(fd, name) for (name,) in names)
        return {inode_of(st) for st in found if st is not None}

    def _may_go(self, path: bytes, is_directory: bool) -> bool:  # noqa: FBT001 - a callback
        return self._selection is not None and self._selection.fit(path, is_directory=is_directory)

    def _note(self, path: bytes, text: str, failed: bool) -> None:  # noqa: FBT001 - a callback
        ledger.add_note(self._copy, path, text, failed=failed)

    def _count(self) -> None:
        if self._remover.removed:
            self._copy.execute("INSERT INTO removed VALUES (?)", (self._remover.removed,))
            self._remover.removed = 0


def spared_inodes(store: Store, identities: Iterable[Path]) -> dict[tuple[int, int], str]:
    """Return what no restore removes, by device and inode, and why: no snapshot has what it is restored with."""
    stores = store.directories if isinstance(store, LocalStore) else ()
    found = {}
    for paths, why in ((stores, STORE), (identities, IDENTITY)):
        for path in paths:
            with suppress(OSError):
                found[inode_of(path.stat())] = why
    return found
