"""The file system that is mounted, in POSIX's words: paths of bytes in, attributes and bytes out, OSError for whatever fails.

It knows nothing of FUSE. What can't be had is EIO for just what needs it, and a line that names it and the reason; that a
name isn't there is ENOENT and no line. Never is anything returned that hasn't its hash.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vaultik.errors import NoMatchingIdentityError, VaultikError
from vaultik.model import FORMAT_OF_TYPE, EntryType, Mark
from vaultik.mount.catalog import Link
from vaultik.mount.places import Attributes, Inside, Shown, get_place, made_up, made_up_inode, posix_error
from vaultik.mount.tree import SECTOR, Node, SnapshotTree
from vaultik.shown import printable
from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.mount.catalog import Place
    from vaultik.mount.frames import FrameCache
    from vaultik.mount.opened import OpenSnapshots
    from vaultik.snapshot.find import FoundSnapshot

_NAMES = 255
_BLOCK = 4096
_ENTRY_BITS = 40
_SAID_AT_MOST = 10_000
_TRUSTED = b"trusted."


class Usage(NamedTuple):
    """What statvfs(3) says, of the snapshots that were looked into."""

    blocks: int
    files: int
    block_size: int = _BLOCK
    longest_name: int = _NAMES


class _OpenFile(NamedTuple):
    found: FoundSnapshot
    node: Node
    path: bytes


class FileSystem:
    """Snapshots, read."""

    def __init__(
        self,
        top: Callable[[], Place],
        opened: OpenSnapshots,
        frames: FrameCache,
        report: Callable[[str], None],
        *,
        shared: bool = False,
    ) -> None:
        """Read nothing yet.

        Args:
            top: gives what the mount point is: a directory of the catalog, or a snapshot's own `/`.
            opened: gives snapshots.
            frames: gives content.
            report: takes a line for each file that can't be read, once.
            shared: others than who mounts may look, so that a snapshot's own `/` has the mode that it had, too, for which
                it is opened.
        """
        self._shared = shared
        self._top = top
        self._opened = opened
        self._frames = frames
        self._report = report
        self._lock = threading.Lock()
        self._handles = itertools.count(1)
        self._files: dict[int, _OpenFile] = {}
        self._numbers: dict[str, int] = {}
        self._usage: dict[str, tuple[int, int]] = {}
        self._said: set[str] = set()
        self._began_ns = time.time_ns()

    def getattr(self, path: bytes) -> Attributes:
        """Return a path's attributes; symlinks are not followed, here as everywhere."""
        place = get_place(self._top(), path)
        if isinstance(place, Inside) or (self._shared and isinstance(place, Shown)):
            with self._using(place) as tree:
                return self._attributes(tree, place.found, _get(tree, place.names))
        if isinstance(place, Shown):
            return made_up(stat.S_IFDIR | 0o755, self._inode(place.found, ROOT), _time_ns(place.found))
        if isinstance(place, Link):
            return made_up(stat.S_IFLNK | 0o777, made_up_inode(path), self._began_ns, len(place.target))
        return made_up(stat.S_IFDIR | 0o755, made_up_inode(path), self._began_ns)

    def readdir(self, path: bytes) -> list[tuple[bytes, int, int]]:
        """Return name, format bits of the mode and inode of what a directory holds."""
        place = get_place(self._top(), path)
        if isinstance(place, (Inside, Shown)):
            with self._using(place) as tree:
                node = _get(tree, place.names)
                if node.type != EntryType.DIRECTORY:
                    raise posix_error(errno.ENOTDIR)
                return [
                    (name, FORMAT_OF_TYPE[kind], self._inode(place.found, content))
                    for name, kind, content in tree.children(node.id)
                ]
        if isinstance(place, Link):
            raise posix_error(errno.ENOTDIR)
        below = path.rstrip(b"/") + b"/"
        return [
            (name, stat.S_IFLNK if isinstance(child, Link) else stat.S_IFDIR, made_up_inode(below + name))
            if isinstance(child, (Link, dict))
            else (name, stat.S_IFDIR, self._inode(child, ROOT))
            for name, child in place.items()
        ]

    def readlink(self, path: bytes) -> bytes:
        """Return what a symlink says."""
        place = get_place(self._top(), path)
        if isinstance(place, Link):
            return place.target
        if isinstance(place, Inside):
            with self._using(place) as tree:
                target = _get(tree, place.names).link_target
            if target is not None:
                return target
        raise posix_error(errno.EINVAL)

    def xattr_names(self, path: bytes, *, privileged: bool) -> list[bytes]:
        """Return the names of a path's extended attributes; `trusted` ones for who has the privilege to see them."""
        place = get_place(self._top(), path)
        if not isinstance(place, Inside):
            return []
        with self._using(place) as tree:
            names = tree.xattr_names(_get(tree, place.names))
        return [name for name in names if privileged or not name.startswith(_TRUSTED)]

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute; ENODATA if there is none."""
        place = get_place(self._top(), path)
        value = None
        if isinstance(place, Inside):
            with self._using(place) as tree:
                value = tree.find_xattr(_get(tree, place.names), name)
        if value is None:
            raise posix_error(errno.ENODATA)
        return value

    def open(self, path: bytes) -> int:
        """Return a handle of a file, to be released.

        What could not be read when it was backed up can't be opened: nothing is known of its content.
        """
        place = get_place(self._top(), path)
        if not isinstance(place, Inside):
            raise posix_error(errno.EISDIR)
        with self._using(place) as tree:
            node = _get(tree, place.names)
            marks = node.marks | tree.get(node.content).marks
        if node.type != EntryType.FILE:
            raise posix_error(errno.EISDIR if node.type == EntryType.DIRECTORY else errno.EINVAL)
        if marks & Mark.UNREADABLE:
            self._fail(place.found, path, "it could not be read when it was backed up; try an older snapshot")
        with self._lock:
            handle = next(self._handles)
            self._files[handle] = _OpenFile(place.found, node, path)
        return handle

    def release(self, handle: int) -> None:
        """Forget a handle."""
        with self._lock:
            self._files.pop(handle, None)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """Return up to so many bytes of a file; fewer only at its end."""
        file = self._file(handle)
        end = min(offset + size, file.node.size)
        if end <= offset:
            return b""
        parts: list[bytes | memoryview] = []
        at = offset
        with self._using(file) as tree:
            for piece in tree.pieces(file.node.content, offset, end):
                try:
                    data = self._frames.get(piece.frame, piece.chunk, tree)
                except VaultikError as exc:
                    self._fail(file.found, file.path, str(exc))
                begin, stop = max(piece.at, offset), min(piece.at + piece.chunk.size, end)
                parts += [bytes(begin - at), data[begin - piece.at : stop - piece.at]]
                at = stop
        parts.append(bytes(end - at))
        return b"".join(parts)

    def seek(self, handle: int, offset: int, whence: int) -> int:
        """Return the next data (SEEK_DATA) or hole (SEEK_HOLE) from an offset on; ENXIO if there is none."""
        file = self._file(handle)
        if not 0 <= offset < file.node.size:
            raise posix_error(errno.ENXIO)
        with self._using(file) as tree:
            if whence == os.SEEK_HOLE:
                return tree.get_hole(file.node, offset)
            found = tree.find_data(file.node.content, offset)
        if whence != os.SEEK_DATA:
            raise posix_error(errno.EINVAL)
        if found is None:
            raise posix_error(errno.ENXIO)
        return found

    def usage(self) -> Usage:
        """Return what there is, as far as it is known."""
        with self._lock:
            known = list(self._usage.values())
        return Usage(-(-sum(size for size, _ in known) // _BLOCK), sum(files for _, files in known))

    @contextmanager
    def _using(self, place: Inside | Shown | _OpenFile) -> Iterator[SnapshotTree]:
        try:
            with self._opened.using(place.found) as tree:
                self._count(place.found, tree)
                yield tree
        except VaultikError as exc:
            self._say(f"snapshot {place.found.name.snapshot}: {exc}")
            raise posix_error(errno.EACCES if isinstance(exc, NoMatchingIdentityError) else errno.EIO) from exc

    def _count(self, found: FoundSnapshot, tree: SnapshotTree) -> None:
        if found.name.key not in self._usage:
            with self._lock:
                self._usage[found.name.key] = (tree.meta["bytes"], tree.meta["entries"])

    def _file(self, handle: int) -> _OpenFile:
        with self._lock:
            file = self._files.get(handle)
        if file is None:
            raise posix_error(errno.EBADF)
        return file

    def _attributes(self, tree: SnapshotTree, found: FoundSnapshot, node: Node) -> Attributes:
        is_file = node.type == EntryType.FILE
        return Attributes(
            mode=FORMAT_OF_TYPE[node.type] | node.mode,
            inode=self._inode(found, node.content),
            # As btrfs has it: how many directories one holds can't be told from its links.
            links=1 if node.type == EntryType.DIRECTORY else tree.links(node),
            uid=node.uid,
            gid=node.gid,
            rdev=node.rdev or 0,
            size=node.size,
            blocks=-(-tree.covered_bytes(node) // SECTOR) if is_file else 0,
            mtime_ns=node.mtime_ns,
            ctime_ns=node.ctime_ns,
        )

    def _inode(self, found: FoundSnapshot, content: int) -> int:
        with self._lock:
            number = self._numbers.setdefault(found.name.key, len(self._numbers) + 1)
        return number << _ENTRY_BITS | content & (1 << _ENTRY_BITS) - 1

    def _fail(self, found: FoundSnapshot, path: bytes, reason: str) -> NoReturn:
        self._say(f"{printable(path)} (snapshot {found.name.snapshot}): {reason}")
        raise posix_error(errno.EIO)

    def _say(self, line: str) -> None:
        with self._lock:
            if line in self._said:
                return
            if len(self._said) >= _SAID_AT_MOST:
                self._said.clear()
            self._said.add(line)
        self._report(line)


def _get(tree: SnapshotTree, names: Sequence[bytes]) -> Node:
    node = tree.find(names)
    if node is None:
        raise posix_error(errno.ENOENT)
    return node


def _time_ns(found: FoundSnapshot) -> int:
    return int(found.modified * 1_000_000_000)
