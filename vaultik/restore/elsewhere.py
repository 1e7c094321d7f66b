"""Find chunks whose blob is damaged or missing in other blobs: a chunk that was stored anew is there as other snapshots say.

After `backup --heal`, and wherever chunks were sealed again, two snapshots of a source name different blobs for the
same chunk. Only places are taken from the other snapshot: what is read there is hashed as everything is.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from vaultik.errors import IntegrityError, NoMatchingIdentityError, ObjectNotFoundError, StoreAccessError
from vaultik.restore import ledger
from vaultik.restore.ledger import Kind
from vaultik.restore.plan import connect
from vaultik.shown import plural
from vaultik.snapshot.find import list_snapshots
from vaultik.snapshot.read import fetch_snapshot, get_meta

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.core.names import SnapshotName
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_OTHER = "other.sqlite"
_USELESS = (IntegrityError, NoMatchingIdentityError, ObjectNotFoundError, StoreAccessError)
"""What is wrong with another snapshot, and no trouble of this restore."""

_MOVED = """
CREATE TEMP TABLE hurt (entry INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO temp.hurt SELECT entry FROM failures WHERE kind = {damaged} UNION ALL SELECT entry FROM lost;
CREATE TEMP TABLE moved AS SELECT c.id AS chunk, b.hash, b.size, b.header_length, b.recipients, o.frame_offset, o.frame_length, o.offset
FROM (SELECT DISTINCT ec.chunk FROM temp.hurt AS h JOIN files AS f ON f.entry = h.entry
    JOIN entry_chunks AS ec ON ec.entry = f.content) AS d
JOIN chunks AS c ON c.id = d.chunk JOIN blobs AS own ON own.id = c.blob
JOIN other.chunks AS o ON o.hash = c.hash AND o.size = c.size JOIN other.blobs AS b ON b.id = o.blob
WHERE b.hash <> own.hash AND (c.id IN (SELECT chunk FROM damaged) OR own.hash NOT IN (SELECT hash FROM other.blobs));
INSERT INTO blobs (id, hash, size, header_length, recipients)
SELECT (SELECT max(id) FROM blobs) + row_number() OVER (), hash, size, header_length, recipients
FROM (SELECT DISTINCT hash, size, header_length, recipients FROM temp.moved WHERE hash NOT IN (SELECT hash FROM blobs));
UPDATE chunks SET blob = (SELECT id FROM blobs WHERE hash = m.hash), frame_offset = m.frame_offset,
    frame_length = m.frame_length, offset = m.offset FROM temp.moved AS m WHERE m.chunk = chunks.id;
CREATE TEMP TABLE hit (entry INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO temp.hit SELECT f.entry FROM temp.moved AS m JOIN entry_chunks AS ec ON ec.chunk = m.chunk
JOIN files AS f ON f.content = ec.entry AND f.entry = f.prime;
DELETE FROM damaged WHERE chunk IN (SELECT chunk FROM temp.moved);
DELETE FROM lost WHERE (entry, offset) IN (SELECT f.entry, ec.offset FROM temp.moved AS m JOIN entry_chunks AS ec ON ec.chunk = m.chunk
    JOIN files AS f ON f.content = ec.entry AND f.entry = f.prime);
UPDATE files SET blobs = (SELECT count(DISTINCT c.blob) FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk
    WHERE ec.entry = files.content) WHERE prime IN (SELECT entry FROM temp.hit);
DELETE FROM written WHERE (entry, blob) IN (SELECT f.entry, c.blob FROM temp.moved AS m JOIN chunks AS c ON c.id = m.chunk
    JOIN entry_chunks AS ec ON ec.chunk = m.chunk JOIN files AS f ON f.content = ec.entry AND f.entry = f.prime);
DELETE FROM written WHERE entry IN (SELECT entry FROM temp.hit) AND NOT EXISTS (SELECT 1 FROM chunks AS c
    CROSS JOIN entry_chunks AS ec ON ec.chunk = c.id CROSS JOIN files AS f ON f.content = ec.entry
    WHERE c.blob = written.blob AND f.entry = written.entry);
INSERT OR IGNORE INTO reads (blob) SELECT DISTINCT c.blob FROM temp.moved AS m JOIN chunks AS c ON c.id = m.chunk;
DROP TABLE temp.hurt
""".replace("{damaged}", f"{Kind.DAMAGED:d}")
"""A chunk gets the place that the other snapshot has for it; what is read of its files is settled anew.

Beside what is known to be damaged, of a damaged file also what lies in blobs that the other snapshot doesn't name any
more: nobody has looked at what comes after the first damage. The other snapshot may be anybody's: a file that has all
it needed of a blob lacks something of it again when a chunk is said to be there.
"""


def look_elsewhere(
    store: Store, name: SnapshotName, identities: Sequence[Identity], copy: sqlite3.Connection, directory: Path
) -> None:
    """Plan to read what is damaged from where other snapshots of the same source have it, if they do.

    The newest is asked, in which what was healed stands, and the one before this one.

    Args:
        store: where they lie.
        name: the snapshot that is restored.
        identities: any of which may open it.
        copy: the copied snapshot and its plan, all of whose blobs have been read.
        directory: a private one, for another snapshot's copy.

    Raises:
        StoreUnavailableError: the store failed.
        OSError: the directory's disk is full.
    """
    found = 0
    try:
        others = list(_others(store, name))
    except StoreAccessError:
        return  # it may not list, and needn't to restore
    for other in others:
        if ledger.has_damage(copy):
            with suppress(*_USELESS):
                found += _take_places(store, other, identities, copy, directory)
    if found:
        chunks = plural(found, "chunk")
        ledger.add_note(
            copy,
            b"/",
            f"{chunks} of snapshot {get_meta(copy)['snapshot']} had been stored anew, and are read from there",
        )


def _others(store: Store, name: SnapshotName) -> Iterator[FoundSnapshot]:
    others = [s for s in list_snapshots(store) if s.source8 == name.source8 and s.name.snapshot != name.snapshot]
    before = [s for s in others if s.name.snapshot < name.snapshot]
    yield from {s.name.snapshot: s for s in (*others[-1:], *before[-1:])}.values()


def _take_places(
    store: Store, other: FoundSnapshot, identities: Sequence[Identity], copy: sqlite3.Connection, directory: Path
) -> int:
    """Take from another snapshot where it has what is damaged. Returns how many chunks that are."""
    path = directory / _OTHER
    path.unlink(missing_ok=True)
    try:
        fetch_snapshot(store, other, identities, directory, path)
        with closing(connect(path)) as opened:
            opened.execute("CREATE INDEX chunks_by_hash ON chunks (hash)")
        copy.execute("ATTACH ? AS other", (str(path),))
        try:
            return _repoint(copy)
        finally:
            copy.execute("DETACH other")
    finally:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(_OTHER + suffix).unlink(missing_ok=True)


def _repoint(copy: sqlite3.Connection) -> int:
    with ledger.transaction(copy):
        for statement in _MOVED.split(";"):
            copy.execute(statement)
        (count,) = copy.execute("SELECT count(*) FROM temp.moved").fetchone()
        copy.execute(
            f"DELETE FROM failures WHERE kind = {Kind.DAMAGED:d} AND entry IN (SELECT entry FROM temp.hit) AND {ledger.NOT_SALVAGED}"
        )
        ledger.read_again(copy)
        copy.execute("DROP TABLE temp.moved")
        copy.execute("DROP TABLE temp.hit")
    return int(count)
