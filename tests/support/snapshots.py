"""Snapshot DBs as FORMAT.md has them, opened and put together without vaultik's own reader."""

import sqlite3
from contextlib import closing
from io import BytesIO

from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_frames
from vaultik.core.identity import Identity
from vaultik.core.names import blob_key
from vaultik.restore.scratch import copied_snapshot
from vaultik.secrets import load_identities
from vaultik.store.open import open_store

COLUMNS = (
    "type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target, rdev, inode_flags,"
    " marks"
)
TABLES = ("meta", "entries", "xattrs", "blobs", "chunks", "entry_chunks")
SUPERSEDED = {"entries": "id", "xattrs": "entry", "entry_chunks": "entry", "chunks": "id"}


def open_own(sealed, identities):
    """A snapshot's own DB, or a layer: the rows that it has itself."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(b"".join(decode_frames(open_stream(BytesIO(sealed), identities), size_limit=1 << 30)))
    return db


def open_whole(sealed, identities, read):
    """A snapshot's DB with what it builds on; `read` gives an object's bytes by its key."""
    with closing(open_own(sealed, identities)) as own:
        (kind,) = own.execute("SELECT value FROM meta WHERE key = 'kind'").fetchone()
        names = own.execute("SELECT hash FROM layers ORDER BY place").fetchall() if kind == "delta" else []
    parts = [*(read(blob_key(name)) for (name,) in names), sealed]
    whole = open_own(parts[0], identities)
    for part in parts[1:]:
        with closing(open_own(part, identities)) as own:
            whole.execute("ATTACH ':memory:' AS part")
            whole.deserialize(own.serialize(), name="part")
        for table in TABLES:
            column = SUPERSEDED.get(table)
            noted = f"part.superseded_{'chunks' if table == 'chunks' else 'entries'}"
            whole.execute(f"DELETE FROM main.{table} WHERE {f'{column} IN (SELECT id FROM {noted})' if column else 1}")
            whole.execute(f"INSERT INTO main.{table} SELECT * FROM part.{table}")
        whole.execute("DETACH part")
    return whole


def open_newest(site):
    """The DB of a site's newest snapshot, with what it builds on."""
    newest = max(site.objects(".sqlite.zst.age"), key=lambda path: path.name)
    root = site.store / site.bucket / site.prefix
    return open_whole(newest.read_bytes(), [Identity(site.identity)], lambda key: (root / key).read_bytes())


def dump(site):
    """Every entry of a site's newest snapshot by path, with its xattrs, its content, and the paths linked to it.

    Parents of the sources are left out: whoever runs here changes their times.
    """
    with closing(open_newest(site)) as db:
        return describe(db)


def describe(db):
    """As `dump`, of an open snapshot DB."""
    paths = _paths(db)
    group = {}
    leader = {}
    for entry, hardlink in db.execute("SELECT id, hardlink FROM entries"):
        leader[entry] = hardlink or entry
        group.setdefault(leader[entry], set()).add(paths[entry])
    xattrs = _collected(db.execute("SELECT entry, name, value FROM xattrs ORDER BY entry, name"))
    content = _collected(
        db.execute(
            "SELECT ec.entry, ec.offset, c.hash, c.size FROM entry_chunks AS ec JOIN chunks AS c ON c.id = ec.chunk"
            " ORDER BY ec.entry, ec.offset"
        )
    )
    return {
        paths[entry]: (*columns, xattrs.get(leader[entry]), content.get(leader[entry]), sorted(group[leader[entry]]))
        for entry, *columns in db.execute(f"SELECT id, {COLUMNS} FROM entries WHERE NOT marks & 2")
    }


def differences(ours, theirs):
    """What differs between two dumps, by path."""
    names = sorted(ours.keys() | theirs.keys())
    return [f"{name!r}: {ours.get(name)} is {theirs.get(name)}" for name in names if ours.get(name) != theirs.get(name)]


def _paths(db):
    rows = {row[0]: row[1:] for row in db.execute("SELECT id, parent, name FROM entries")}
    paths = {}

    def path(entry):
        if entry not in paths:
            parent, name = rows[entry]
            paths[entry] = b"" if parent is None else path(parent) + b"/" + name
        return paths[entry]

    for entry in rows:
        path(entry)
    return paths


def _collected(rows):
    found = {}
    for entry, *values in rows:
        found.setdefault(entry, []).append(tuple(values))
    return found


def blobs_of(site, name):
    """The blobs of a file, in its order."""
    with copied_snapshot(
        open_store(site.endpoint, site.bucket, site.prefix), load_identities(site.key), "latest"
    ) as found:
        rows = found.copy.execute(
            "SELECT DISTINCT lower(hex(b.hash)) FROM entries AS e JOIN entry_chunks AS ec ON ec.entry = coalesce(e.hardlink, e.id)"
            " JOIN chunks AS c ON c.id = ec.chunk JOIN blobs AS b ON b.id = c.blob WHERE e.name = ? ORDER BY ec.offset",
            (name,),
        ).fetchall()
    paths = {path.name: path for path in site.blobs()}
    return [paths[digest] for (digest,) in rows]
