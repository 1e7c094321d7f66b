"""Disks of one's own: small ones, which fill up, and ones of other kinds; root alone may mount them."""

import contextlib
import shutil
import subprocess

import pytest

_IMAGE = 1 << 30
_LOOKS_LIKE = {"ext2": ["-q", "-F", "-I", "128"], "ext4": ["-q", "-F"], "btrfs": ["-q", "-f"], "xfs": ["-q", "-f"]}


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def grow(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@contextlib.contextmanager
def made(folder, kind):
    """A new file system of a kind, `here` for what there is already; the test is skipped where the machine can't."""
    if kind == "here":
        folder.mkdir()
        yield
        return
    if kind == "tmpfs":
        with small_disk(folder, "1G"):
            yield
        return
    mkfs = shutil.which(f"mkfs.{kind}") or shutil.which(f"/usr/sbin/mkfs.{kind}")
    if mkfs is None:
        pytest.skip(f"NO {kind.upper()}: mkfs.{kind} is not installed")
    image = folder.with_name(f"{kind}.img")
    with image.open("wb") as file:
        file.truncate(_IMAGE)
    subprocess.run([mkfs, *_LOOKS_LIKE[kind], image], check=True, capture_output=True)
    folder.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NO {kind.upper()}: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        image.unlink()
