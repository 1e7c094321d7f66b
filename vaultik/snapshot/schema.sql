CREATE TABLE meta (
    key TEXT PRIMARY KEY NOT NULL,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    parent INTEGER,
    name BLOB NOT NULL,
    type TEXT NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    user_name TEXT,
    group_name TEXT,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    birth_ns INTEGER,
    link_target BLOB,
    rdev INTEGER,
    hardlink INTEGER,
    inode_flags INTEGER,
    marks INTEGER NOT NULL
) STRICT;
CREATE TABLE xattrs (
    entry INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (entry, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    header_length INTEGER NOT NULL,
    recipients TEXT NOT NULL
) STRICT;
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    frame_offset INTEGER NOT NULL,
    frame_length INTEGER NOT NULL,
    offset INTEGER NOT NULL
) STRICT;
CREATE TABLE entry_chunks (
    entry INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    PRIMARY KEY (entry, offset)
) STRICT, WITHOUT ROWID;
