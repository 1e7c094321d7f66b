"""Hold what the format limits (FORMAT.md, "Snapshot DB") before an entry is in the index.

No reader would take a snapshot that breaks a limit, so none is written: what any user of the host can
make costs its own entry, never the backup.
"""

from __future__ import annotations

import errno
import os
import stat

from vaultik.snapshot.rules import DEEPEST, LONGEST_LINK, LONGEST_NAME


def check_entry(name: bytes, st: os.stat_result, depth: int) -> None:
    """Check an entry that lies `depth` names below `/`.

    Raises:
        OSError: no snapshot can hold it, or what is below it.
    """
    if len(name) > LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if stat.S_ISDIR(st.st_mode) and depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEEPEST:,} names below /")
    if st.st_size < 0:
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))


def check_link(target: bytes) -> None:
    """Check the target of a symlink.

    Raises:
        OSError: no snapshot can hold it.
    """
    if not 1 <= len(target) <= LONGEST_LINK:
        raise OSError(errno.ENAMETOOLONG, f"a target of {len(target):,} bytes")
