"""What a power cut may leave of a directory, by the system calls that wrote it: what was not synced is there or not.

strace records a real run. The model is what POSIX promises and no more: bytes of a file are on the disk once it
was fsynced after they were written; a name is made, moved or removed once the directory it is in was fsynced after.
Whatever else was done may be there or not, each for itself.
"""

import re
import subprocess
from typing import NamedTuple

CALLS = (
    "openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,"
    "mkdirat,rmdir"
)
MADE = -1
"""A directory, in the place of an inode."""
LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(<.*>)?")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Op(NamedTuple):
    """One call that changes the directory, or syncs a part of it."""

    kind: str
    """create, link, write, sync, rename, unlink or mkdir."""
    path: str
    target: str = ""


def record(command, log, **kwargs):
    """Run a command to its end under strace."""
    strace = ["strace", "-f", "-y", "-s", "300", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(log), *command]
    return subprocess.run(strace, check=True, capture_output=True, **kwargs)


def read_ops(log, *roots):
    """The calls of a log that touch something below one of the directories, in the order in which they ended."""
    ops = []
    pending = {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            pending[pid] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r" *<\.\.\. \w+ resumed>(.*)", rest)
        whole = f"{pid} {pending.pop(pid, '').strip()}{resumed[1]}" if resumed else line
        shape = LINE.match(whole)
        if shape and int(shape[4]) >= 0:
            ops.extend(op for op in _ops(shape[2], shape[3]) if any(root in op.path + op.target for root in roots))
    return ops


def _ops(call, args):
    fd = re.match(r"\d+<([^>]*)>", args)
    names = QUOTED.findall(args)
    if call == "openat" and "O_CREAT" in args:
        yield Op("create", names[0])
    elif call in ("write", "pwrite64", "writev", "ftruncate") and fd:
        yield Op("write", fd[1])
    elif call in ("fsync", "fdatasync") and fd:
        yield Op("sync", fd[1])
    elif call.startswith("rename"):
        yield Op("rename", names[0], names[1])
    elif call.startswith("link"):
        yield Op("link", *names)
    elif call.startswith(("unlink", "rmdir")):
        yield Op("unlink", names[0])
    elif call.startswith("mkdir"):
        yield Op("mkdir", names[0])


def parent(path):
    return path.rsplit("/", 1)[0]


class Cut:
    """What is on the disk for sure after some operations, and what may be."""

    def __init__(self, ops):
        self._written = {}
        """inode -> position of its last write; inodes are numbered by their creation."""
        self._synced = {}
        self._names = {}
        self._steps = []
        """(position, directory, name, inode or None): what happened to a name."""
        self._dir_synced = {}
        for at, op in enumerate(ops):
            getattr(self, f"_{op.kind}")(at, op)

    def names(self, choose):
        """Names and their inodes after a cut; `choose` says of each unsynced step whether it is there."""
        found = {}
        for at, directory, name, inode in self._steps:
            if self._dir_synced.get(directory, -1) > at or choose():
                found |= {name: inode}
        return {name: inode for name, inode in found.items() if inode is not None}

    def is_whole(self, inode):
        """Whether every byte of a file is on the disk for sure."""
        return self._written.get(inode, -1) < self._synced.get(inode, 0) or inode not in self._written

    def _create(self, at, op):
        if self._names.get(op.path) is None:
            self._names[op.path] = at
            self._steps.append((at, parent(op.path), op.path, at))

    def _link(self, at, op):
        """Another name of the very bytes: what was not synced of them under the first one isn't under this one."""
        self._names[op.target] = self._names[op.path]
        self._steps.append((at, parent(op.target), op.target, self._names[op.path]))

    def _write(self, at, op):
        inode = self._names.get(op.path)
        if inode is not None:
            self._written[inode] = at

    def _sync(self, at, op):
        inode = self._names.get(op.path)
        if inode is not None:
            self._synced[inode] = at
        else:
            self._dir_synced[op.path] = at

    def _rename(self, at, op):
        inode = self._names.pop(op.path, None)
        self._names[op.target] = inode
        # The old name goes with the new one's coming: a rename is one step.
        self._steps.append((at, parent(op.target), op.target, inode))

    def _unlink(self, at, op):
        self._names.pop(op.path, None)
        self._steps.append((at, parent(op.path), op.path, None))

    def _mkdir(self, at, op):
        """A directory that may be missing takes with it what is in it: seen by its parent's sync."""
        self._steps.append((at, parent(op.path), op.path, MADE))
