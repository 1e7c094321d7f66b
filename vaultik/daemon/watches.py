"""Watches on directories by the node that each belongs to, and the way from a node to an open directory.

Theory: a watch belongs to a directory whatever its path. The kernel gives the same number again for one
that is watched already, which tells whether the directory that a path leads to is the one that was meant.
If it is not, it was moved meanwhile, and the event of that is still to come.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vaultik.daemon import inotify
from vaultik.daemon.nodes import Tree
from vaultik.directories import OPEN_DIRECTORY, DirectoryCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.daemon.inotify import Inotify
    from vaultik.daemon.nodes import Node


class Watches:
    """The watches of one inotify instance."""

    def __init__(self, instance: Inotify) -> None:
        """Begin with a watch on "/", for what happens to itself.

        Args:
            instance: where to place watches; it stays its owner's.

        Raises:
            OSError: not even that can be watched.
        """
        self._instance = instance
        self._cache: DirectoryCache | None = None
        self._stand_in = 0
        self.is_full = False
        """No more watches may be placed: stand-ins take their place, so that those which are missing are counted."""
        self._root_fd = os.open(b"/", OPEN_DIRECTORY)
        try:
            self.tree = Tree(self.add(self._root_fd, inotify.SELF))
        except OSError:
            os.close(self._root_fd)
            raise

    def add(self, fd: int, mask: int) -> int:
        """Watch an open directory. Returns the number of its watch, negative for a stand-in.

        Raises:
            OSError: it can't be watched, for another reason than that there are too many.
        """
        if self.is_full:
            return self.stand_in()
        try:
            return self._instance.add(fd, mask)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            self.is_full = True
            return self.stand_in()

    def stand_in(self) -> int:
        """Return a number for a directory that is not watched."""
        self._stand_in -= 1
        return self._stand_in

    def drop(self, top: Node) -> Iterator[Node]:
        """Watch a directory no longer, nor anything below it; yields the nodes."""
        for node in self.tree.drop(top):
            if node.watch > 0:
                self._instance.remove(node.watch)
            yield node

    def open(self, node: Node, mask: int = 0) -> int:
        """Return a descriptor of a node's directory, valid until the next call.

        Args:
            node: where to.
            mask: what it is watched for, to make sure that it is the one.

        Raises:
            OSError: it can't be reached, or another one stands at its path by now.
        """
        is_fresh = self._cache is None
        try:
            return self._open(node, mask)
        except (FileNotFoundError, NotADirectoryError):
            # A directory on the way may have been opened before it moved, or in another's place.
            self.release()
            if is_fresh:
                raise
        return self._open(node, mask)

    def _open(self, node: Node, mask: int) -> int:
        if self._cache is None:
            self._cache = DirectoryCache(self.tree.root.watch, self._root_fd, self.tree.place_of)
        fd = self._cache.open(node.watch)
        if not mask or self.is_full or node.watch < 0:
            return fd
        watch = self.add(fd, mask)
        if watch != node.watch:
            if watch > 0 and self.tree.find(watch) is None:
                self._instance.remove(watch)
            self.release()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return fd

    def release(self) -> None:
        """Close what was opened to reach directories: an open one would keep its disk from being unmounted."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def close(self) -> None:
        """Close everything but the instance."""
        self.release()
        os.close(self._root_fd)
