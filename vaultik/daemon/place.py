"""Place watches on the directories that a scan would look into, and keep them where those are.

Theory: an event is a hint; what holds is what stands on the disk when the hint is followed. A directory
is watched before it is listed, so whatever appears in it is either listed or announced. One that can't
be reached at its path any more was moved, of which an event is still to come.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaultik.backup.sources import check_source
from vaultik.daemon import inotify
from vaultik.daemon.watches import Watches
from vaultik.directories import OPEN_DIRECTORY
from vaultik.errors import SourceError
from vaultik.index.mounts import parse_mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaultik.backup.exclude import Excludes
    from vaultik.daemon.inotify import Inotify
    from vaultik.daemon.nodes import Node
    from vaultik.index.mounts import Mount

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EBADF)
"""The scan can't look into it either. (The last is of a descriptor that was only good to pass through.)"""


class _At(NamedTuple):
    """A watched directory that is being looked into."""

    node: Node
    path: bytes
    """Where it stands, without a slash at its end."""
    fd: int
    device: int
    tag: bytes | None
    """The name in it that keeps all others out."""


class Placer:
    """Keeps the directories below the sources watched."""

    def __init__(
        self,
        instance: Inotify,
        excludes: Excludes,
        *,
        one_file_system: bool,
        dropped: Callable[[Node], object],
    ) -> None:
        """Begin with nothing but "/".

        Args:
            instance: where to place watches.
            excludes: what a backup leaves out is not watched.
            one_file_system: nor is another file system.
            dropped: told of every directory that is watched no longer.

        Raises:
            OSError: it can't be watched for what happens to itself.
        """
        self._excludes = excludes
        self._one_file_system = one_file_system
        self._dropped = dropped
        self._mounts = _mounted()
        self._watches = Watches(instance)
        self.tree = self._watches.tree
        self.failure: OSError | None = None
        """Why a directory can't be watched."""
        self.files: dict[Node, dict[bytes, bytes]] = {}
        """Sources that are files, by the directory that they stand in and their name there."""
        self.ways = {self.tree.root}
        """Directories that only lead to sources."""
        self.sources: set[Node] = set()
        self._lost: set[Node] = set()
        self.marked: set[Node] = set()
        """Directories of which something in them keeps the other contents out."""

    @property
    def is_full(self) -> bool:
        """Whether there are more directories than this user may watch; those that aren't watched are only counted."""
        return self._watches.is_full

    def place_source(self, source: bytes) -> None:
        """Watch a source with all below it, and the way to it for what may replace it.

        Raises:
            SourceError: it is not there, or not where its path says.
            OSError: it can't be reached.
        """
        check_source(source)
        node = self.tree.root
        *way, last = [name for name in source.split(b"/") if name] or [b""]
        for name in way:
            node = self._on_the_way(node, name)
        fd = self._watches.open(node)
        if not last:
            self._watches.add(fd, inotify.ENTRIES | inotify.SELF)
            self.ways.discard(node)
        elif stat.S_ISDIR(os.stat(last, dir_fd=fd, follow_symlinks=False).st_mode):
            node = self._hang(node, fd, last, inotify.ENTRIES | inotify.SELF)
        else:
            self._watches.add(fd, inotify.ENTRIES | inotify.SELF)
            self.files.setdefault(node, {})[last] = source
            return
        self.sources.add(node)
        self.walk(node)

    def settle(self, parent: Node, name: bytes) -> Node | None:
        """Watch what stands under a name now, with all below it, or watch it no longer.

        Returns:
            The directory that stands there and did not when this was last asked.
        """
        before = parent.child(name)
        try:
            at = self._at(parent)
            node = self._look(at, name) if at.tag in (None, name) else None
        except OSError as exc:
            self._note(exc, parent)
            return None
        if node is None or node is before:
            return None
        self.walk(node)
        return node

    def walk(self, top: Node) -> None:
        """Watch every directory below one that is watched."""
        todo = [top]
        while todo:
            todo.extend(self._below(todo.pop()))

    def find_lost(self) -> list[Node]:
        """Look again into directories that were elsewhere when they were looked for. Returns those that are back.

        Mostly they moved, and are found where they are. But one that is moved away and back meanwhile is the same, at
        the same place, for all that the events of it say.
        """
        lost, self._lost = self._lost, set()
        for node in lost:
            self.walk(node)
        return [node for node in lost if node not in self._lost and self._is_watched(node)]

    def drop(self, top: Node) -> None:
        """Watch a directory no longer, nor anything below it."""
        for node in self._watches.drop(top):
            self.marked.discard(node)
            self._lost.discard(node)
            self._dropped(node)

    def release(self) -> None:
        """Hold no directory open any longer."""
        self._watches.release()

    def close(self) -> None:
        """Close everything but the instance."""
        self._watches.close()

    # -- one directory ----------------------------------------------------------------------------

    def _below(self, node: Node) -> list[Node]:
        """Watch the directories in a watched one. Returns them."""
        try:
            at = self._at(node)
            names = _directories(at.fd) if at.tag is None else [at.tag]
        except OSError as exc:
            self._note(exc, node)
            return []
        if at.tag is None:
            self.marked.discard(node)
        else:
            self.marked.add(node)
            for child in node.children():
                if child.name != at.tag:
                    self.drop(child)
        found = (self._look(at, name) for name in names)
        return [child for child in found if child is not None]

    def _at(self, node: Node) -> _At:
        fd = self._watches.open(node, inotify.ENTRIES | (inotify.SELF if node in self.sources else 0))
        return _At(node, node.path().rstrip(b"/"), fd, os.fstat(fd).st_dev, self._excludes.find_tag(fd))

    def _look(self, at: _At, name: bytes) -> Node | None:
        """Bring one name in an open directory up to date. Returns its node if a watched directory stands there."""
        before = at.node.child(name)
        try:
            child = os.open(name, OPEN_DIRECTORY, dir_fd=at.fd)
        except OSError as exc:
            if before is not None and exc.errno in _GONE:
                self.drop(before)
            self._note(exc)
            return None
        try:
            st = os.fstat(child)
            if self._stays_out(at, name, st):
                if before is not None:
                    self.drop(before)
                return None
            watch = self._watches.add(child, inotify.ENTRIES)
        except OSError as exc:
            self._note(exc)
            return None
        finally:
            os.close(child)
        return self._hang_watch(watch, at.node, name)

    def _stays_out(self, at: _At, name: bytes, st: os.stat_result) -> bool:
        if st.st_dev != at.device and (self._one_file_system or self._is_pseudo(st.st_dev)):
            return True
        path = at.path + b"/" + name
        # Never by inode number: that of a file which is gone may be another's by now.
        left_out = self._excludes.is_own(path) or self._excludes.excludes_name(path, is_directory=True)
        return name != at.tag and left_out

    def forget_mounts(self) -> None:
        """Look anew what is mounted: the number of a device that is gone may be another's by now."""
        self._mounts = {}

    def _is_pseudo(self, device: int) -> bool:
        if device not in self._mounts:
            self._mounts = _mounted()
        mount = self._mounts.get(device)
        return mount is not None and mount.is_pseudo

    def _hang_watch(self, watch: int, parent: Node, name: bytes) -> Node | None:
        node, before = self.tree.find(watch), parent.child(name)
        if node is not None and (node in self.ways or node in self.sources or parent.is_in(node)):
            return None  # a bind mount of what it lies in
        if node is not None and node is before:
            return node
        node = self.tree.hang(watch, parent, name)
        if before is not None:
            self.drop(before)
        return node

    def _note(self, exc: OSError, node: Node | None = None) -> None:
        """Take a failure as such unless it says that a directory is gone, or unreadable for the scan as well.

        Args:
            exc: the failure.
            node: the watched directory that is not where it was.
        """
        if exc.errno not in (*_GONE, *_UNREADABLE):
            self.failure = self.failure or exc
        elif node is not None and exc.errno in _GONE and self._is_watched(node):
            self._lost.add(node)

    def _is_watched(self, node: Node) -> bool:
        return self.tree.find(node.watch) is node

    def _on_the_way(self, parent: Node, name: bytes) -> Node:
        node = parent.child(name)
        if node is None:
            node = self._hang(parent, self._watches.open(parent), name, inotify.SELF)
            self.ways.add(node)
        return node

    def _hang(self, parent: Node, fd: int, name: bytes, mask: int) -> Node:
        try:
            child = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        except PermissionError:
            # To be passed through only: what happens to it isn't told.
            return self.tree.hang(self._watches.stand_in(), parent, name)
        try:
            watch = self._watches.add(child, mask)
        finally:
            os.close(child)
        if self.tree.find(watch) is not None:
            raise OSError(errno.EEXIST, "stands at another place below a source, or on the way to one, as well")
        return self.tree.hang(watch, parent, name)


def place_all(placer: Placer, sources: Iterable[bytes]) -> list[str]:
    """Place watches on all sources. Returns, in a line each, which of them can't be watched and why."""
    problems = []
    for source in sources:
        try:
            placer.place_source(source)
        except SourceError as exc:
            problems.append(str(exc))
        except OSError as exc:
            problems.append(f"source {os.fsdecode(source)}: {exc.strerror}")
    if placer.failure is not None:
        problems.append(f"a directory can't be watched: {placer.failure.strerror}")
    placer.release()
    return problems


def _mounted() -> dict[int, Mount]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="latin-1"))


def _directories(fd: int) -> list[bytes]:
    # By a descriptor of its own, younger than the watch: btrfs lists what was there when it was opened.
    listed = os.open(b".", OPEN_DIRECTORY, dir_fd=fd)
    try:
        with os.scandir(listed) as found:
            return [os.fsencode(entry.name) for entry in found if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(listed)
