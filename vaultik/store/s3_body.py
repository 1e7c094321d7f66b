"""The body of an S3 object, asked for again from where the connection broke off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from vaultik.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

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
