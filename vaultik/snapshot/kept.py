"""Layers that were put together for one snapshot, for others that stand on the same: of a source most do.

What is kept is a database of one's own, made from objects that were checked; it lies in a private temporary directory and ends with it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class KeptLayers:
    """The layers that were put together last, in a file."""

    def __init__(self, path: Path) -> None:
        """Name the file, in a private directory; nothing is there yet."""
        self._path = path
        self._layers: list[bytes] = []

    def begin(self, layers: Sequence[bytes], copy: Path) -> int:
        """Begin a copy, at a path where nothing is, with what is kept, if all of it belongs below the copy.

        Returns:
            How many of the layers are in it; 0 if none are, and nothing was made.

        Raises:
            OSError: the disk is full.
        """
        count = len(self._layers)
        if not count or list(layers[:count]) != self._layers:
            return 0
        fd = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with self._path.open("rb") as source, os.fdopen(fd, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return count

    def keep(self, layers: Sequence[bytes], copy: Path) -> None:
        """Keep a copy into which these layers were put and nothing else yet, which nobody has open.

        Raises:
            OSError: the disk is full.
        """
        if list(layers) != self._layers:
            self._layers = []
            shutil.copyfile(copy, self._path)
            self._layers = list(layers)
