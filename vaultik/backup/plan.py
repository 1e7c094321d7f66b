"""Cut the list of changed files into bundles: many whole small files each, or an extent of a large one.

Pure but for the reader of data ranges that the caller hands in. Theory: a bundle becomes one blob,
so its size bounds the spool, the memory and what a killed run reads again. A file larger than a
bundle is cut at nominal offsets; where exactly two extents meet FastCDC decides when they are read
(chunk.py), so that the cuts are those of the content and not of the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.core.manifest import MOST_BLOBS
from vaultik.errors import ConfigError
from vaultik.index.bundles import Cut, Piece, PlannedBundle
from vaultik.shown import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaultik.index.unplanned import ChangedFile

PIECES_PER_BUNDLE = 8_192
"""Bounds a bundle's chunk table and its one transaction where files are tiny."""

_SHARES = 8
_LEAST_BYTES = 32 * 10**6

_BLOCK = 512


def bundle_limit(total: int, blob_size_limit: int) -> int:
    """Return how large bundles shall be for so many changed bytes.

    As large as blobs may be, but for small amounts: those are shared out, so that several processes
    have work and none waits long for the last one.
    """
    return min(blob_size_limit, max(total // _SHARES, _LEAST_BYTES))


def check_room(known: int, planned: int, blob_size_limit: int) -> None:
    """Check, before anything is uploaded, that a snapshot can name all its blobs.

    Args:
        known: blobs that are stored already.
        planned: bundles that may become more.
        blob_size_limit: the configured size of a bundle.

    Raises:
        ConfigError: it couldn't.
    """
    if known + planned > MOST_BLOBS:
        raise ConfigError(
            f"blob_size_limit: at {human_bytes(blob_size_limit)} that makes {known + planned:,} blobs, and a snapshot may"
            f" name {MOST_BLOBS:,}",
            hint="raise blob_size_limit; what is stored already stays of use",
        )


def plan_bundles(
    changed: Iterable[ChangedFile],
    *,
    limit: int,
    longest_chunk: int,
    data_ranges: Callable[[int, int], list[tuple[int, int]] | None],
) -> Iterator[PlannedBundle]:
    """Yield bundles that together read every changed file once, in order.

    Args:
        changed: the files.
        limit: most plaintext bytes of one bundle.
        longest_chunk: FastCDC's maximum; an extent may end that much later than planned.
        data_ranges: gives the (start, stop) of an entry's data, for a large file with holes; None if it can't be opened.
    """
    pieces: list[Piece] = []
    total = 0
    for piece, size in _pieces(changed, limit, longest_chunk, data_ranges):
        if pieces and (total + size > limit or len(pieces) == PIECES_PER_BUNDLE):
            yield PlannedBundle(pieces, total)
            pieces, total = [], 0
        pieces.append(piece)
        total += size
    if pieces:
        yield PlannedBundle(pieces, total)


def plan_streams(streams: Iterable[tuple[int, int]]) -> Iterator[PlannedBundle]:
    """Yield a bundle for each stream (entry, size the last time): how much will come isn't known, and all of it is one blob."""
    for entry, size in streams:
        yield PlannedBundle([Piece(entry, 0, None, Cut.NONE)], size)


def _pieces(
    changed: Iterable[ChangedFile],
    limit: int,
    longest_chunk: int,
    data_ranges: Callable[[int, int], list[tuple[int, int]] | None],
) -> Iterator[tuple[Piece, int]]:
    for file in changed:
        if file.size <= limit:
            yield Piece(file.entry, 0, None, Cut.NONE), file.size
            continue
        sparse = file.blocks * _BLOCK < file.size
        ranges = data_ranges(file.entry, file.size) if sparse else [(0, file.size)]
        if ranges is None:
            # Whoever reads it finds out why, or has it planned again: extents of a hole of exabytes never end.
            yield Piece(file.entry, 0, None, Cut.NONE), 0
            continue
        # A file that is one hole still has to be opened, for its stat.
        for start, stop in ranges or [(0, 0)]:
            yield from _extents(file.entry, start, stop, limit - longest_chunk)


def _extents(entry: int, start: int, stop: int, extent: int) -> Iterator[tuple[Piece, int]]:
    at = start
    while stop - at > extent:
        yield Piece(entry, at, at + extent, Cut.STOP | (Cut.START if at > start else Cut.NONE), stop), extent
        at += extent
    yield Piece(entry, at, stop, Cut.START if at > start else Cut.NONE, stop), stop - at
