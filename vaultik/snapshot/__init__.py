"""Snapshot DBs: writing them from the index, finding and reading them in a store."""
