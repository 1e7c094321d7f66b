"""The spool: sealed blobs on their way out. Ciphertext only, 0600, bounded by the graph.

`<bundle>.part` is being written or waits to be sealed; a name of 64 hex digits is a blob that waits
to be uploaded. Everything else in the directory is not vaultik's and is left alone.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from vaultik.core.age_seal import seal
from vaultik.directories import make_private
from vaultik.errors import LocalIndexError
from vaultik.model import BlobId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.age_seal import Sealed

_OURS = re.compile(r"\d+\.part|[0-9a-f]{64}|snapshot-[^/]+\.(?:sqlite|age)(?:-journal)?")


def part_path(spool: Path, bundle: int) -> Path:
    """Return where a bundle is sealed to."""
    return spool / f"{bundle}.part"


def blob_path(spool: Path, blob: BlobId) -> Path:
    """Return where a sealed blob waits."""
    return spool / blob.hex()


def make_spool(spool: Path, folder: Path) -> None:
    """Make the directory that a config names, which may be linked to another disk, and this source's folder in it; 0700.

    Raises:
        LocalIndexError: one can't be made, everybody may write in it, or a symlink stands for the folder.
    """
    with spool_errors(spool):
        make_private(spool)
    with spool_errors(folder):
        if folder.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        make_private(folder)


def create(path: Path) -> BinaryIO:
    """Open a new private file for writing, in the place of an older one of that name, whose bytes may be an object's by now."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "w+b", buffering=0)


def seal_file(spool: Path, pieces: Iterable[bytes], target: Path, recipients: Sequence[str]) -> Sealed:
    """Seal a stream into a new private file of the spool.

    Raises:
        LocalIndexError: the spool failed.
    """
    with spool_errors(spool), create(target) as file:
        return seal(pieces, file, recipients)


def clean(spool: Path, keep: Iterable[tuple[int, bytes]] = ()) -> None:
    """Remove what an ended run left, but for the files of bundles (id, SHA-256) that go on."""
    wanted = {
        path.name for bundle, digest in keep for path in (part_path(spool, bundle), blob_path(spool, BlobId(digest)))
    }
    with spool_errors(spool):
        for path in spool.iterdir():
            if path.name not in wanted and _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def spool_errors(spool: Path) -> Iterator[None]:
    """Turn the system's errors into LocalIndexError that names the spool."""
    try:
        yield
    except OSError as exc:
        raise LocalIndexError(
            f"spool {spool}: {exc.strerror or exc}",
            hint="it needs room for workers + 1 blobs (blob_size_limit each); set spool_dir to a larger disk",
        ) from exc
