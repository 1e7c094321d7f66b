-- Whom a chunked bundle was encrypted to: the config may have changed before it is sealed.
ALTER TABLE bundles ADD COLUMN recipients TEXT NOT NULL DEFAULT '';
