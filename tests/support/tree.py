"""Trees with everything that Linux keeps, and a walk that compares two of them without vaultik or rsync."""

import fcntl
import os
import random
import socket
import stat
import subprocess
from pathlib import Path

LONG = "n" * 255
DEEP = 40


def make_tree(root: Path, seed: int = 1) -> None:
    """A tree with every kind of entry that this user may make."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "small").write_text("a few words\n")
    (root / "same as small").write_text("a few words\n")
    (root / "big").write_bytes(rng.randbytes(5_000_000) + b"text " * 400_000)
    (root / os.fsdecode(b"not utf-8 \xff\xfe")).write_bytes(b"bytes")
    (root / "new\nline").write_bytes(b"1")
    (root / LONG).write_bytes(b"long")
    for n in range(200):
        folder = root / f"many/{n % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {n}").write_bytes(rng.randbytes(rng.randint(1, 3000)) * rng.randint(1, 3))
    (root / "empty dir").mkdir()
    (root / "link").symlink_to("small")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.symlink(b"target \xff", os.fsencode(root) + b"/odd link")
    os.link(root / "big", root / "many/hard link to big")
    os.link(root / "small", root / "hard link to small")
    os.mkfifo(root / "fifo")
    make_socket(root / "socket")
    make_holes(root)
    make_deep(root)
    (root / "read only").write_bytes(b"x")
    (root / "read only").chmod(0o400)
    (root / "setuid").write_bytes(b"#!/bin/sh\n")
    (root / "setuid").chmod(0o4755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    os.setxattr(root / "small", "user.comment", b"bytes \x00\xff")
    subprocess.run(["setfacl", "-m", "u:1:r,g:2:rw", root / "read only"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rx", root / "sticky"], check=True)
    if os.geteuid() == 0:
        make_root_only(root)
    backdate(root)
    os.utime(root / "small", ns=(1, -1_234_567_891_234_567_891))
    os.utime(root / "link", ns=(1, 987_654_321_987_654_321), follow_symlinks=False)
    os.utime(root / "many", ns=(1, 1_000_000_001))


def backdate(root: Path) -> None:
    """Give every entry an old time: what was written just before a scan is read again by the next one."""
    for folder, _, names in os.walk(root):
        for name in names:
            os.utime(Path(folder) / name, ns=(1, 1_600_000_000_123_456_789), follow_symlinks=False)


def make_root_only(root: Path) -> None:
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    os.chown(root / "link", 12, 34, follow_symlinks=False)
    os.chown(root / "setuid", 1, 2)
    (root / "setuid").chmod(0o4755)
    os.setxattr(root / "small", "trusted.note", b"root only")
    os.setxattr(root / "setuid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def make_holes(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"in the middle")
        file.seek(9 << 20)
        file.write(b"near the end")
        file.truncate(12 << 20)
    with (root / "one hole").open("wb") as file:
        file.truncate(1 << 20)


def make_deep(root: Path) -> None:
    """Directories whose path is longer than PATH_MAX, reached step by step."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEEP):
        os.mkdir("d" * 150, dir_fd=fd)
        below = os.open("d" * 150, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    with os.fdopen(os.open("at the bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd), "wb") as file:
        file.write(b"deep")
    os.utime("at the bottom", ns=(1, 1_600_000_000_000_000_000), dir_fd=fd)
    os.close(fd)


def edit_tree(root: Path) -> None:
    """A day's changes."""
    with (root / "big").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed in place")
    with (root / "many/0/file 0").open("ab") as file:
        file.write(b"more")
    (root / "many/1/file 1").unlink()
    (root / "many/2").rename(root / "moved")
    (root / "new").write_bytes(b"new file")
    (root / "empty dir").rmdir()
    (root / "empty dir").write_text("a file now")
    (root / "link").unlink()
    (root / "link").mkdir()
    (root / "small").chmod(0o600)
    (root / "fifo").unlink()


def describe(root: Path) -> dict[bytes, tuple]:
    """Every entry below a directory with all that must come back, walked by descriptors."""
    found: dict[bytes, tuple] = {}
    inodes: dict[int, bytes] = {}
    todo = [(b"", os.open(root, os.O_RDONLY | os.O_DIRECTORY))]
    while todo:
        path, fd = todo.pop()
        for name in sorted(os.fsencode(n) for n in os.listdir(fd)):
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            here = path + b"/" + name
            found[here] = facts(fd, name, st) + (
                inodes.setdefault(st.st_ino, here) if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) else None,
            )
            if stat.S_ISDIR(st.st_mode):
                todo.append((here, os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)))
        os.close(fd)
    return found


def compare(source: Path, restored: Path) -> list[str]:
    """What differs between two trees, by name."""
    ours, theirs = describe(source), describe(restored)
    names = sorted(ours.keys() | theirs.keys())
    return [f"{name!r}: {ours.get(name)} is {theirs.get(name)}" for name in names if ours.get(name) != theirs.get(name)]


def facts(fd: int, name: bytes, st: os.stat_result) -> tuple:
    way = b"/proc/self/fd/%d/%s" % (fd, name)
    xattrs = tuple(
        (n, os.getxattr(way, n, follow_symlinks=False)) for n in sorted(os.listxattr(way, follow_symlinks=False))
    )
    content = None
    if stat.S_ISREG(st.st_mode):
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd), "rb") as file:
            content = file.read()
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(name, dir_fd=fd)
    size = None if stat.S_ISDIR(st.st_mode) else st.st_size
    return st.st_mode, st.st_uid, st.st_gid, size, st.st_mtime_ns, st.st_rdev, xattrs, content


def set_flags(path: Path, flags: int) -> None:
    with path.open("rb") as file:
        fcntl.ioctl(file, 0x40086602, flags.to_bytes(8, "little"))


def flags_of(path):
    done = subprocess.run(["lsattr", "-d", path], check=True, capture_output=True, text=True)
    return done.stdout.split()[0]


def itemized(source: Path, restored: Path) -> str:
    """What rsync would still change to make one tree the other: nothing, if they are equal.

    It can't follow paths beyond PATH_MAX; `describe` does.
    """
    deep = "d" * 150
    command = [
        "rsync",
        "-aHAXn",
        "--checksum",
        "--delete",
        "--itemize-changes",
        f"--exclude=/{deep}/{deep}",
        f"{source}/",
        f"{restored}/",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
