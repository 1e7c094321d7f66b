"""Names of files that are on no disk: the output of `commands`, or what comes from standard input.

Such a file has an absolute path in the snapshot, beside what the sources hold. Which directories on the
way to it are made up follows from the names alone: those below the last one that is a source or leads to
one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_LONGEST_NAME = 255
_OUTSIDE = "a path that is in no source and leads to none, such as /dumps/db.sql"


def name_fault(name: str, sources: Iterable[bytes], taken: Iterable[bytes]) -> tuple[str, str] | None:
    """Return what is wrong with a stream's name and what to do, None if it can be one.

    Args:
        name: as it was given.
        sources: the source directories, absolute and normal.
        taken: names of other streams.
    """
    path = os.fsencode(name)
    if not path.startswith(b"/") or path != os.path.normpath(path) or path.startswith(b"//") or path == b"/":
        return f"{name!r} is not the absolute path of a file", "such as /dumps/db.sql, without . and .."
    if b"\0" in path or any(len(part) > _LONGEST_NAME for part in path.split(b"/")):
        return f"{name!r} can't be a file's path", f"names of 1 to {_LONGEST_NAME} bytes"
    for other in taken:
        if path == other or _is_below(path, other) or _is_below(other, path):
            return f"{name} is taken by a command of the config: {os.fsdecode(other)}", "each has a path of its own"
    for source in sources:
        if path == source or _is_below(source, path):
            return f"{name} is a source, or leads to one", _OUTSIDE
        if _is_below(path, source):
            return f"{name} lies in the source {os.fsdecode(source)}", _OUTSIDE
    return None


def made_up(path: bytes, sources: Collection[bytes]) -> list[bytes]:
    """Return the directories on the way to a stream that no scan knows, from the top."""
    parents = [path[:at] for at in range(1, len(path)) if path[at : at + 1] == b"/"]
    return [at for at in parents if not any(at == s or _is_below(s, at) for s in sources)]


def _is_below(path: bytes, other: bytes) -> bool:
    return path != other and path.startswith(other.rstrip(b"/") + b"/")
