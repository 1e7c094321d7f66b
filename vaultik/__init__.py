"""vaultik: incremental, deduplicating, encrypted backup to S3-compatible storage."""

__version__ = "0.1.0"
