"""Trees with all that Linux keeps, and a survey of every bit of it without vaultik or rsync."""

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import stat
import subprocess
from pathlib import Path

from tests.support.tree import make_socket, make_tree

ROOT = os.geteuid() == 0
OLD = 1_500_000_000_000_000_000
BEFORE_1970 = -1_000_000_000_000_000_001
FIRST, LAST = -(1 << 31) * 10**9, ((1 << 31) - 1) * 10**9 + 999_999_999
"""What every file system keeps of times."""
CHATTR = {"no dump": "+d", "no access time": "+A", "synchronous": "+S"}
FOR_ROOT = {"immutable": "+i", "append only": "+a", "immutable dir": "+i", "append dir": "+a"}


def make_everything(root, flags=True):
    """What `make_tree` makes, and what only a reader of man pages has; root's things where this is root."""
    make_tree(root)
    make_names(root / "names")
    make_links(root / "links")
    make_modes(root / "modes")
    make_sparse(root / "sparse files")
    make_xattrs(root / "xattrs")
    make_times(root / "times")
    if flags:
        make_flagged(root / "flags")


def make_names(at):
    at.mkdir()
    for byte in set(range(1, 256)) - {ord("/"), ord(".")}:
        (Path(os.fsdecode(os.fsencode(at) + b"/" + bytes([byte])))).write_bytes(b"")
    (at / os.fsdecode(b"\xff" * 255)).mkdir()
    (at / "-rf").write_text("option")
    (at / "...").write_text("dots")
    (at / "*").mkdir(exist_ok=True) if not (at / "*").exists() else None


def make_links(at):
    """Of every kind: what has several names is one thing."""
    (at / "deep/er").mkdir(parents=True)
    try:
        (at / "longest").symlink_to("t" * 255 + "/" + "u" * 3839)
    except OSError:  # XFS has room for 1,023 bytes
        (at / "longest").symlink_to("t" * 1023)
    (at / "to itself").symlink_to("to itself")
    (at / "file").write_text("several names")
    (at / "empty").write_bytes(b"")
    os.mkfifo(at / "fifo")
    make_socket(at / "socket")
    for name in ("longest", "file", "empty", "fifo", "socket"):
        os.link(at / name, at / "deep" / name, follow_symlinks=False)
        os.link(at / name, at / "deep/er" / name, follow_symlinks=False)
    if ROOT:
        os.mknod(at / "device", stat.S_IFCHR | 0o620, os.makedev(511, 262_143))
        os.link(at / "device", at / "deep/device")
        os.chown(at / "longest", 123_456, 4_000_000_000, follow_symlinks=False)
    os.utime(at / "longest", ns=(1, BEFORE_1970), follow_symlinks=False)


def make_modes(at):
    """Of files and directories; only root can read those that nobody may."""
    at.mkdir()
    for mode in (0o000, 0o111, 0o222, 0o444, 0o500, 0o777, 0o1000, 0o1755, 0o2070, 0o2770, 0o4001, 0o6755, 0o7777):
        for kind, needed in (("file", 0o400), ("dir", 0o500)):
            path = at / f"{kind} {mode:o}"
            if not ROOT and mode & needed != needed:
                continue
            inside = path / "inside" if kind == "dir" else path
            inside.parent.mkdir(exist_ok=True)
            inside.write_text("x")
            if ROOT:
                os.chown(path, 12, 34)
            path.chmod(mode)


def make_sparse(at):
    at.mkdir()
    with (at / "every other block").open("wb") as file:
        for n in range(64):
            file.seek(n * 131_072)
            file.write(bytes([n + 1]) * 4096)
    with (at / "hole first").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    (at / "only a hole").touch()
    os.truncate(at / "only a hole", 50_000_000)
    (at / "zeros that are data").write_bytes(bytes(300_000))
    with (at / "reserved").open("wb") as file:
        file.write(b"data")
        os.posix_fallocate(file.fileno(), 0, 1 << 20)


