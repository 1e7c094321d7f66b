"""Which paths stay out of a backup: gitignore rules, cache tags, marker files, vaultik's own files."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from vaultik.ignore import IgnoreRules
from vaultik.snapshot.write import plain_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vaultik.config import Config

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"


_BESIDE_INDEX = ("", "-wal", "-shm", ".lock", ".source", ".pid")


def excludes_of(config: Config) -> Excludes:
    """Return a config's rules.

    Raises:
        ConfigError: a pattern can never fit.
    """
    return Excludes(
        config.exclude,
        caches=config.exclude_caches,
        if_present=config.exclude_if_present,
        nodump=config.exclude_nodump,
        own=own_paths(config),
    )


def own_paths(config: Config) -> list[Path]:
    """Return the files and directories of vaultik's own, of which no backup is made."""
    index_path = config.index_path
    beside = [index_path.with_name(index_path.name + end) for end in _BESIDE_INDEX]
    store = [config.local_store] if config.local_store else []
    return [*beside, plain_path(index_path), config.spool_dir, *store]


class Excludes:
    """The rules of one config, asked once per path.

    Patterns follow gitignore: the last one that fits wins, `!` takes a path in again, but not below
    a directory that is left out. Anchored patterns (with a slash) count from "/".
    """

    def __init__(
        self,
        patterns: Sequence[str] = (),
        *,
        caches: bool = False,
        if_present: Sequence[str] = (),
        nodump: bool = False,
        own: Iterable[Path] = (),
    ) -> None:
        """Compile the rules.

        Args:
            patterns: gitignore lines, as the config was checked for.
            caches: leave out what lies in directories with a valid CACHEDIR.TAG (but the tag).
            if_present: leave out what lies in directories that hold a file of such a name (but it).
            nodump: leave out files and directories with the flag of `chattr +d` (who looks at them does so).
            own: files and directories of vaultik's own, left out wherever they are met.

        Raises:
            ConfigError: a pattern can never fit.
        """
        self._rules = IgnoreRules(patterns)
        self._caches = caches
        self.nodump = nodump
        """Whether the flag of `chattr +d` is heeded."""
        self._markers = [os.fsencode(name) for name in if_present]
        own = list(own)
        self._own = set(_identities(own))
        self._own_names = {os.path.join(os.path.realpath(os.fsencode(p.parent)), os.fsencode(p.name)) for p in own}  # noqa: PTH118 - bytes
        self.markers = frozenset([*self._markers, *([CACHE_TAG] if caches else [])])
        """Names of files that may keep what stands beside them out."""

    def is_own(self, path: bytes) -> bool:
        """Tell whether a path is one of vaultik's own, there or not."""
        return path in self._own_names

    def excludes_name(self, path: bytes, *, is_directory: bool) -> bool:
        """Tell whether the patterns alone leave an absolute path out."""
        return self._rules.fits(os.fsdecode(path[1:]), is_directory=is_directory)

    def excludes(self, path: bytes, st: os.stat_result) -> bool:
        """Tell whether the entry at an absolute path stays out."""
        if (st.st_dev, st.st_ino) in self._own:
            return True
        return self.excludes_name(path, is_directory=stat.S_ISDIR(st.st_mode))

    def tag_of(self, directory: int, names: Sequence[bytes]) -> bytes | None:
        """Return the name of the file that keeps a directory's other contents out, if one does.

        Args:
            directory: its open descriptor.
            names: what it holds.
        """
        for marker in self._markers:
            if marker in names:
                return marker
        if self._caches and CACHE_TAG in names and _has_signature(directory):
            return CACHE_TAG
        return None

    def find_tag(self, directory: int) -> bytes | None:
        """Return the same of an open directory that was not listed."""
        present = [name for name in self.markers if _stands_in(directory, name)]
        return self.tag_of(directory, present) if present else None


def _stands_in(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _identities(paths: Iterable[Path]) -> Iterable[tuple[int, int]]:
    for path in paths:
        try:
            st = path.stat()
        except OSError:
            continue
        yield st.st_dev, st.st_ino


def _has_signature(directory: int) -> bool:
    try:
        fd = os.open(CACHE_TAG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)
