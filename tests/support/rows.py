"""Copies of snapshots made up in memory, for what looks at rows alone."""

import hashlib
import sqlite3
from contextlib import closing
from itertools import count

from vaultik.snapshot.read import COPY_SCHEMA
from vaultik.snapshot.write import schema

DEFAULTS = {
    "mode": 0o644, "uid": 0, "gid": 0, "user_name": "root", "group_name": "root", "size": 0, "mtime_ns": 0, "ctime_ns": 0,
    "birth_ns": None, "link_target": None, "rdev": None, "hardlink": None, "inode_flags": None, "marks": 0,
}  # fmt: skip
DIRECTORY = {"type": "d", "mode": 0o755}


def copy_of(tree, path=":memory:", isolation_level=None):
    """A copied snapshot of `tree`: path to bytes (a file of one chunk), to None (a directory), or to a dict of columns.

    A dict may have `data` besides; directories above are made up.
    """
    copy = sqlite3.connect(path, isolation_level=isolation_level)
    copy.executescript(f"PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; {schema()} {COPY_SCHEMA}")
    ids, chunks, number = {b"": None}, {}, count(1)

    def add(path, columns):
        parent, _, name = path.rpartition(b"/")
        data = columns.pop("data", b"")
        entry = next(number)
        row = {
            "id": entry,
            "parent": ids[parent] if path else None,
            "name": name,
            **DEFAULTS,
            "size": len(data),
            **columns,
        }
        names = ", ".join(row)
        copy.execute(f"INSERT INTO entries ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        ids[path] = entry
        if data:
            if data not in chunks:
                chunks[data] = len(chunks) + 1
                row = (chunks[data], hashlib.sha256(data).digest(), len(data), 1, len(chunks) * 100, 50, 0)
                copy.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            copy.execute("INSERT INTO entry_chunks VALUES (?, 0, ?)", (entry, chunks[data]))

    copy.execute("INSERT INTO blobs VALUES (1, ?, 1000000, 200, 'age1')", (bytes(32),))
    add(b"", dict(DIRECTORY))
    for whole, content in tree.items():
        wanted = whole if isinstance(whole, bytes) else whole.encode()
        at = wanted.find(b"/", 1)
        while at > 0:
            if wanted[:at] not in ids:
                add(wanted[:at], dict(DIRECTORY))
            at = wanted.find(b"/", at + 1)
        add(
            wanted,
            dict(DIRECTORY)
            if content is None
            else {"type": "f", **(content if isinstance(content, dict) else {"data": content})},
        )
    return closing(copy)
