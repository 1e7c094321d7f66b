-- What this index committed. Another's snapshots, as new as the base, make it doubtful.
CREATE TABLE own_snapshots (snapshot TEXT PRIMARY KEY NOT NULL) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO own_snapshots SELECT snapshot FROM runs WHERE snapshot IS NOT NULL;
INSERT OR IGNORE INTO own_snapshots
    SELECT json_extract(value, '$[0]') FROM state WHERE key = 'base' AND json_extract(value, '$[0]') IS NOT NULL;

-- hardlink is the group that a file's recorded content belongs to, no longer that of the inode which was seen last;
-- every name is on the list of changed files while its own content is to be read.
CREATE INDEX entries_by_hardlink ON entries (hardlink) WHERE hardlink IS NOT NULL;
INSERT INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode, unread)
    SELECT f.id, f.size, 0, f.mtime_ns, f.ctime_ns, f.inode, 1 FROM entries AS f JOIN entries AS l ON l.id = f.hardlink
    WHERE f.type = 'f' AND f.id <> l.id
    AND (l.id IN (SELECT entry FROM changed) OR f.mount <> l.mount OR f.inode <> l.inode OR l.nlink = 1)
    ON CONFLICT (entry) DO UPDATE SET unread = 1;
