"""Bodies of S3 objects: asked for again from where the connection broke off; sent as named and in time, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from vaultik.errors import DigestMismatchError, LostBodyError, StoreUnavailableError
from vaultik.linux import boottime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vaultik.errors import VaultikError

READ_S = 60
"""How long an answer may keep one waiting, seconds."""
_PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Before each time that a broken body is asked for again."""
_BROKEN = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, HTTPError, OSError)
_BLOCK = 1 << 20


class Body:
    """A body that is asked for again from where it broke off."""

    def __init__(
        self,
        get: Callable[[str, int, int | None, str | None], tuple[Any, int, str | None]],
        key: str,
        offset: int,
        length: int | None,
    ) -> None:
        self._get = get
        self._key = key
        self._at = offset
        self._stop = None if length is None else offset + length
        self._resumes = 0
        self._skip = 0
        self._tag: str | None = None
        self._body: Any = None
        if length != 0:
            self._ask()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        if self._stop is not None:
            left = self._stop - self._at
            size = left if size < 0 else min(size, left)
        while size and self._body is not None:
            try:
                self._skip_unwanted()
                data: bytes = self._body.read(None if size < 0 else size)
            except _BROKEN as exc:
                self._resume(exc)
                continue
            self._at += len(data)
            return data
        return b""

    def close(self) -> None:
        """Let go of the connection."""
        if self._body is not None:
            self._body.close()

    def _ask(self) -> None:
        self._body, self._skip, self._tag = self._get(self._key, self._at, self._stop, self._tag)

    def _skip_unwanted(self) -> None:
        """Read past what a server that knows no ranges sends first."""
        while self._skip and (data := self._body.read(min(self._skip, _BLOCK))):
            self._skip -= len(data)

    def _resume(self, exc: Exception) -> None:
        if self._resumes == len(_PAUSES_S):
            raise StoreUnavailableError(
                f"{self._key}: the store broke off its answer {self._resumes + 1} times",
                hint="look at the network; then try again",
            ) from exc
        time.sleep(_PAUSES_S[self._resumes])
        self._resumes += 1
        self._body.close()
        self._ask()


def check_time(what: str, until: float | None) -> None:
    """Refuse to send what could be answered too late.

    Raises:
        StoreUnavailableError: the answer could come after `until`.
    """
    if until is not None and boottime() > until - READ_S:
        raise _too_late(what)


@contextmanager
def outgoing(what: str, body: Path | bytes, sha256: bytes, until: float | None) -> Iterator[BinaryIO | bytes]:
    """Give a body that requests may read, from its beginning each time.

    The last bytes of a file whose content isn't what it should be are never given, so that no whole body
    is sent, whether or not the server looks at checksums.

    Args:
        what: the object, for messages.
        body: the bytes, or the path of a file that holds them.
        sha256: digest of the whole body.
        until: when the answer must have come, as `linux.boottime` counts.

    Raises:
        StoreUnavailableError: the answer could come after `until`.
        DigestMismatchError: the body isn't what `sha256` says.
        LostBodyError: the file is gone or can't be read.
    """
    check_time(what, until)
    if isinstance(body, bytes):
        if hashlib.sha256(body).digest() != sha256:
            raise DigestMismatchError(f"put {what}: the body is not what its digest says")
        yield body
        return
    with _Outgoing(what, body, sha256, None if until is None else until - READ_S) as file:
        try:
            yield file
        except Exception as exc:
            if file.fault is None:
                raise
            # What the file raised comes back as a failed connection.
            raise file.fault from exc


class _Outgoing(io.BufferedReader):
    """A file that ends with an error instead of its last bytes if it isn't what it should be, or is read too late."""

    def __init__(self, what: str, path: Path, sha256: bytes, until: float | None) -> None:
        try:
            super().__init__(io.FileIO(path))
        except OSError as exc:
            raise _lost(path, exc) from exc
        self.fault: VaultikError | None = None
        self._what = what
        self._path = path
        self._size = os.fstat(self.fileno()).st_size
        self._sha256 = sha256
        self._seen = hashlib.sha256()
        self._until = until

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self.fault is not None:
            raise self.fault  # it won't get better by another try
        at = super().seek(offset, whence)
        if at == 0:
            self._seen = hashlib.sha256()
        return at

    def read(self, size: int | None = -1, /) -> bytes:
        if self._until is not None and boottime() > self._until:
            self.fault = _too_late(self._what)
            raise self.fault
        left = self._size - self.tell()
        try:
            data = super().read(left if size is None or size < 0 else min(size, left))
        except OSError as exc:
            self.fault = _lost(self._path, exc)
            raise self.fault from exc
        self._seen.update(data)
        if (not data or len(data) == left) and self._seen.digest() != self._sha256:
            self.fault = DigestMismatchError(f"put {self._what}: the body is not what its digest says")
            raise self.fault
        return data


def size_of(body: Path) -> int:
    """Return how many bytes a file holds.

    Raises:
        LostBodyError: it is gone.
    """
    try:
        return body.stat().st_size
    except OSError as exc:
        raise _lost(body, exc) from exc


def _lost(path: Path, exc: OSError) -> LostBodyError:
    return LostBodyError(f"put {path}: {exc.strerror or exc}")


def _too_late(what: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"put {what}: it took too long", hint="the network is slow; the next run continues")
