"""A disk that goes bad: what lies at some offset of a file can't be read any more, and nothing else about it changes."""

import contextlib
import errno
import os

from vaultik.backup import read


class BadDisk:
    """Reading fails in the files that are named in `bad` (name: offset) as the kernel would have it."""

    def __init__(self, monkeypatch):
        self.bad = {}
        fully, into = read._read_fully, read._read_into

        def read_fully(fd, offset, size):
            self._check(fd, offset, size)
            return fully(fd, offset, size)

        def read_into(fd, view, offset):
            self._check(fd, offset, len(view))
            return into(fd, view, offset)

        monkeypatch.setattr(read, "_read_fully", read_fully)
        monkeypatch.setattr(read, "_read_into", read_into)

    def _check(self, fd, offset, size):
        at = self.bad.get(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if at is not None and offset <= at < offset + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextlib.contextmanager
def unlookable(monkeypatch, name):
    """Let nobody look at a name, in this process, as where its inode lies on a bad sector."""
    original = os.stat

    def stat(path, *args, **kwargs):
        if path == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        yield
