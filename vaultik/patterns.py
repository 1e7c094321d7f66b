"""gitignore patterns: the one way they are compiled, and what is wrong with one that is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HINT = "patterns follow the rules of .gitignore"


class Patterns:
    """Compiled patterns: the last one that fits decides, `!` takes back."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile them.

        Raises:
            ValueError: one is none.
        """
        import pathspec  # noqa: PLC0415 - 35 ms, and most runs have no pattern

        try:
            self._spec = pathspec.GitIgnoreSpec.from_lines(patterns)
        except re.error as exc:
            raise ValueError(f"a range or bracket in it is malformed: {exc}") from exc

    def fit(self, path: str) -> bool:
        """Tell whether a path without its leading slash fits; a directory's ends in one."""
        return self._spec.match_file(path)
