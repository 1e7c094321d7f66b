"""What a restore tells whoever watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Takes totals once and advances as they come."""

    def total(self, *, files: int, bytes: int, blobs: int) -> None:  # noqa: A002 - the unit is the name
        """Say how much there is to do."""
        ...

    def advance(self, *, files: int = 0, bytes: int = 0, blobs: int = 0) -> None:  # noqa: A002 - as above
        """Say how much more was done."""
        ...


class NoProgress:
    """Tells nobody."""

    def total(self, *, files: int, bytes: int, blobs: int) -> None:  # noqa: A002 - the protocol's
        """Do nothing."""

    def advance(self, *, files: int = 0, bytes: int = 0, blobs: int = 0) -> None:  # noqa: A002 - the protocol's
        """Do nothing."""
