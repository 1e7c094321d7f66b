"""The rules of a snapshot DB (FORMAT.md, "Snapshot DB"): of each row by itself, and of rows together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultik.model import EntryType

if TYPE_CHECKING:
    from collections.abc import Callable

Row = tuple[Any, ...]

FRAME_BYTES = 1 << 20
LARGEST_CHUNK = 512 << 20
_LONGEST_NAME = 255
_LONGEST_LINK = 4096
_LARGEST_XATTR = 1 << 16
_TYPES = frozenset(kind.value for kind in EntryType)
_I64 = 1 << 63


def _is_meta(row: Row) -> bool:
    return isinstance(row[0], str)


def _is_entry(row: Row) -> bool:
    (
        number,
        parent,
        name,
        kind,
        mode,
        uid,
        gid,
        user,
        group,
        size,
        mtime,
        ctime,
        birth,
        link,
        rdev,
        hardlink,
        flags,
        marks,
    ) = row
    return (
        (number == 1) == (parent is None) == (name == b"")
        and number >= 1
        and _is_name(name, root=number == 1)
        and kind in _TYPES
        and (number != 1 or kind == EntryType.DIRECTORY)
        and 0 <= mode <= 0o7777  # noqa: PLR2004 - permission bits
        and 0 <= uid < 1 << 32
        and 0 <= gid < 1 << 32
        and all(text is None or len(text) <= _LONGEST_NAME for text in (user, group))
        and size >= 0
        and all(time is None or -_I64 <= time < _I64 for time in (mtime, ctime, birth))
        and (
            isinstance(link, bytes) and 0 < len(link) <= _LONGEST_LINK and b"\0" not in link
            if kind == EntryType.SYMLINK
            else link is None
        )
        and (rdev is None) == (kind not in (EntryType.CHAR_DEVICE, EntryType.BLOCK_DEVICE))
        and (hardlink is None or kind == EntryType.FILE)
        and (flags is None or 0 <= flags < 1 << 32)
        and marks >= 0
    )


def _is_name(name: bytes, *, root: bool) -> bool:
    if root:
        return name == b""
    return 0 < len(name) <= _LONGEST_NAME and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def _is_xattr(row: Row) -> bool:
    return 0 < len(row[1]) <= _LONGEST_NAME and b"\0" not in row[1] and len(row[2]) <= _LARGEST_XATTR


def _is_blob(row: Row) -> bool:
    number, digest, size, header_length, _recipients = row
    return number >= 1 and len(digest) == 32 and 0 < header_length < size  # noqa: PLR2004 - SHA-256


def _is_chunk(row: Row) -> bool:
    _, digest, size, _, frame_offset, frame_length, offset = row
    return (
        len(digest) == 32  # noqa: PLR2004 - SHA-256
        and 0 < size <= LARGEST_CHUNK
        and frame_offset >= 0
        and 0 < frame_length <= LARGEST_CHUNK + (1 << 20)
        and offset >= 0
        and (offset == 0 or offset + size <= FRAME_BYTES)
    )


def _is_content(row: Row) -> bool:
    return bool(row[1] >= 0)


ROWS: dict[str, tuple[int, Callable[[Row], bool]]] = {
    "meta": (2, _is_meta),
    "entries": (18, _is_entry),
    "xattrs": (3, _is_xattr),
    "blobs": (5, _is_blob),
    "chunks": (7, _is_chunk),
    "entry_chunks": (3, _is_content),
}
"""Every table in the order to copy them: how many columns it has, and whether a row is within its limits."""

RULES = (
    ("entries: no root", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM entries WHERE id = 1)"),
    (
        "entries: a parent that is no earlier directory",
        "SELECT e.id FROM entries AS e LEFT JOIN entries AS p ON p.id = e.parent"
        " WHERE e.id <> 1 AND (p.id IS NULL OR p.type <> 'd' OR p.id >= e.id) LIMIT 1",
    ),
    (
        "entries: a hard link to no leader",
        "SELECT e.id FROM entries AS e LEFT JOIN entries AS l ON l.id = e.hardlink"
        " WHERE e.hardlink IS NOT NULL AND (l.id IS NULL OR l.hardlink IS NOT l.id) LIMIT 1",
    ),
    ("xattrs: of no entry", "SELECT entry FROM xattrs WHERE entry NOT IN (SELECT id FROM entries) LIMIT 1"),
    ("chunks: in no blob", "SELECT id FROM chunks WHERE blob NOT IN (SELECT id FROM blobs) LIMIT 1"),
    (
        "chunks: past the end of their blob",
        "SELECT c.id FROM chunks AS c JOIN blobs AS b ON b.id = c.blob WHERE c.frame_offset + c.frame_length > b.size LIMIT 1",
    ),
    (
        "entry_chunks: of no file, or of no chunk",
        "SELECT ec.entry FROM entry_chunks AS ec LEFT JOIN entries AS e ON e.id = ec.entry LEFT JOIN chunks AS c ON c.id = ec.chunk"
        " WHERE c.id IS NULL OR e.type IS NOT 'f' OR coalesce(e.hardlink, e.id) <> e.id LIMIT 1",
    ),
    (
        "entry_chunks: overlapping, or past the end of the file",
        "SELECT entry FROM (SELECT ec.entry AS entry, ec.offset + c.size AS stop, e.size AS size,"
        " lead(ec.offset, 1, e.size) OVER (PARTITION BY ec.entry ORDER BY ec.offset) AS next"
        " FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk JOIN entries AS e ON e.id = ec.entry)"
        " WHERE stop > next OR stop > size LIMIT 1",
    ),
)
"""What may not be: a name for it, and a query that finds a row of it in the copy."""
