-- based: 1 if the last committed snapshot refers to it (else it was sealed since), plus 2 if the one sent last does,
-- which may arrive without anybody hearing of it. content_bytes: what its chunks came to
-- when it was sealed; live_bytes: those of them that are still referred to.
ALTER TABLE blobs ADD COLUMN based INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN content_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN live_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE blobs AS b SET content_bytes = g.size
    FROM (SELECT blob, sum(size) AS size FROM chunks WHERE blob IS NOT NULL GROUP BY blob) AS g WHERE g.blob = b.id;
UPDATE blobs SET live_bytes = content_bytes;

-- No content was ever recorded of it, so an earlier one can't stand in for it.
ALTER TABLE changed ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
UPDATE changed SET unread = 1 WHERE entry NOT IN (SELECT entry FROM entry_chunks);

-- The base is one value now, with what tells it in a listing. One that was recorded before isn't known so well:
-- what is older than the reliance is uploaded again.
DELETE FROM state WHERE key IN ('base_snapshot', 'base_manifest');

-- An extent of it was read so soon after a change that another may have the same time.
ALTER TABLE changed ADD COLUMN again INTEGER NOT NULL DEFAULT 0;

-- Where the range of data ends that the slice is of: its neighbour's boundary may not lie behind that.
ALTER TABLE pieces ADD COLUMN range_stop INTEGER;

-- Hard links are kept of everything that may have them.
DROP INDEX entries_by_inode;
CREATE INDEX entries_by_inode ON entries (mount, inode) WHERE type <> 'd' AND nlink > 1;

-- Its content didn't change: what was stored of it is lost, or is to be sealed again.
ALTER TABLE changed ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;

CREATE INDEX problems_by_run ON problems (run);
