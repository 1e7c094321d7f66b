"""A file system with rules of its own over a directory (FUSE): names that differ in case only are one, or may not be long.

    python odd_fs.py BACKING MOUNTPOINT [--fold] [--longest 60] [--plain]

--plain: no links, special files, owners, xattrs, as on memory cards.
"""

import argparse
import contextlib
import errno
import functools
import os
import subprocess
import sys
import time

try:
    from mfusepy import FUSE, FuseOSError, Operations
except OSError as exc:  # no libfuse
    Operations = object
    LACKING = str(exc)
else:
    LACKING = None


class OddFs(Operations):
    use_ns = True

    def __init__(self, backing, *, fold, longest, plain):
        self.backing = backing
        self.fold = fold
        self.longest = longest
        self.plain = plain

    def at(self, path):
        """The place behind a path; of names that are taken for one, the one that stands there."""
        place = self.backing
        for name in filter(None, path.split("/")):
            if len(os.fsencode(name)) > self.longest:
                raise FuseOSError(errno.ENAMETOOLONG)
            is_other = self.fold and not os.path.lexists(f"{place}/{name}") and os.path.isdir(place)
            names = os.listdir(place) if is_other else []
            place = f"{place}/{next((one for one in names if one.casefold() == name.casefold()), name)}"
        return place

    def getattr(self, path, fh=None):  # noqa: ARG002
        return self.stat(self.at(path))

    @staticmethod
    def stat(place):
        st = os.lstat(place)
        names = "st_mode st_ino st_dev st_nlink st_uid st_gid st_size st_rdev st_blocks"
        times = {f"st_{which}time": getattr(st, f"st_{which}time_ns") for which in "amc"}
        return {**{name: getattr(st, name) for name in names.split()}, **times}

    def readdir(self, path, fh):  # noqa: ARG002
        # With its inode: readdir() passes over names whose inode is 0.
        place = self.at(path)
        return [(name, self.stat(f"{place}/{name}"), 0) for name in (".", "..", *os.listdir(place))]

    def create(self, path, mode, fi=None):  # noqa: ARG002
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT, mode)

    def open(self, path, flags):
        return os.open(self.at(path), flags & ~os.O_APPEND)

    def read(self, path, size, offset, fh):  # noqa: ARG002
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):  # noqa: ARG002
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):  # noqa: ARG002
        os.truncate(self.at(path), length)

    def release(self, path, fh):  # noqa: ARG002
        os.close(fh)

    def mkdir(self, path, mode):
        os.mkdir(self.at(path), mode)

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def unlink(self, path):
        os.unlink(self.at(path))

    def rename(self, old, new, flags=0):
        if flags:
            raise FuseOSError(errno.EINVAL)
        os.rename(self.at(old), self.at(new))

    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    def chown(self, path, uid, gid):
        if self.plain:
            raise FuseOSError(errno.EPERM)
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(self.at(path), ns=times, follow_symlinks=False)

    def readlink(self, path):
        return os.readlink(self.at(path))

    def symlink(self, path, target):
        if self.plain:
            raise FuseOSError(errno.EPERM)
        os.symlink(target, self.at(path))

    def link(self, path, target):
        if self.plain:
            raise FuseOSError(errno.EPERM)
        os.link(self.at(target), self.at(path), follow_symlinks=False)

    def mknod(self, path, mode, dev):
        if self.plain and not mode & 0o100000:
            raise FuseOSError(errno.EPERM)
        os.mknod(self.at(path), mode, dev)

    def statfs(self, path):
        st = os.statvfs(self.at(path))
        return {name: getattr(st, name) for name in dir(st) if name.startswith("f_") and name != "f_fsid"}

    def getxattr(self, path, name, position=0):  # noqa: ARG002
        raise FuseOSError(errno.ENOTSUP)

    def setxattr(self, path, name, value, options, position=0):  # noqa: ARG002
        raise FuseOSError(errno.ENOTSUP)

    def listxattr(self, path):  # noqa: ARG002
        return []

    def removexattr(self, path, name):  # noqa: ARG002
        raise FuseOSError(errno.ENOTSUP)

    def fsync(self, path, datasync, fh):  # noqa: ARG002
        return 0


@functools.cache
def missing():
    """Why there can be none here, None if there can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse here that this user may use"
    return LACKING


@contextlib.contextmanager
def odd_fs(folder, *options):
    """Mount one on a folder that is made, until the block ends."""
    backing = folder.with_name(f"{folder.name}-behind")
    backing.mkdir()
    folder.mkdir()
    process = subprocess.Popen([sys.executable, __file__, str(backing), str(folder), *map(str, options)])
    try:
        for _ in range(600):
            if os.path.ismount(folder):
                break
            assert process.poll() is None, "the file system ended at its start"
            time.sleep(0.05)
        assert os.path.ismount(folder)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backing")
    parser.add_argument("mountpoint")
    parser.add_argument("--fold", action="store_true")
    parser.add_argument("--longest", type=int, default=255)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    system = OddFs(given.backing, fold=given.fold, longest=given.longest, plain=given.plain)
    # Nothing is remembered by the kernel: two names may be one file at any moment.
    forget = {f"{what}_timeout": 0 for what in ("attr", "entry", "negative")}
    FUSE(system, given.mountpoint, foreground=True, nothreads=True, use_ino=True, **forget)
