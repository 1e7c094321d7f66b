"""What a snapshot says, whatever the row ids: for holding two snapshots of one tree against each other."""

import sqlite3
from contextlib import closing
from io import BytesIO

from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_stream
from vaultik.core.identity import Identity

COLUMNS = (
    "type, mode, uid, gid, user_name, group_name, size, mtime_ns, ctime_ns, birth_ns, link_target, rdev, inode_flags,"
    " marks"
)


def dump(site):
    """Every entry of a site's newest snapshot by path, with its xattrs, its content, and the paths linked to it.

    Parents of the sources are left out: whoever runs here changes their times.
    """
    newest = max(site.objects(".sqlite.zst.age"), key=lambda path: path.name)
    sealed = open_stream(BytesIO(newest.read_bytes()), [Identity(site.identity)])
    plain = b"".join(decode_stream(sealed, size_limit=1 << 30))
    file = site.tmp / "snapshot.sqlite"
    file.write_bytes(plain)
    with closing(sqlite3.connect(file)) as db:
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
