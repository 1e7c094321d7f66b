"""Paths of a copied snapshot's entries, for who goes through its rows in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    import sqlite3

_KEPT_BYTES = 16 << 20
_EACH_BYTES = 100
"""What a path in the memory takes besides its own bytes, about."""


class Paths:
    """Gives whole paths. Those of directories are remembered, in bounded memory."""

    def __init__(self, copy: sqlite3.Connection, schema: str = "main") -> None:
        """Name the copy: a connection, and the schema under which it is attached there."""
        self._copy = copy
        self._query = f"SELECT parent, name FROM {schema}.entries WHERE id = ?"
        self._known: dict[int, bytes] = {}
        self._bytes = 0

    def of(self, parent: int | None, name: bytes) -> bytes:
        """Return the absolute path of the entry with this name in a directory; of the root, `/`."""
        return self._directory(parent) + b"/" + name if parent is not None else b"/"

    def directory(self, directory: int) -> bytes:
        """Return the absolute path of a directory."""
        return self._directory(directory) or b"/"

    def _directory(self, directory: int) -> bytes:
        """Return a directory's path without a slash at its end: the root's is empty."""
        missing = []
        while directory != ROOT and directory not in self._known:
            parent, name = self._copy.execute(self._query, (directory,)).fetchone()
            missing.append((directory, name))
            directory = parent
        path = b"" if directory == ROOT else self._known[directory]
        for directory, name in reversed(missing):
            path = path + b"/" + name
            if self._bytes > _KEPT_BYTES:
                self._known.clear()
                self._bytes = 0
            self._known[directory] = path
            self._bytes += len(path) + _EACH_BYTES
        return path
