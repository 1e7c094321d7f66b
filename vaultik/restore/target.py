"""Where restored entries go: directories under the target, reached by descriptors, never through a symlink.

What gets its own name here replaces what stood there at once, if that may be replaced at all: whatever it is
in an update, else only what a restore of the same thing has left there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaultik.directories import OPEN_DIRECTORY, DirectoryCache
from vaultik.errors import RestoreError, UnsafePathError
from vaultik.restore.naming import clear_way, remove_directory, rename, rename_new, stands
from vaultik.snapshot.read import disk_errors

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vaultik.snapshot.tree import Entry

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FATAL = frozenset(
    [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENODEV]
)
IN_THE_WAY = "something else stands there; --force replaces it"
FULL_DIRECTORY = "a directory that isn't empty stands there; --delete removes it, if all in it was selected"


class Target:
    """The tree that is being written."""

    def __init__(
        self,
        copy: sqlite3.Connection,
        path: Path,
        root: int,
        token: str,
        alias: tuple[int, bytes] | None = None,
        *,
        may_replace: Callable[[Entry, int, bytes], bool] = lambda _entry, _directory, _name: True,
    ) -> None:
        """Open a target directory.

        Args:
            copy: the copied snapshot, for names.
            path: the directory.
            root: the entry whose contents stand directly in it.
            token: this restore's part of temporary names.
            alias: an entry that stands in it under another name.
            may_replace: tells of an entry whether what stands under its name may give way.

        Raises:
            RestoreError: it can't be opened.
        """
        self._copy = copy
        self._alias = alias
        self._prefix = b".vaultik-%s-" % token.encode()
        self._may_replace = may_replace
        self.empty: Callable[[int, bytes, int], None] = lambda _directory, _name, _entry: None
        """Removes what may go of a directory that stands where an entry goes which is none."""
        self.root = root
        with target_errors(path):
            self.root_fd = os.open(path, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
        self._cache = DirectoryCache(root, self.root_fd, self._parent_and_name)

    def directory(self, entry: int) -> int:
        """Return a descriptor of a directory, good until the next call."""
        return self._cache.open(entry)

    def place(self, entry: int | Entry) -> tuple[int, bytes]:
        """Return where an entry stands: its directory's descriptor, good until the next call, and its name there."""
        if self._alias is not None and _id_of(entry) == self._alias[0]:
            return self.root_fd, self._alias[1]
        parent, name = self._parent_and_name(entry)
        return self._cache.open(parent), name

    def temporary(self, entry: int | Entry) -> tuple[int, bytes]:
        """Return where a file is written until every byte of it is verified; nobody else has that name."""
        directory, _ = self.place(entry)
        return directory, self._temporary_name(_id_of(entry))

    def _temporary_name(self, entry: int) -> bytes:
        return b"%s%d" % (self._prefix, entry)

    def entry_of_temporary(self, name: bytes) -> int | None:
        """Return the entry that a name is the temporary one of, None if it is another name."""
        number = name.removeprefix(self._prefix)
        return int(number) if len(number) < len(name) and number.isdigit() else None

    def find(self, entry: int) -> os.stat_result | None:
        """Return what stands under an entry's own name, None if nothing does, or its directory isn't there.

        Raises:
            OSError: that can't be told.
        """
        try:
            return stands(*self.place(entry))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
            return None

    def name(self, entry: Entry) -> None:
        """Give what stands under an entry's temporary name its own, in place of what may give way.

        Raises:
            OSError: something stands there that may not.
        """
        directory, name = self.place(entry)
        temporary = self._temporary_name(entry.id)
        if rename_new(directory, temporary, name):
            return
        if not self._may_replace(entry, directory, name):
            raise FileExistsError(errno.EEXIST, IN_THE_WAY)
        try:
            rename(directory, temporary, name)
        except (IsADirectoryError, PermissionError) as exc:
            # Of one that is immutable the kernel says that first.
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
            self.empty(directory, name, entry.id)
            try:
                remove_directory(directory, name)
            except OSError as stays:
                raise (
                    IsADirectoryError(errno.EISDIR, FULL_DIRECTORY) if stays.errno == errno.ENOTEMPTY else exc
                ) from None
            rename(directory, temporary, name)

    def make_directory(self, entry: Entry) -> bool:
        """Make a directory, private until its attributes are set; one that is there is kept. Tells whether it was made.

        Raises:
            OSError: it can't be made, or something stands there that may not give way.
        """
        directory, name = self.place(entry)
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return False
            if not self._may_replace(entry, directory, name):
                raise FileExistsError(errno.EEXIST, IN_THE_WAY) from None
            clear_way(directory, name)
            os.mkdir(name, 0o700, dir_fd=directory)
        return True

    def make_temporary(self, entry: Entry) -> int:
        """Make and open a file under its temporary name, empty; what stood there is removed.

        Raises:
            OSError: it can't be made.
        """
        directory, name = self.temporary(entry)
        try:
            return os.open(name, _CREATE, 0o600, dir_fd=directory)
        except FileExistsError:
            clear_way(directory, name)
            return os.open(name, _CREATE, 0o600, dir_fd=directory)

    def open_part(self, entry: int) -> tuple[int, bool]:
        """Open a file under its temporary name; tells whether it had to be made.

        What stands there and isn't this user's any more, since it was to get its name already, is made anew.

        Raises:
            OSError: it can't be made.
        """
        try:
            fd = self.find_temporary(entry)
        except PermissionError:
            self.remove_temporary(entry)
            fd = None
        if fd is not None:
            return fd, False
        directory, name = self.temporary(entry)
        return os.open(name, _CREATE, 0o600, dir_fd=directory), True

    def find_temporary(self, entry: int) -> int | None:
        """Open the file that stands under an entry's temporary name, if one does.

        Raises:
            OSError: it isn't what was written before.
        """
        directory, name = self.temporary(entry)
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return None
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_nlink != 1 or st.st_uid != os.geteuid():
            os.close(fd)
            raise PermissionError(errno.EPERM, "somebody else's file is in the way")
        return fd

    def remove_temporary(self, entry: int) -> None:
        """Remove what was written of a file that is given up."""
        clear_way(*self.temporary(entry))

    def close(self) -> None:
        """Close every descriptor."""
        self._cache.close()
        os.close(self.root_fd)

    def _parent_and_name(self, entry: int | Entry) -> tuple[int, bytes]:
        if isinstance(entry, int):
            parent, name = self._copy.execute("SELECT parent, name FROM entries WHERE id = ?", (entry,)).fetchone()
        else:
            parent, name = entry.parent, entry.name
        # The copy's rules hold this; it is looked at once more where it would do harm.
        if parent is None or name in (b"", b".", b"..") or b"/" in name:
            raise UnsafePathError(f"entry {_id_of(entry)}: its name would lead out of the target")
        return parent, name


