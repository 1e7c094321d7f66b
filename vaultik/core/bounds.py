"""How much content a snapshot's object may have for its stored size (FORMAT.md, "Content bounds").

One rule for both sides. A reader takes no more than `most_content`, so that little that is stored can't
fill a disk or a memory; a writer pads what compressed better than that up to `least_stored`.
"""

from __future__ import annotations

from typing import NamedTuple

from vaultik.core.manifest import LARGEST


class ContentBound(NamedTuple):
    """The bound of one kind of object. Bytes."""

    free: int
    """So much is always taken."""
    ratio: int
    """How often as much as is stored."""
    largest: int
    """More is never taken, and must not be written."""

    def most_content(self, stored: int) -> int:
        """Return how much content an object of a stored size may have."""
        return min(max(self.free, self.ratio * stored), self.largest)

    def least_stored(self, content: int) -> int:
        """Return the least stored size with which so much content is taken, if it isn't above `largest`."""
        return 0 if content <= self.free else -(-content // self.ratio)


DB_BOUND = ContentBound(free=64 << 20, ratio=200, largest=1 << 40)
"""zstd makes a tenth to a twentieth of an ordinary DB; a host's users can make it compress far better."""
MANIFEST_BOUND = ContentBound(free=1 << 20, ratio=20, largest=LARGEST)
"""Half of a manifest is hashes, which zstd can only halve."""
