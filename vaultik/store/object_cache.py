"""Stored objects that were read before, kept on this machine as they are stored: encrypted, under their SHA-256.

It knows digests and bytes, and neither keys nor what they hold. Nothing in it is believed: what is taken out is hashed first, and
whatever isn't what its name says is removed. It is bounded, and what was used longest ago leaves first. Several
processes may use one directory at once. That it can't be used, or that its disk is full, costs downloads and is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vaultik.config.quantities import parse_size
from vaultik.directories import make_private, others_may_write
from vaultik.errors import ConfigError, LocalIndexError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.store.base import ByteStream

VARIABLE = "VAULTIK_CACHE_SIZE"
_MOST_BYTES = 1 << 30
_BLOCK = 1 << 20
_ASIDE = ".tmp-"
_LEFT_S = 86_400
"""What is written aside and this old was left by a kill."""
_NAME = re.compile(rf"[0-9a-f]{{64}}|{re.escape(_ASIDE)}[0-9a-f]{{16}}")


def open_cache() -> ObjectCache | None:
    """Return this user's cache, None if there is no place for one or it is turned off.

    It lies in $XDG_CACHE_HOME/vaultik/objects, or ~/.cache/vaultik/objects.

    Raises:
        ConfigError: $VAULTIK_CACHE_SIZE is no size.
    """
    try:
        most = parse_size(os.environ.get(VARIABLE, "").strip() or _MOST_BYTES)
    except ValueError as exc:
        raise ConfigError(f"{VARIABLE}: {exc}", hint="0 turns the cache off") from exc
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        place = Path(home) if os.path.isabs(home) else Path.home() / ".cache"  # noqa: PTH117 - as XDG has it
        directory = place / "vaultik" / "objects"
        if not most or not _is_ours(directory):
            return None
        make_private(directory)
        if others_may_write(directory):
            return None
    except (OSError, RuntimeError, LocalIndexError):
        return None
    return ObjectCache(directory, most)


def _is_ours(directory: Path) -> bool:
    """Tell whether a directory, or where it would be made, is this user's or root's: sudo may leave HOME another's."""
    places = (directory, *directory.parents)
    # Through a link of somebody else's it would lie wherever that leads.
    links = [place.lstat() for place in places if place.is_symlink()]
    nearest = next(place for place in places if place.exists())
    return all(found.st_uid in (0, os.geteuid()) for found in (*links, nearest.stat()))


class ObjectCache:
    """A directory of objects."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """Name the place, a private directory that is there, and how many bytes it may hold."""
        self._directory = directory
        self._most = most_bytes
        self._held: int | None = None
        """Bytes in it, as far as this process knows; None until it looked."""

    def find(self, sha256: bytes) -> BinaryIO | None:
        """Return a file of exactly the bytes that have a digest, at its beginning, None if there is none. Close it."""
        path = self._path(sha256)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        file = os.fdopen(fd, "rb")
        try:
            if hashlib.file_digest(file, "sha256").digest() == sha256:
                file.seek(0)
                # So that it is what was used last.
                os.utime(fd)
                return file
            path.unlink(missing_ok=True)
        except OSError:
            pass
        file.close()
        return None

    @contextmanager
    def keeping(self, stream: ByteStream, sha256: bytes) -> Iterator[ByteStream]:
        """Give a stream for the block, and keep what was read of it if that is what the digest says."""
        tee = _Tee(stream, self._directory / f"{_ASIDE}{secrets.token_hex(8)}", self._most)
        try:
            yield tee
            if tee.digest() == sha256:
                self._publish(tee, sha256)
        finally:
            tee.remove()

    def _publish(self, tee: _Tee, sha256: bytes) -> None:
        with contextlib.suppress(OSError):
            if tee.rename(self._path(sha256)):
                self._held = self._look() if self._held is None else self._held + tee.size
                if self._held > self._most:
                    self._held = self._trim()

    def _path(self, sha256: bytes) -> Path:
        return self._directory / sha256.hex()

    def _files(self) -> list[tuple[float, int, str]]:
        """Return when each file was used last, its size and its path. What isn't the cache's own is no business of its."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if _NAME.fullmatch(entry.name):
                        st = entry.stat(follow_symlinks=False)
                        found.append((st.st_mtime, st.st_size, entry.path))
        return found

    def _look(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _trim(self) -> int:
        """Remove what a kill left, and then what was used longest ago, until the rest fits. Returns its bytes."""
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        long_ago = time.time() - _LEFT_S
        for used, size, path in files:
            is_aside = os.path.basename(path).startswith(_ASIDE)  # noqa: PTH119 - a path of scandir
            if (used < long_ago) if is_aside else (held > self._most):
                Path(path).unlink(missing_ok=True)
                held -= size
        return held


class _Tee:
    """A stream that is written aside as it is read, as long as that works."""

    def __init__(self, stream: ByteStream, path: Path, most_bytes: int) -> None:
        self._stream = stream
        self._path = path
        self._left = most_bytes
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.size = 0
        with contextlib.suppress(OSError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)

    def read(self, size: int = -1, /) -> bytes:
        """Return what the stream gives."""
        data = self._stream.read(size)
        if self._file is not None:
            self._digest.update(data)
            self.size += len(data)
            try:
                if self.size > self._left or self._file.write(data) != len(data):
                    self.remove()
            except OSError:
                self.remove()
        return data

    def digest(self) -> bytes | None:
        """Return the digest of what was read, None if it isn't kept."""
        return None if self._file is None else self._digest.digest()

    def rename(self, path: Path) -> bool:
        """Give it its name; tells whether it was there to be named."""
        if self._file is None:
            return False
        self._path.rename(path)
        self._file.close()
        self._file = None
        return True

    def remove(self) -> None:
        """Give it up."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
