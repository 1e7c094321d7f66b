"""The watcher: which directories of the sources changed since it was last asked.

It has no gap or says so. Watches are placed before the full scan that all else builds on; whatever can't
be told after that (lost events, too few watches, a source that is not where it was) is a doubt: the next
run scans everything, and the watches are placed anew before it begins.

    inotify   the kernel's events                   place     which directories are watched
    nodes     which watch stands where              mounted   what gives no event
    watches   from a node to its open directory     watch     what an event means, what is dirty or in doubt
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from vaultik.backup.changes import Changes
from vaultik.backup.exclude import excludes_of
from vaultik.daemon import inotify, limits
from vaultik.daemon.inotify import Inotify
from vaultik.daemon.mounted import Surroundings
from vaultik.daemon.place import Placer, place_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.config import Config
    from vaultik.daemon.nodes import Node

_LOOK_AROUND_S = 1.0
"""Mounts give no event: so often at most they are looked at while events come."""


class Watcher:
    """Watches the sources of one config. Its methods may be called from any thread."""

    def __init__(self, config: Config, *, note: Callable[[str], object] = lambda _text: None) -> None:
        """Prepare; nothing is watched yet.

        Args:
            config: names the sources and what stays out.
            note: told in one line, once, why everything has to be scanned although nobody asked for it.
        """
        self._config = config
        self._note = note
        self._lock = threading.RLock()
        # Stays the same when the inotify instance behind it is replaced.
        self._poll = select.epoll()
        self._inotify: Inotify | None = None
        self._placer: Placer | None = None
        self._excludes = excludes_of(config)
        self._dirty: dict[Node, bool] = {}
        """Directories that changed, and whether all below them has to be looked at."""
        self._files: set[bytes] = set()
        self._given = Changes()
        self._surroundings = Surroundings(())
        self._looked = 0.0
        self._is_stale = True
        self._said: str | None = None
        self.doubt: str | None = "nothing is watched yet"
        """Why a full scan is needed now, in a line; None if what changed is known."""

    @property
    def dirty(self) -> int:
        """How many directories and trees are dirty now."""
        return len(self._dirty) + len(self._files) + len(self._given.directories | self._given.trees)

    @property
    def watching(self) -> int:
        """How many directories are watched."""
        placer = self._placer
        return len(placer.tree) if placer is not None else 0

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something to take; always the same one."""
        return self._poll.fileno()

    def start(self) -> None:
        """Place watches on everything, or do so afresh: a full scan is needed after it.

        It takes seconds on 100,000 directories.
        """
        with self._lock:
            self.doubt = None
            self._place()
            self.doubt = self.doubt or "watching has only just begun"

    def read(self) -> None:
        """Take the events that are pending, without waiting for any.

        The kernel holds `fs.inotify.max_queued_events` of them; to be called while a run goes on, too.
        """
        with self._lock:
            self._read(look_around=time.monotonic() >= self._looked + _LOOK_AROUND_S)

    def take(self) -> Changes | None:
        """Return what is dirty and begin anew; None if everything has to be scanned.

        What changes after this is in the next one, though the run that follows may see it already.
        """
        with self._lock:
            self._read(look_around=True)
            if self.doubt is None:
                taken = self._changes()
                self._said = None
            else:
                taken = None
                self.doubt = None
                if self._is_stale:
                    self._place()
            self._forget()
            return taken

    def give_back(self, changes: Changes | None) -> None:
        """Take back what a run that failed was to look at."""
        with self._lock:
            if changes is None:
                self.doubt = self.doubt or "the last full scan came to nothing"
            else:
                self._given |= changes

    def close(self) -> None:
        """Watch nothing any more."""
        with self._lock:
            self._end()
            self._poll.close()

    # -- what is dirty ----------------------------------------------------------------------------

    def _changes(self) -> Changes:
        directories = {node.path() for node, is_tree in self._dirty.items() if not is_tree}
        trees = {node.path() for node, is_tree in self._dirty.items() if is_tree}
        return Changes(frozenset(directories | self._files), frozenset(trees)) | self._given

    def _forget(self) -> None:
        self._dirty.clear()
        self._files.clear()
        self._given = Changes()

    def _mark(self, node: Node, *, is_tree: bool = False) -> None:
        self._dirty[node] = is_tree or self._dirty.get(node, False)

    # -- doubts -----------------------------------------------------------------------------------

    def _doubt(self, text: str) -> None:
        """Give up on what the watches tell, until they are placed anew."""
        self._is_stale = True
        self.doubt = self.doubt or text
        if text != self._said:
            self._note(f"everything will be scanned: {text}")
            self._said = text

    def _place(self) -> None:
        """Place all watches anew. Leaves a doubt behind if that can't be done."""
        self._end()
        self._forget()
        self._excludes = excludes_of(self._config)
        self._surroundings = Surroundings(self._config.source_dirs)
        self._looked = time.monotonic()
        try:
            self._inotify = Inotify()
            self._placer = Placer(
                self._inotify,
                self._excludes,
                one_file_system=self._config.one_file_system,
                dropped=lambda node: self._dirty.pop(node, None),
            )
            problems = place_all(self._placer, self._config.source_dirs)
        except OSError as exc:
            self._end()
            self._doubt(limits.no_instance(exc))
            return
        self._poll.register(self._inotify.fd, select.EPOLLIN)
        self._is_stale = bool(problems)
        if problems:
            self._doubt(problems[0])
        self._check_placer()

    def _check_placer(self) -> None:
        """Look whether a watch could not be placed."""
        if self._placer is None:
            return
        if self._placer.is_full:
            needed = len(self._placer.tree)
            # What others could use is of no use here while some directories are not watched.
            self._end()
            self._doubt(limits.too_few_watches(needed))
        elif self._placer.failure is not None:
            self._doubt(f"a directory can't be watched: {self._placer.failure.strerror}")

    def _end(self) -> None:
        if self._placer is not None:
            self._placer.close()
            self._placer = None
        if self._inotify is not None:
            if not self._poll.closed:
                _unregister(self._poll, self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    def _look_around(self, placer: Placer) -> None:
        """Look for what gives no event: another directory at a source's path, mounts."""
        self._looked = time.monotonic()
        source = self._surroundings.replaced()
        if source is not None:
            self._doubt(f"source {os.fsdecode(source)}: it was replaced, removed or mounted")
            return
        points = self._surroundings.remounted()
        if points:
            placer.forget_mounts()
        for point in points:
            self._mounted(placer, point)

    def _mounted(self, placer: Placer, point: bytes) -> None:
        above, _, name = point.rpartition(b"/")
        parent = placer.tree.find_path(above)
        if parent is None or parent in placer.ways or not name:
            return
        self._mark(parent)
        self._appeared(placer, parent, name)

    # -- events -----------------------------------------------------------------------------------

    def _read(self, *, look_around: bool) -> None:
        if self._inotify is None or self._placer is None:
            return
        for event in self._inotify.read():
            if not self._is_stale:
                self._event(self._placer, event.watch, event.mask, event.name)
        if not self._is_stale:
            for node in self._placer.find_lost():
                self._mark(node, is_tree=True)
        if look_around and not self._is_stale:
            self._look_around(self._placer)
        self._placer.release()
        if not self._is_stale:
            self._check_placer()

    def _event(self, placer: Placer, watch: int, mask: int, name: bytes) -> None:
        if mask & inotify.OVERFLOW:
            self._doubt(limits.lost_events())
            return
        node = placer.tree.find(watch)
        if node is None:
            return
        if node in placer.ways:
            self._on_the_way(placer, node, mask, name)
        elif not name:
            self._itself(placer, node, mask)
        else:
            self._entry(placer, node, mask, name)

    def _on_the_way(self, placer: Placer, node: Node, mask: int, name: bytes) -> None:
        if not name and mask & inotify.ENDED:
            self._doubt(f"{os.fsdecode(node.path())}, which leads to a source, was moved, removed or unmounted")
        elif name and node in placer.files and name in placer.files[node]:
            self._files.add(placer.files[node][name])

    def _itself(self, placer: Placer, node: Node, mask: int) -> None:
        if mask & inotify.ATTRIBUTES:
            self._mark(node)
        elif not mask & inotify.ENDED:
            return
        elif node in placer.sources:
            self._doubt(f"source {os.fsdecode(node.path())}: it was moved, removed or unmounted")
        else:
            # Whoever holds it has an event of its own, or it was unmounted.
            placer.drop(node)

    def _entry(self, placer: Placer, node: Node, mask: int, name: bytes) -> None:
        """Something happened to a name in a watched directory."""
        is_directory = bool(mask & inotify.IS_DIRECTORY)
        is_marker = name in self._excludes.markers
        if not (is_directory or is_marker) and node in self._dirty:
            return
        path = node.path().rstrip(b"/") + b"/" + name
        if self._excludes.is_own(path):
            return
        in_place = not mask & (inotify.APPEARED | inotify.WENT)
        if is_directory and (not in_place or node.child(name) is None):
            self._appeared(placer, node, name)
        if is_marker:
            self._mark(node, is_tree=True)
            placer.walk(node)
        elif not (in_place and self._is_left_out(placer, node, path, is_directory=is_directory)):
            self._mark(node)

    def _appeared(self, placer: Placer, parent: Node, name: bytes) -> None:
        node = placer.settle(parent, name)
        if node is not None:
            self._mark(node, is_tree=True)

    def _is_left_out(self, placer: Placer, node: Node, path: bytes, *, is_directory: bool) -> bool:
        return node in placer.marked or self._excludes.excludes_name(path, is_directory=is_directory)


def _unregister(poll: select.epoll, fd: int) -> None:
    try:
        poll.unregister(fd)
    except FileNotFoundError:
        return
