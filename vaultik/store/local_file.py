"""One object of the embedded store on its way to its name: brought aside, looked at, on the disk, then named."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from vaultik.directories import sync_directory
from vaultik.errors import DigestMismatchError, LostBodyError
from vaultik.linux import AT_FDCWD, rename_noreplace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaultik.store.pace import Pace

_BLOCK = 1 << 20


def bring(aside: Path, body: Path | bytes, sha256: bytes, key: str, pace: Pace | None) -> None:
    """Have an object's bytes under a name aside, every one looked at, and on the disk.

    A file on the same disk is linked, not copied, and then is the object: what is looked at is what is linked.

    Args:
        aside: a name that is not taken.
        body: the bytes, or the file that holds them.
        sha256: their digest, 32 bytes.
        key: what to call them in an error.
        pace: how fast they may come.

    Raises:
        DigestMismatchError: the bytes are not what the digest says.
        LostBodyError: the file is gone or can't be read.
        OSError: the disk of the store failed.
    """
    digest = hashlib.sha256()
    is_linked = _link(aside, body)
    new = 0 if is_linked else os.O_CREAT | os.O_EXCL
    fd = os.open(aside, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | new, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as target:
        for block in _blocks(aside if is_linked else body):
            digest.update(block)
            if pace is not None:
                pace.take(len(block))
            at = len(block) if is_linked else 0
            while at < len(block):
                at += target.write(block[at:] if at else block)
        if digest.digest() != sha256:
            raise DigestMismatchError(f"put {key}: the body is not what its digest says")
        if is_linked:
            os.fchmod(fd, 0o600)
            os.utime(fd)  # an object is as old as its put
        os.fsync(fd)


def publish(aside: Path, path: Path) -> bool:
    """Give a finished file its name, durably. Returns False if the name is taken."""
    try:
        rename_noreplace(AT_FDCWD, os.fsencode(aside), AT_FDCWD, os.fsencode(path))
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        # A file system that can't: link refuses a taken name as well.
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def _link(aside: Path, body: Path | bytes) -> bool:
    """Give a file a second name, where it may have one there."""
    if isinstance(body, bytes):
        return False
    try:
        os.link(body, aside, follow_symlinks=False)
    except OSError:
        return False
    return True


def _blocks(body: Path | bytes) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    try:
        with body.open("rb", buffering=0) as source:
            while block := source.read(_BLOCK):
                yield block
    except OSError as exc:
        raise LostBodyError(f"put {body}: {exc.strerror or exc}") from exc
