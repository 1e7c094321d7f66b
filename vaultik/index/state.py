"""What the index remembers of itself: its source, its store, its config, its last snapshot.

Everything here is a row of the table `state`. The source UUID also lies in a file beside the index,
so that a rebuilt index is the same source to the store.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.errors import ConfigError, LocalIndexError
from vaultik.index.contents import drop_plan
from vaultik.index.db import mapped, open_existing
from vaultik.model import SnapshotId

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path


class Base(NamedTuple):
    """A snapshot that this index has committed, or is about to."""

    snapshot: SnapshotId
    manifest_sha256: str
    db_key: str
    db_size: int
    put_at: float
    """The store's time before its DB was put."""


def get_state(index: sqlite3.Connection, key: str) -> Any:
    """Return a remembered value, or None."""
    row = index.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def set_state(index: sqlite3.Connection, key: str, value: str | float | bytes) -> None:
    """Remember a value."""
    index.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))


def get_base(index: sqlite3.Connection) -> Base | None:
    """Return the last committed snapshot, or None after a lost index."""
    return _find_base(index, "base")


def set_base(index: sqlite3.Connection, base: Base) -> None:
    """Record a committed snapshot; none is pending any more."""
    set_state(index, "base", json.dumps(base))
    set_pending(index, None)


def get_pending(index: sqlite3.Connection) -> Base | None:
    """Return the snapshot that was sent and whose arrival was not recorded, or None."""
    return _find_base(index, "pending")


def set_pending(index: sqlite3.Connection, base: Base | None) -> None:
    """Record that a snapshot is about to be sent, or that none is under way."""
    set_state(index, "pending", json.dumps(base))


def _find_base(index: sqlite3.Connection, key: str) -> Base | None:
    fields = json.loads(get_state(index, key) or "null")
    return Base(SnapshotId(fields[0]), *fields[1:]) if fields else None


def source_uuid(index: sqlite3.Connection, index_path: Path) -> str:
    """Return the source's UUID, made once and kept in the index and in a file beside it.

    Raises:
        LocalIndexError: the file can't be written or holds something else.
    """
    path = index_path.with_name(index_path.name + ".source")
    known = get_state(index, "source")
    try:
        if path.exists():
            beside = str(uuid.UUID(path.read_text().strip()))
            if known is None:
                set_state(index, "source", beside)
            return str(known or beside)
        known = known or str(uuid.uuid4())
        _write_durably(path, f"{known}\n")
    except ValueError as exc:
        raise LocalIndexError(f"source file {path}: not a UUID", hint="remove it to become a new source") from exc
    except OSError as exc:
        raise LocalIndexError(f"source file {path}: {exc.strerror}") from exc
    set_state(index, "source", known)
    return str(known)


def probe(index_path: Path, config_path: Path) -> str:
    """Look at the index as a run of that config would, and say in a few words what it is.

    Raises:
        LocalIndexError: a run could not use it.
        ConfigError: another config uses it.
    """
    index = open_existing(index_path)
    if index is None:
        return "not there yet; the first backup makes it"
    with closing(index), mapped(index_path):
        _check_config(index, config_path)
        (entries,) = index.execute("SELECT count(*) FROM entries").fetchone()
    return f"{entries:,} entries"


def bind_config(index: sqlite3.Connection, config_path: Path) -> None:
    """Tie the index to one config file.

    Raises:
        ConfigError: another config uses it.
    """
    _check_config(index, config_path)
    set_state(index, "config", str(config_path.resolve()))


def _check_config(index: sqlite3.Connection, config_path: Path) -> None:
    path = str(config_path.resolve())
    bound = get_state(index, "config")
    if bound is not None and bound != path:
        raise ConfigError(
            f"index belongs to the config {bound}, not to {path}",
            hint=f"give each config its own index_path; if the file was moved: vaultik backup {config_path} --adopt",
        )


def adopt(index: sqlite3.Connection, config_path: Path) -> None:
    """Tie the index to a config file that was moved."""
    set_state(index, "config", str(config_path.resolve()))


def bind_chunker(index: sqlite3.Connection, chunker: str) -> bool:
    """Remember the chunking parameters; on a change every file has to be read and cut again.

    Extents of large files are planned anew: what was cut by the old parameters and by the new ones doesn't meet.

    Returns:
        True if they changed: nothing cut before can be deduplicated against.
    """
    bound = get_state(index, "chunker")
    set_state(index, "chunker", chunker)
    if bound is None or bound == chunker:
        return False
    index.execute("UPDATE entries SET again = 1 WHERE type = 'f'")
    half_read = "SELECT entry FROM extent_chunks UNION SELECT entry FROM pieces WHERE stop IS NOT NULL"
    for (entry,) in index.execute(half_read).fetchall():
        drop_plan(index, entry)
    index.execute("DELETE FROM remains")
    return True


def bind_location(index: sqlite3.Connection, location: str) -> bool:
    """Remember the store. Returns True if it is another one than before."""
    bound = get_state(index, "location")
    set_state(index, "location", location)
    return bound not in (None, location)


def _write_durably(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".new")
    fd = os.open(aside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
