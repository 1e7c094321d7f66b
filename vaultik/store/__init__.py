"""Where sealed bytes live: one contract over a directory, S3 and memory."""
