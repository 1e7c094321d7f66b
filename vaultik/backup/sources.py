"""The configured sources: whether each is there, and the way from / to it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vaultik.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Ways = dict[bytes, "Ways | None"]
"""Names in a directory that lead to sources; None is a source itself."""


def find_ways(sources: Iterable[bytes]) -> Ways:
    """Check the sources (absolute, normal paths, none below another) and return the ways from / to them.

    Raises:
        SourceError: one is missing, neither a directory nor a regular file, or reached through a symlink.
    """
    ways: Ways = {}
    for source in sorted(sources):
        check_source(source)
        at = ways
        names = [name for name in source.split(b"/") if name]
        for name in names[:-1]:
            below = at.setdefault(name, {})
            assert below is not None
            at = below
        if names:
            at[names[-1]] = None
    return ways


def stat_ways(fd: int, directory: bytes, ways: Mapping[bytes, Ways | None]) -> dict[bytes, os.stat_result]:
    """Return the lstat of every name in an open directory that leads to a source.

    Raises:
        SourceError: one is gone since it was checked, or isn't what it was.
    """
    found = {}
    for name, below in ways.items():
        path = directory.rstrip(b"/") + b"/" + name
        try:
            st = found[name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as exc:
            raise missing(path, exc) from exc
        if not (stat.S_ISDIR(st.st_mode) or (below is None and stat.S_ISREG(st.st_mode))):
            raise _unfit(path)
    return found


def missing(source: bytes, exc: OSError) -> SourceError:
    """Return the error of a source that can't be looked into."""
    return SourceError(
        f"source {os.fsdecode(source)}: {exc.strerror}",
        hint="nothing was backed up; correct source_dirs or mount what is missing",
    )


def check_source(source: bytes) -> None:
    """Check that a source is there and stands where its path says.

    Raises:
        SourceError: it is missing, neither a directory nor a regular file, or reached through a symlink.
    """
    try:
        st = os.lstat(source)
        real = os.path.realpath(source, strict=True)
    except OSError as exc:
        raise missing(source, exc) from exc
    if real != source or stat.S_ISLNK(st.st_mode):
        raise SourceError(
            f"source {os.fsdecode(source)}: its path leads through a symbolic link",
            hint=f"name {os.fsdecode(real)} instead",
        )
    if not (stat.S_ISDIR(st.st_mode) or stat.S_ISREG(st.st_mode)):
        raise _unfit(source)


def _unfit(source: bytes) -> SourceError:
    return SourceError(
        f"source {os.fsdecode(source)}: neither a directory nor a regular file", hint="name the directory that holds it"
    )
