"""Files in the spool as Luigi targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import luigi

if TYPE_CHECKING:
    from pathlib import Path


class SpoolTarget(luigi.Target):
    """A sealed file on its way out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Tell whether the file is in the spool."""
        return self.path.exists()
