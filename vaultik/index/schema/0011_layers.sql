-- What lies in the store of a snapshot DB's rows (FORMAT.md, "Layers"): the first layer is all of them as they were once,
-- each further one what had changed since the one below was written. hash: of the layer's blob.
CREATE TABLE layers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    hash BLOB NOT NULL,
    rows INTEGER NOT NULL
) STRICT;
-- What triggers, which stand as long as there are layers, saw changing, and under which topmost layer the last time.
CREATE TABLE touched_entries (id INTEGER PRIMARY KEY, since INTEGER NOT NULL) STRICT;
CREATE TABLE touched_chunks (id INTEGER PRIMARY KEY, since INTEGER NOT NULL) STRICT;
