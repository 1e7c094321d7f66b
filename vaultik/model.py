"""The words that all parts share: ids, entry types, marks.

It holds no behaviour and does no I/O. FORMAT.md ("The snapshot DB") gives the stored values.
"""

from __future__ import annotations

import stat
from typing import NewType

ChunkId = NewType("ChunkId", bytes)
"""SHA-256 of a chunk's plaintext, 32 bytes."""

BlobId = NewType("BlobId", bytes)
"""SHA-256 of a blob's stored bytes, 32 bytes."""

SnapshotId = NewType("SnapshotId", str)
"""`20261123T081500Z-1f2e3d4c`: UTC start time and 8 random hex digits."""


class EntryType:
    """What an entry is: the text that is stored in `entries.type`. No enum: sqlite3 searches long for a way to store one."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    FIFO = "p"
    SOCKET = "s"
    CHAR_DEVICE = "c"
    BLOCK_DEVICE = "b"


_TYPE_OF_FORMAT = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFSOCK: EntryType.SOCKET,
    stat.S_IFCHR: EntryType.CHAR_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}
FORMAT_OF_TYPE = {kind: bits for bits, kind in _TYPE_OF_FORMAT.items()}
NAME_OF_TYPE = {
    EntryType.FILE: "file",
    EntryType.DIRECTORY: "directory",
    EntryType.SYMLINK: "symlink",
    EntryType.FIFO: "fifo",
    EntryType.SOCKET: "socket",
    EntryType.CHAR_DEVICE: "char device",
    EntryType.BLOCK_DEVICE: "block device",
}


def entry_type(st_mode: int) -> str:
    """Return the type that a stat mode names.

    Raises:
        KeyError: the mode names none that Linux knows.
    """
    return _TYPE_OF_FORMAT[stat.S_IFMT(st_mode)]


class Mark:
    """What a snapshot says of an entry besides its attributes: `entries.marks` is the sum of these."""

    SOURCE = 1
    """One of the configured source directories (or files)."""
    IMPLIED = 2
    """A parent of a source: kept with its metadata, not scanned."""
    CHANGED = 4
    """Changed while it was read: the content is what was really read."""
    STALE = 8
    """In a partial snapshot: content of an earlier snapshot."""
    UNREADABLE = 16
    """Could not be read: metadata only, a restore leaves it out."""
    GAP = 32
    """A directory in which a name could not be looked at: what it doesn't list may be there all the same."""


NAME_OF_MARK = {mark: name.lower() for name, mark in vars(Mark).items() if name.isupper()}