def _id_of(entry: int | Entry) -> int:
    return entry if isinstance(entry, int) else entry.id


def names_in(path: Path) -> set[str]:
    """Return what stands in a target directory; one that can still be made is empty.

    Raises:
        RestoreError: it is no directory.
        OSError: it can't be listed, or couldn't be made.
    """
    if os.path.lexists(path):
        if not path.is_dir():
            raise RestoreError(f"target {path}: not a directory", hint="name an empty or new directory")
        return {entry.name for entry in path.iterdir()}
    above = next(parent for parent in path.parents if os.path.lexists(parent))
    if not above.is_dir():
        raise RestoreError(f"target {path}: {above} is not a directory", hint="name an empty or new directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(above))
    return set()


def make_directories(path: Path) -> list[Path]:
    """Make a directory and what leads to it. Returns those that were made, deepest first."""
    missing = [at for at in (path, *path.parents) if not os.path.lexists(at)]
    made: list[Path] = []
    try:
        for at in reversed(missing):
            at.mkdir()
            made.insert(0, at)
    except OSError:
        for at in made:
            at.rmdir()
        raise
    return made


def is_fatal(exc: OSError) -> bool:
    """Tell whether an error is the whole target's and not one entry's."""
    return exc.errno in _FATAL


@contextmanager
def target_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors, and those of the database in the target, into RestoreError that names the target."""
    try:
        with disk_errors(path):
            yield
    except OSError as exc:
        named = os.fsdecode(exc.filename) if isinstance(exc.filename, bytes | str) else ""
        where = "" if named in ("", os.fspath(path)) else f"{named}: "
        raise RestoreError(f"target {path}: {where}{exc.strerror or exc}", hint=_HINTS.get(exc.errno or 0)) from exc


_FULL = "free some space; the same command continues"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: "make the directory that shall hold it first",
    errno.EACCES: "name a place where this user may write",
    errno.EROFS: "name a place that can be written",
    errno.EIO: "the same command continues once that is mended",
}
