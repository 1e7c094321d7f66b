"""Bytes in, bytes out: the formats of FORMAT.md. No I/O but on streams that are handed in."""
