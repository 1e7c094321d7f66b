-- The put of a blob hashes every byte, so nobody has to know from how much plaintext its length follows.
ALTER TABLE bundles DROP COLUMN plaintext_bytes;
