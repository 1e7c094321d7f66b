"""Snapshots as a file system that is only read.

`catalog` (which snapshots there are, under which names) and `opened` (their DBs, a few at a time) lead to a `tree` (one
snapshot's entries), `frames` gets their content (a bounded cache, reading ahead), `filesystem` puts them together and speaks
POSIX, and `kernel` is the door to FUSE: all below it knows nothing of it.
"""
