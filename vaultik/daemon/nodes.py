"""The watched directories as a tree: which watch stands where.

A node holds its name and its parent, no path, so that a tree that is moved is moved by one step, and
100,000 of them are small. It knows nothing of the disk.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Node:
    """A watched directory."""

    __slots__ = ("below", "name", "parent", "watch")

    def __init__(self, watch: int, parent: Node | None, name: bytes) -> None:
        self.watch = watch
        self.parent = parent
        self.name = name
        self.below: dict[bytes, Node] | None = None

    def child(self, name: bytes) -> Node | None:
        """Return the watched directory under a name in this one."""
        return None if self.below is None else self.below.get(name)

    def children(self) -> list[Node]:
        """Return the watched directories in this one."""
        return list(self.below.values()) if self.below else []

    def path(self) -> bytes:
        """Return where it stands now."""
        names = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return b"/" + b"/".join(reversed(names))

    def is_in(self, other: Node) -> bool:
        """Tell whether it is another one, or stands anywhere below it."""
        node: Node | None = self
        while node is not None and node is not other:
            node = node.parent
        return node is other


class Tree:
    """All nodes; every one but the root hangs below another."""

    def __init__(self, watch: int) -> None:
        """Begin with "/"."""
        self.root = Node(watch, None, b"")
        self._by_watch = {watch: self.root}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_watch)

    def find(self, watch: int) -> Node | None:
        """Return the node of a watch."""
        return self._by_watch.get(watch)

    def find_path(self, path: bytes) -> Node | None:
        """Return the node at an absolute path."""
        node: Node | None = self.root
        for name in path.split(b"/"):
            if name and node is not None:
                node = node.child(name)
        return node

    def place_of(self, watch: int) -> tuple[int, bytes]:
        """Return the watch of the directory that a watched one stands in, and its name there.

        Raises:
            FileNotFoundError: it is watched no longer.
        """
        node = self._by_watch.get(watch)
        if node is None or node.parent is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node.parent.watch, node.name

    def hang(self, watch: int, parent: Node, name: bytes) -> Node:
        """Put a watch below a node, under a name that is free there; one that hangs elsewhere comes with all below it."""
        node = self._by_watch.get(watch)
        if node is None:
            node = self._by_watch[watch] = Node(watch, parent, name)
        else:
            self._unhook(node)
            node.parent, node.name = parent, name
        if parent.below is None:
            parent.below = {}
        parent.below[name] = node
        return node

    def drop(self, top: Node) -> Iterator[Node]:
        """Take a node and all below it out; yields each when it is out."""
        self._unhook(top)
        todo = [top]
        while todo:
            node = todo.pop()
            todo.extend(node.children())
            del self._by_watch[node.watch]
            yield node

    def _unhook(self, node: Node) -> None:
        below = node.parent.below if node.parent is not None else None
        if below is not None and below.get(node.name) is node:
            del below[node.name]
