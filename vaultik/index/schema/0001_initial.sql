-- What the index is bound to, and what it remembers between runs (binding.py, runs.py name the keys).
CREATE TABLE state (
    key TEXT PRIMARY KEY NOT NULL,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- st_dev changes over reboots, so a mounted file system is known by what is mounted.
CREATE TABLE mounts (
    id INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE
) STRICT;

-- The first columns are those of the snapshot DB. inode, mount and nlink are the newest that a scan
-- saw; the attributes of a regular file are those of its content (taken on the descriptor before
-- reading), so a changed file keeps its old row, whole, until its new content is recorded.
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
    marks INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    mount INTEGER NOT NULL,
    nlink INTEGER NOT NULL,
    again INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_name ON entries (parent, name);
CREATE INDEX entries_by_inode ON entries (mount, inode) WHERE type = 'f' AND nlink > 1;

CREATE TABLE xattrs (
    entry INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (entry, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    header_length INTEGER NOT NULL,
    recipients TEXT NOT NULL,
    sealed_at REAL NOT NULL,
    uploaded INTEGER NOT NULL
) STRICT;

-- blob set: stored or on its way. bundle set: claimed by a bundle that is being chunked or waits
-- to be sealed. Neither: released; whoever comes next with these bytes claims it anew.
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    bundle INTEGER,
    blob INTEGER,
    frame_offset INTEGER,
    frame_length INTEGER,
    offset INTEGER
) STRICT;
CREATE INDEX chunks_without_blob ON chunks (bundle) WHERE blob IS NULL;

CREATE TABLE entry_chunks (
    entry INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    PRIMARY KEY (entry, offset)
) STRICT, WITHOUT ROWID;

-- Regular files whose content must be read, with the stat that says so.
CREATE TABLE changed (
    entry INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    rereads INTEGER NOT NULL DEFAULT 0,
    dirty INTEGER NOT NULL DEFAULT 0
) STRICT;

-- state: 0 planned, 1 chunked, 2 sealed, 3 uploaded. Ids are never used again.
CREATE TABLE bundles (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    wave INTEGER NOT NULL,
    state INTEGER NOT NULL,
    planned_bytes INTEGER NOT NULL,
    sealed_size INTEGER NOT NULL DEFAULT 0,
    header_length INTEGER NOT NULL DEFAULT 0,
    plaintext_bytes INTEGER NOT NULL DEFAULT 0,
    sha256 BLOB,
    blob INTEGER,
    files INTEGER NOT NULL DEFAULT 0,
    bytes_read INTEGER NOT NULL DEFAULT 0,
    bytes_new INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX bundles_by_run ON bundles (run, wave);

-- A slice of one file: all of it (start 0, stop NULL) or an extent. cut: 1 = start, 2 = stop is a
-- nominal offset whose real boundary FastCDC finds.
CREATE TABLE pieces (
    bundle INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER,
    cut INTEGER NOT NULL,
    PRIMARY KEY (bundle, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX pieces_by_entry ON pieces (entry);

-- The boundary that the first of two neighbouring extents found holds for both.
CREATE TABLE boundaries (
    entry INTEGER NOT NULL,
    nominal INTEGER NOT NULL,
    actual INTEGER NOT NULL,
    PRIMARY KEY (entry, nominal)
) STRICT, WITHOUT ROWID;

-- Content of a file whose extents are not all read yet.
CREATE TABLE extent_chunks (
    entry INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    PRIMARY KEY (entry, offset)
) STRICT, WITHOUT ROWID;

-- A row with an exit code is a receipt.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    started REAL NOT NULL,
    scanned INTEGER NOT NULL DEFAULT 0,
    snapshot TEXT,
    exit_code INTEGER,
    finished REAL,
    counts TEXT NOT NULL DEFAULT '{}'
) STRICT;

-- One row per try to write the snapshot: committed, or back to mending.
CREATE TABLE commits (
    run INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    PRIMARY KEY (run, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE problems (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path BLOB NOT NULL,
    reason TEXT NOT NULL
) STRICT;
