"""Mounted file systems in the index, known by what is mounted: st_dev changes over reboots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

_PSEUDO = frozenset(
    """
    binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl hugetlbfs mqueue nsfs proc pstore
    rpc_pipefs securityfs selinuxfs sysfs tracefs
    """.split()  # noqa: SIM905 - as one reads it
)
"""File systems of the kernel's own: nothing in them is anybody's data, and some sizes are fantastic."""
_STEADY = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "tmpfs", "xfs", "zfs")
STEADY_IDS = (
    f"SELECT id FROM mounts WHERE substr(identity, 1, instr(identity, ' ') - 1) IN ({', '.join(map(repr, _STEADY))})"
)
"""Query of the file systems on which an inode's number stays with it, and the kernel alone sets its time of change.

On others (FAT, FUSE, the network's, overlays) numbers may be given out anew with each mount, and times be whole seconds.
"""


class Mount(NamedTuple):
    """A mounted file system."""

    identity: str
    is_pseudo: bool


class Mounts:
    """The file systems that a scan meets, by st_dev."""

    def __init__(self, index: sqlite3.Connection) -> None:
        """Read what is mounted now."""
        self._index = index
        self._mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="latin-1"))
        self._ids: dict[int, int] = {}

    def is_pseudo(self, device: int) -> bool:
        """Tell whether a device is one of the kernel's own file systems."""
        mount = self._mounts.get(device)
        return mount is not None and mount.is_pseudo

    def id_of(self, device: int, directory: int, name: bytes) -> int:
        """Return the index's id of a file system.

        Args:
            device: its st_dev.
            directory: an open directory.
            name: something in it that stands on the device, for one that the kernel doesn't list (a btrfs subvolume).
        """
        if device not in self._ids:
            mount = self._mounts.get(device)
            identity = (
                mount.identity
                if mount is not None
                else _identity_of(b"/proc/self/fd/%d/%s" % (directory, name), device)
            )
            self._index.execute("INSERT OR IGNORE INTO mounts (identity) VALUES (?)", (identity,))
            row = self._index.execute("SELECT id FROM mounts WHERE identity = ?", (identity,)).fetchone()
            self._ids[device] = int(row[0])
        return self._ids[device]


def parse_mountinfo(text: str) -> dict[int, Mount]:
    """Return the mounted file systems by st_dev, from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    Of several places where one is mounted, the first that shows its root names it: bind mounts come and go.
    """
    whole: dict[int, Mount] = {}
    parts: dict[int, Mount] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        _, _, numbers, root, point, *_ = left.split()
        major, _, minor = numbers.partition(":")
        kind, what = right.split()[:2]
        identity = f"{kind} {what}" if what.startswith("/") else f"{kind} {point}"
        found = whole if root == "/" else parts
        found.setdefault(os.makedev(int(major), int(minor)), Mount(identity, kind in _PSEUDO))
    return parts | whole


def _identity_of(path: bytes, device: int) -> str:
    try:
        return f"fsid {os.statvfs(path).f_fsid:x}"
    except OSError:
        return f"device {device}"
