"""Bodies of S3 objects: asked for again from where the connection broke off; sent in time or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from vaultik.errors import LostBodyError, StoreUnavailableError
from vaultik.linux import boottime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ_S = 60
"""How long an answer may keep one waiting, seconds."""
_RESUMES = 5
_BROKEN = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError)


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
        self._body, skip, self._tag = self._get(self._key, self._at, self._stop, self._tag)
        while skip:
            skip -= len(self._body.read(min(skip, 1 << 20))) or skip

    def _resume(self, exc: Exception) -> None:
        self._resumes += 1
        if self._resumes > _RESUMES:
            raise StoreUnavailableError(f"{self._key}: the store broke off {self._resumes} times: {exc}") from exc
        self._body.close()
        self._ask()


@contextmanager
def outgoing(body: Path | bytes, until: float | None) -> Iterator[BinaryIO | bytes]:
    """Give a body that a request may read.

    Raises:
        StoreUnavailableError: its answer could come after `until`.
    """
    if until is not None and boottime() > until - READ_S:
        raise StoreUnavailableError("it took too long", hint="the network is slow; the next run continues")
    if isinstance(body, bytes):
        yield body
        return
    with body.open("rb") if until is None else _TimedFile(body, until - READ_S) as file:
        yield file


class _TimedFile(io.BufferedReader):
    """A file that can be read up to a certain time only, so that whoever sends it stops in time."""

    def __init__(self, path: Path, until: float) -> None:
        super().__init__(io.FileIO(path))
        self._until = until

    def read(self, size: int | None = -1, /) -> bytes:
        if boottime() > self._until:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return super().read(size)


def size_of(body: Path) -> int:
    """Return how many bytes a file holds.

    Raises:
        LostBodyError: it is gone.
    """
    try:
        return body.stat().st_size
    except OSError as exc:
        raise LostBodyError(f"put {body}: {exc.strerror or exc}") from exc


def digest_of(body: Path | bytes) -> bytes:
    """Return the SHA-256 of a body.

    Raises:
        LostBodyError: its file is gone or can't be read.
    """
    if isinstance(body, bytes):
        return hashlib.sha256(body).digest()
    try:
        with body.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as exc:
        raise LostBodyError(f"put {body}: {exc.strerror or exc}") from exc