def make_xattrs(at):
    at.mkdir()
    (at / "many").write_text("x")
    for n in range(40):
        os.setxattr(at / "many", f"user.{'n' * n}{n}", bytes([n]) * n)
    (at / "large").write_text("x")
    os.setxattr(at / "large", b"user.\xff\n", bytes(range(256)) * 12)
    os.setxattr(at, "user.of a directory", b"")
    (at / "acl").mkdir()
    for who in ("u:1:rwx", "g:2:-", "m::rx"):
        subprocess.run(["setfacl", "-m", who, at / "acl"], check=True)
    for who in ("u:3:r", "g:4:rwx", "o::-"):
        subprocess.run(["setfacl", "-d", "-m", who, at / "acl"], check=True)
    (at / "acl/inherits").write_text("x")
    os.mkfifo(at / "acl/fifo")
    if ROOT:
        (at / "link").symlink_to("many")
        os.mkfifo(at / "fifo")
        os.mknod(at / "device", stat.S_IFBLK | 0o600, os.makedev(7, 200))
        for name in ("link", "fifo", "device", "many", "acl"):
            os.setxattr(at / name, "trusted.note", name.encode(), follow_symlinks=False)
            os.setxattr(at / name, "security.note", b"\x00\xff", follow_symlinks=False)
        capability = "0000000200040000000000000000000000000000"
        os.setxattr(at / "large", "security.capability", bytes.fromhex(f"01{capability[2:]}"))


def make_times(at):
    at.mkdir()
    for ns in (FIRST, BEFORE_1970, -1, 0, 1, 999_999_999, LAST):
        (at / f"file {ns}").write_text("x")
        (at / f"dir {ns}").mkdir()
        (at / f"link {ns}").symlink_to("x")
        os.mkfifo(at / f"fifo {ns}")
        for kind in ("file", "dir", "link", "fifo"):
            os.utime(at / f"{kind} {ns}", ns=(ns, ns), follow_symlinks=False)
    os.utime(at, ns=(0, BEFORE_1970))


def make_flagged(at):
    """Whatever chattr sets on this file system: what it doesn't take is not there."""
    at.mkdir()
    for name, flag in {**CHATTR, **(FOR_ROOT if ROOT else {})}.items():
        path = at / name
        path.mkdir() if "dir" in name else path.write_text(name)
        if "dir" in name:
            (path / "inside").write_text("x")
        subprocess.run(["chattr", flag, path], check=False, capture_output=True)
    for name, flag in (("no copy on write", "+C"), ("compressed", "+c")):
        (at / name).write_bytes(b"")
        subprocess.run(["chattr", flag, at / name], check=False, capture_output=True)
        (at / name).write_text("text " * 10_000)
    if ROOT:
        os.link(at / "no dump", at / "no dump, too")


@contextlib.contextmanager
def removable(*roots):
    """Whatever has been made immutable below can be removed again in the end."""
    try:
        yield
    finally:
        existing = [root for root in roots if root.exists()]
        subprocess.run(["chattr", "-R", "-f", "-ia", *existing], check=False, capture_output=True)


