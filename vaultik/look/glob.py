"""Paths with wildcards in a copied snapshot, as a shell has them: `*`, `?` and `[...]` in a name, `**` over any number of names."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from vaultik.errors import SelectionError
from vaultik.snapshot.tree import ROOT, Entry, find_entry, get_entry, iter_children

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_WILD = re.compile(rb"[*?\[]")
_ANY_DEPTH = b"**"


def is_glob(path: bytes) -> bool:
    """Tell whether a path has wildcards in it."""
    return _WILD.search(path) is not None


def iter_glob(copy: sqlite3.Connection, pattern: bytes) -> Iterator[tuple[bytes, Entry]]:
    """Yield the entries that fit a path with wildcards, each once, with their paths, in the order of a walk.

    A leading dot is a character as any other: what is looked for in a backup is often hidden.

    Raises:
        SelectionError: none does.
    """
    names = _Names(pattern)
    path = bytearray(b"/")
    ends: list[int] = []
    root = get_entry(copy, ROOT)
    stack = [(iter([root]), frozenset[int]())]
    is_empty = True
    while stack:
        entries, places = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            if ends:
                del path[ends.pop() :]
            continue
        # What is on top of the stack is in the directory at `path`; the root alone is in none.
        here = names.first if entry.id == ROOT else names.after(places, entry.name)
        found = bytes(path) + entry.name
        if names.end in here:
            is_empty = False
            yield found, entry
        if entry.type == "d" and here - {names.end}:
            ends.append(len(path))
            path += entry.name + (b"/" if entry.name else b"")
            stack.append((_children(copy, entry.id, names.only(here)), here))
    if is_empty:
        raise SelectionError(
            f"path {pattern.decode('utf-8', 'backslashreplace')}: nothing in this snapshot fits",
            hint="* stays within a name, ** goes over any number of them; vaultik find looks for a name anywhere",
        )


def _children(copy: sqlite3.Connection, directory: int, only: bytes | None) -> Iterator[Entry]:
    if only is None:
        return iter_children(copy, directory)
    child = find_entry(copy, directory, only)
    return iter([child] if child else [])


class _Names:
    """The names of a pattern. Where a path stands in them are several places at once, because of `**`."""

    def __init__(self, pattern: bytes) -> None:
        self._names = [name for name in pattern.split(b"/") if name not in (b"", b".")]
        self._fit = [re.compile(fnmatch.translate(_text(name))) for name in self._names]
        self.end = len(self._names)
        """The place of what fits."""
        self.first = self._closed({0})

    def after(self, places: frozenset[int], name: bytes) -> frozenset[int]:
        """Return the places after one more name."""
        text = _text(name)
        found = set()
        for place in places - {self.end}:
            if self._names[place] == _ANY_DEPTH:
                found.add(place)
            elif self._fit[place].match(text):
                found.add(place + 1)
        return self._closed(found)

    def only(self, places: frozenset[int]) -> bytes | None:
        """Return the one name that may follow, None if there may be others."""
        (place, *others) = places - {self.end}
        return None if others or is_glob(self._names[place]) else self._names[place]

    def _closed(self, places: set[int]) -> frozenset[int]:
        todo = list(places)
        while todo:
            place = todo.pop()
            if place < self.end and self._names[place] == _ANY_DEPTH and place + 1 not in places:
                places.add(place + 1)
                todo.append(place + 1)
        return frozenset(places)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
