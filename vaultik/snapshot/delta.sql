CREATE TABLE layers (
    place INTEGER PRIMARY KEY,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE superseded_entries (
    id INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE superseded_chunks (
    id INTEGER PRIMARY KEY
) STRICT;