def generate(root, count, seed=1):
    """So many entries of all kinds in directories of all sizes, with attributes drawn by chance."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    folders, files = [root], []
    for n in range(count):
        at = rng.choice([f for f in folders[-50:] if len(f.parts) < 60] or [root]) / f"{n} {'x' * rng.randrange(40)}"
        kind = rng.choices(("file", "dir", "link", "hard", "fifo"), (70, 10, 10, 9, 1))[0]
        if kind == "dir":
            at.mkdir()
            folders.append(at)
        elif kind == "link":
            at.symlink_to("y" * rng.randrange(1, 300))
        elif kind == "hard" and files:
            os.link(rng.choice(files[-200:]), at)
        elif kind == "fifo":
            os.mkfifo(at)
        else:
            at.write_bytes(rng.randbytes(rng.choice((0, 10, 100, 1000, 10_000))) * rng.choice((1, 1, 1, 3)))
            files.append(at)
            at.chmod(rng.choice((0o600, 0o644, 0o755, 0o400, 0o4711)))
            if rng.random() < 0.1:
                os.setxattr(at, "user.n", str(n).encode())
            if ROOT and rng.random() < 0.2:
                os.chown(at, rng.randrange(2000), rng.randrange(2000))
        os.utime(at, ns=(1, OLD + rng.randrange(-(10**18), 10**17)), follow_symlinks=False)
    for at in folders:
        os.utime(at, ns=(1, OLD + rng.randrange(10**17)))


def survey(root, *, flags=True):
    """Every entry at and below a directory with everything that must come back, walked by descriptors."""
    found, inodes = {}, {}
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    st = os.fstat(top)
    found[b""] = _facts(top, b".", st, flags=flags)
    todo = [(b"", top)]
    while todo:
        path, fd = todo.pop()
        for name in sorted(os.fsencode(n) for n in os.listdir(fd)):
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            here = path + b"/" + name
            found[here] = _facts(fd, name, st, flags=flags)
            if stat.S_ISDIR(st.st_mode):
                todo.append((here, os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)))
            elif st.st_nlink > 1:
                found[here]["same as"] = inodes.setdefault(st.st_ino, here)
        os.close(fd)
    return found


def _facts(fd, name, st, *, flags):
    way = b"/proc/self/fd/%d/%s" % (fd, name)
    names = sorted(os.listxattr(way, follow_symlinks=False))
    facts = {
        "mode": oct(st.st_mode),
        "owner": (st.st_uid, st.st_gid),
        "time": st.st_mtime_ns,
        "device": st.st_rdev,
        "xattrs": {n: os.getxattr(way, n, follow_symlinks=False) for n in names},
    }
    if stat.S_ISLNK(st.st_mode):
        facts["target"] = os.readlink(name, dir_fd=fd)
    if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
        with _opened(fd, name) as it:
            if flags:
                facts["flags"] = _flags(it)
            if stat.S_ISREG(st.st_mode):
                facts |= {"size": st.st_size, **_content(it, st)}
    return facts


@contextlib.contextmanager
def _opened(fd, name):
    it = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
    try:
        yield it
    finally:
        os.close(it)


def _flags(fd):
    got = bytearray(8)
    try:
        fcntl.ioctl(fd, 0x80086601, got)
    except OSError:
        return None
    # Not what tells how the file system stores the file: extents, inline data, an index.
    return hex(int.from_bytes(got[:4], "little") & 0x62_83_C4_FF)


def _content(fd, st):
    """What there is besides zeros, and what it takes on the disk."""
    hashed, at = hashlib.sha256(), 0
    while at < st.st_size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            break
        at = min(os.lseek(fd, start, os.SEEK_HOLE), st.st_size)
        while start < at:
            block = os.pread(fd, min(4096, at - start), start)
            if block.strip(b"\0"):
                hashed.update(b"%d " % start + block.rstrip(b"\0"))
            start += len(block)
    return {"content": hashed.hexdigest(), "disk": st.st_blocks * 512}


def differences(source, restored, **how):
    """What differs between two trees, fact by fact."""
    ours, theirs = survey(source, **how), survey(restored, **how)
    return [
        f"{path!r}: {fact}: {ours.get(path, {}).get(fact)} is {theirs.get(path, {}).get(fact)}"
        for path in sorted(ours.keys() | theirs.keys())
        for fact in sorted(ours.get(path, {}).keys() | theirs.get(path, {}).keys())
        if not _alike(fact, ours.get(path, {}).get(fact), theirs.get(path, {}).get(fact))
    ]


def _alike(fact, here, there):
    """No hole is filled: what a file takes may be more by maps of extents, or less by what was reserved."""
    if fact == "disk":
        return None not in {here, there} and there <= here + 65_536
    return here == there
