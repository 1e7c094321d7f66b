"""The embedded store: objects as files below a directory, as careful as S3.

`file:///dir` is the endpoint, a bucket a folder under it, a key the path below. Invariants: a name
appears only with all its bytes on the disk, and never changes after (write or link aside, fsync, rename unless taken,
fsync the directory); what is brought aside lies in the bucket's folder, begins with `.tmp-` and is in
no listing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING, BinaryIO

from vaultik.directories import sync_directory
from vaultik.errors import (
    IntegrityError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
)
from vaultik.linux import boottime
from vaultik.store.base import ByteStream, Listing, ObjectInfo
from vaultik.store.clock import StoreClock
from vaultik.store.local_file import bring, publish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vaultik.store.pace import Pace

_ASIDE = ".tmp-"
_LEFT_S = 86_400
"""No put takes a day: what is written aside and this old was left by a kill."""

_BROKEN = (errno.EISDIR, errno.EIO, errno.EUCLEAN)
"""This object can't be read; others may be."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""The file system, or the kernel, has none but files with names."""


class LocalStore:
    """A bucket folder and prefix under an endpoint directory."""

    can_lock = False

    def __init__(
        self, endpoint: Path, bucket: str, prefix: str, *, create: bool = False, pace: Pace | None = None
    ) -> None:
        """Name the place; nothing is made yet.

        Args:
            endpoint: directory that holds the buckets.
            bucket: folder in it.
            prefix: path in the bucket, empty or with a trailing slash.
            create: make the bucket's folder when it is first looked at.
            pace: how fast it may be written to; None is as fast as it goes.
        """
        self._pace = pace
        self._create = create
        self._endpoint = endpoint
        self._bucket = endpoint / bucket
        self._root = self._bucket / prefix if prefix else self._bucket
        self._prefix = prefix
        self._clock = StoreClock()
        self._swept = False

    @property
    def location(self) -> str:
        """Endpoint, bucket and prefix in one line."""
        return f"file://{self._endpoint} {self._bucket.name} {self._prefix}"

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it lies: the endpoint, the bucket's folder, the prefix's."""
        return (self._endpoint, self._bucket, self._root)

    def now(self) -> float:
        """Return the time of the file system that holds the bucket."""
        return self._clock.now(self._touch)

    def ask_time(self) -> float:
        """Return that time as a file that is written just now has it."""
        return self._clock.ask(self._touch)

    def put(self, key: str, body: Path | bytes, *, sha256: bytes, until: float | None = None) -> bool:
        """Store an object unless one stands there (see `Store.put`).

        Raises:
            DigestMismatchError: the body isn't what `sha256` says; nothing is stored.
        """
        with self._mapped(key, broken=StoreUnavailableError):
            if self._path(key).exists():
                # Maybe a killed process put it there and didn't get to this.
                sync_directory(self._path(key).parent)
                return False
            self._make_directories(self._path(key).parent)
            aside = self._aside()
            try:
                bring(aside, body, sha256, key, self._pace)
                self._clock.tell(aside.stat().st_mtime)
                if until is not None and boottime() > until:
                    raise StoreUnavailableError(f"store {self._endpoint}: {key}: took too long to write")
                return publish(aside, self._path(key))
            finally:
                aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[ByteStream]:
        """Open an object or a range of it (see `Store.open`)."""
        with self._mapped(key):
            self._check_bucket()
            file = self._path(key).open("rb")
        with file:
            yield _Range(file, offset, length, self.location, key)

    def head(self, key: str) -> ObjectInfo | None:
        """Return size and time of an object, None if there is none. What is found is durable."""
        with self._mapped(key):
            try:
                st = self._path(key).lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(st.st_mode):
                return None
            sync_directory(self._path(key).parent)
            return ObjectInfo(key, st.st_size, st.st_mtime)

    def look_behind(self, key: str, sha256: bytes) -> ObjectInfo | None:  # noqa: ARG002 - no versions are kept
        """Return None: a directory has no older versions."""
        return None

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with `prefix`, ascending."""
        directory, _, start = prefix.rpartition("/")
        self._check_bucket()
        yield from self._below(f"{directory}/" if directory else "", start)

    def children(self, prefix: str = "") -> Listing:
        """Return one level below `prefix`."""
        self._check_bucket()
        listing = Listing([], [])
        for name, entry in self._level(prefix):
            if name.endswith("/"):
                listing.prefixes.append(prefix + name)
            else:
                listing.objects.append(self._info(prefix + name, entry))
        return listing

    def retention(self, key: str) -> None:  # noqa: ARG002 - no locks
        """Return None: a directory locks nothing."""
        return

    def retain(self, key: str, mode: str, until: float) -> bool:  # noqa: ARG002 - no locks
        """Refuse: a directory locks nothing."""
        raise StoreError(f"store {self._endpoint}: a directory has no locks")

    def rights(self, key: str, body: bytes) -> None:  # noqa: ARG002 - no credentials
        """Return None: a directory has no credentials."""
        return

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """Delete objects, durably: what is deleted after must not go before. Gives the reason for each that could not be."""
        failed = {}
        touched: dict[Path, list[str]] = {}
        for key in keys:
            try:
                self._path(key).unlink(missing_ok=True)
                touched.setdefault(self._path(key).parent, []).append(key)
            except OSError as exc:
                failed[key] = exc.strerror or str(exc)
        for directory, gone in touched.items():
            try:
                sync_directory(directory)
            except FileNotFoundError:
                continue
            except OSError as exc:
                failed |= dict.fromkeys(gone, exc.strerror or str(exc))
        return failed

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> Path:
        return self._root / key

    def _check_bucket(self) -> None:
        self._check_endpoint()
        if self._create:
            self._make_directories(self._bucket)
        if not self._bucket.is_dir():
            raise StoreAccessError(f"store {self._endpoint}: no bucket {self._bucket.name}", hint=self._hint())

    def _check_endpoint(self) -> None:
        if not self._endpoint.is_dir():
            raise StoreAccessError(
                f"store {self._endpoint}: no such directory", hint="mount or make it, or correct the endpoint"
            )

    def _hint(self) -> str:
        names = sorted(entry.name for entry in os.scandir(self._endpoint) if entry.is_dir())[:10]
        return f"there are: {', '.join(names)}" if names else "is the disk mounted? only a host's first backup makes it"

    def _make_directories(self, directory: Path) -> Path:
        """Make a directory and what leads to it, each durable before the next."""
        self._check_endpoint()
        if not self._create and not self._bucket.is_dir():
            raise StoreAccessError(f"store {self._endpoint}: no bucket {self._bucket.name}", hint=self._hint())
        missing = []
        at = directory
        while not at.is_dir():
            missing.append(at)
            at = at.parent
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
        return directory

    def _aside(self) -> Path:
        """Return a new name to write under; the first time, what a killed process left long ago is removed."""
        if not self._swept:
            self._swept = True
            for left in self._bucket.glob(f"{_ASIDE}*"):
                with contextlib.suppress(OSError):
                    if time.time() - left.lstat().st_mtime > _LEFT_S:
                        left.unlink()
        return self._bucket / f"{_ASIDE}{secrets.token_hex(8)}"

    def _touch(self) -> None:
        self._check_endpoint()
        with self._mapped("the clock", broken=StoreUnavailableError):
            try:
                fd = self._new_file()
            except OSError as exc:
                if exc.errno not in _REFUSED:
                    raise
                # Read only: the directory is this machine's, and so is its clock.
                self._clock.tell(time.time())
                return
            self._clock.tell(os.fstat(fd).st_mtime)
            os.close(fd)

    def _new_file(self) -> int:
        """Return a file that has no name, now or soon."""
        directory = self._bucket if self._bucket.is_dir() else self._endpoint
        try:
            return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if exc.errno not in _NO_NAMELESS:
                raise
        path = directory / f"{_ASIDE}{secrets.token_hex(8)}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        path.unlink()
        return fd

    def _below(self, prefix: str, start: str) -> Iterator[ObjectInfo]:
        for name, entry in self._level(prefix):
            if not name.startswith(start) and not start.startswith(name):
                continue
            if name.endswith("/"):
                yield from self._below(prefix + name, start[len(name) :])
            elif name.startswith(start):
                yield self._info(prefix + name, entry)

    def _level(self, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """Return the names of one level in the order of their keys: directories as `name/`."""
        with self._mapped(prefix or "the listing"):
            try:
                with os.scandir(self._root / prefix) as found:
                    entries = [(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in found]
            except (FileNotFoundError, NotADirectoryError):
                return []
        entries = [(name, entry) for name, entry in entries if not name.startswith(_ASIDE)]
        return sorted(entries, key=lambda item: os.fsencode(item[0]))

    def _info(self, key: str, entry: os.DirEntry[str]) -> ObjectInfo:
        with self._mapped(key):
            st = entry.stat(follow_symlinks=False)
            return ObjectInfo(key, st.st_size, st.st_mtime)

    @contextlib.contextmanager
    def _mapped(self, what: str, broken: type[StoreError | IntegrityError] = IntegrityError) -> Iterator[None]:
        """Name what the disk says; one that is broken has damaged what is read, and not what can't be written."""
        try:
            yield
        except FileNotFoundError as exc:
            raise ObjectNotFoundError(f"store {self._endpoint}: {what}: no such object") from exc
        except OSError as exc:
            raise _error(exc, f"store {self._endpoint}: {what}", broken) from exc


class _Range:
    """A part of a file."""

    def __init__(self, file: BinaryIO, offset: int, length: int | None, location: str, key: str) -> None:
        # No file system goes as far as a row of somebody's snapshot may say.
        file.seek(min(offset, file.seek(0, os.SEEK_END)))
        self._file = file
        self._left = length
        self._what = f"store {location.split(maxsplit=1)[0]}: {key}"

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        wanted = size if self._left is None else self._left if size < 0 else min(size, self._left)
        try:
            data = self._file.read(wanted)
        except OSError as exc:
            raise _error(exc, self._what) from exc
        if self._left is not None:
            self._left -= len(data)
        return data


def _error(
    exc: OSError, what: str, broken: type[StoreError | IntegrityError] = IntegrityError
) -> StoreError | IntegrityError:
    reason = f"{what}: {exc.strerror or exc}"
    if exc.errno in _BROKEN:
        return broken(reason, hint="look at the disk that holds the store")
    if exc.errno in _REFUSED:
        return StoreAccessError(reason, hint="check the rights of the store's directory")
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailableError(reason, hint="the store is full: free some space, the next run continues")
    return StoreUnavailableError(reason)
