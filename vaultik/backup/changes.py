"""Where a source may have changed since its last scan: what a watcher tells a scan."""

from __future__ import annotations

from typing import NamedTuple


class Changes(NamedTuple):
    """Paths, absolute, below or equal to a source directory. What lies elsewhere is taken from the index."""

    directories: frozenset[bytes] = frozenset()
    """The directory itself and its entries are looked at, but not what lies below directories in it."""
    trees: frozenset[bytes] = frozenset()
    """It is looked at with everything below: it appeared, or was moved here."""

    def __bool__(self) -> bool:
        """Tell whether anything is dirty."""
        return bool(self.directories or self.trees)

    def __or__(self, other: Changes) -> Changes:
        """Return what is dirty in either: a failed run's changes go into the next."""
        return Changes(self.directories | other.directories, self.trees | other.trees)
