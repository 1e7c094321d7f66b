"""Heal what a verification found damaged or missing: forget such blobs, so that this run stores anew what they held.

A blob's name is the digest of its own bytes, sealed afresh each time: what is stored anew has another name, and
snapshots that name the old one stay as they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vaultik.core.names import parse_blob_key
from vaultik.errors import ConfigError
from vaultik.index import chunks
from vaultik.shown import plural

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from vaultik.model import BlobId

_LARGEST_REPORT = 256 << 20
_NAMED = 20
_HEALED = ("missing", "size", "damaged", "unreadable", "replaced")
"""Kinds of problems that are a blob's own; what a snapshot says of one may be a lie of that snapshot."""


def load_report(path: Path) -> list[BlobId]:
    """Return the blobs that a report of `vaultik verify --json` calls damaged or missing.

    Raises:
        ConfigError: the file can't be read, or is none.
    """
    try:
        with path.open("rb") as file:
            report = json.loads(file.read(_LARGEST_REPORT))
        problems = [(problem["kind"], problem["key"]) for problem in report["problems"]]
        blobs = {blob: None for kind, key in problems if kind in _HEALED and (blob := parse_blob_key(key)) is not None}
    except OSError as exc:
        raise ConfigError(f"--heal {path}: {exc.strerror or exc}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f"--heal {path}: not what `vaultik verify --json` prints", hint="vaultik verify ... --json > FILE"
        ) from exc
    return list(blobs)


def forget_damaged(index: sqlite3.Connection, blobs: Sequence[BlobId]) -> str:
    """Forget blobs, within a transaction. Returns what will come of it, in a line."""
    known = {blob: row for blob in blobs if (row := chunks.find_blob(index, blob)) is not None}
    chunks.forget_blobs(index, list(known.values()))
    text = f"heal: what {plural(len(known), 'damaged blob')} held of what is here now is stored anew"
    others = [blob.hex() for blob in blobs if blob not in known]
    if not others:
        return text
    named = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
    return f"{text}; no run relies on {plural(len(others), 'other')} (any more), older snapshots stay without: {named}"
