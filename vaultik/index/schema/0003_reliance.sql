-- based: the last committed snapshot refers to it; else it was sealed since. content_bytes: what its chunks came to
-- when it was sealed; live_bytes: those of them that are still referred to.
ALTER TABLE blobs ADD COLUMN based INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN content_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN live_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET content_bytes = (SELECT coalesce(sum(size), 0) FROM chunks WHERE blob = blobs.id);
UPDATE blobs SET live_bytes = content_bytes;

-- No content was ever recorded of it, so an earlier one can't stand in for it.
ALTER TABLE changed ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;

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
