"""POSIX ACLs as Linux stores them (`system.posix_acl_*`), and the ids in them.

offset  size  field
0       4     version: 2
4       8 n   entries: tag (u16), permissions (u16), id (u32) each
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER, _OWN_GROUP, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10


def with_ids(value: bytes, user: Callable[[int], int], group: Callable[[int], int]) -> bytes:
    """Return an ACL with other ids for the users and groups that it names; what is no ACL is returned as it is.

    Where two become one, that one may no more than either of them.
    """
    body = value[len(_VERSION) :]
    if value[: len(_VERSION)] != _VERSION or len(body) % _ENTRY.size:
        return value
    here = {_USER: user, _GROUP: group}
    found: dict[tuple[int, int], int] = {}
    changed = False
    for tag, permissions, number in _ENTRY.iter_unpack(body):
        new = here[tag](number) if tag in here else number
        changed |= new != number
        found[tag, new] = found.get((tag, new), permissions) & permissions
    if not changed:
        return value
    return _VERSION + b"".join(_ENTRY.pack(tag, found[tag, number], number) for tag, number in sorted(found))


def group_permissions(value: bytes) -> int:
    """Return what the owning group may by an ACL (3 bits); nothing if it can't be told."""
    body = value[len(_VERSION) :]
    if value[: len(_VERSION)] != _VERSION or len(body) % _ENTRY.size:
        return 0
    found: dict[int, int] = {tag: permissions for tag, permissions, _ in _ENTRY.iter_unpack(body)}
    return found.get(_OWN_GROUP, 0) & found.get(_MASK, 7) & 7
