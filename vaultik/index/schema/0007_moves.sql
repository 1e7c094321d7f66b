-- retiring: this run seals afresh what lives in it. kept_at: when a run began that could not do so with all of it.
ALTER TABLE blobs ADD COLUMN retiring INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN kept_at REAL NOT NULL DEFAULT 0;

-- A claim on a chunk of a retiring blob. The chunk's own row says where it is stored until the bundle's blob is.
CREATE TABLE moves (
    chunk INTEGER PRIMARY KEY,
    bundle INTEGER NOT NULL,
    frame_offset INTEGER,
    frame_length INTEGER,
    offset INTEGER
) STRICT;
CREATE INDEX moves_by_bundle ON moves (bundle);

-- What could be read of a file, of that ctime, that could not be read as a whole.
CREATE TABLE remains (
    entry INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    PRIMARY KEY (entry, chunk)
) STRICT, WITHOUT ROWID;

-- Extents that were planned before it was known where their range of data ends are planned anew.
DELETE FROM boundaries WHERE entry IN (SELECT entry FROM pieces WHERE stop IS NOT NULL AND range_stop IS NULL);
DELETE FROM extent_chunks WHERE entry IN (SELECT entry FROM pieces WHERE stop IS NOT NULL AND range_stop IS NULL);
DELETE FROM pieces WHERE entry IN (SELECT entry FROM pieces WHERE stop IS NOT NULL AND range_stop IS NULL);
