"""What is done to a store as a whole, by who may delete in it: prune.

Prune, in five lines (the rule and its reasons: FORMAT.md, "What may be deleted"):

    now = the store's time; list and read the snapshots; only then list the blobs
    keep what the rules name, each source's newest, and what was a newest within the grace
    refuse whatever can't be read, doesn't agree, isn't known or looks like an accident
    delete dropped DBs, then their manifests, then blobs that nobody kept refers to, then manifests without a DB
    each step confirmed key by key before the next
"""
