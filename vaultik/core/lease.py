"""How long a store holds what nobody refers to, and how long a run may therefore rely on what it stored.

One rule binds runs and prunes (FORMAT.md, "What may be deleted"): a prune frees nothing younger than the
grace, a run relies on nothing that it sealed as long ago as the reliance. Their difference covers the
time from a listing to a put (the fence), skewed clocks and listings that lag. All of it is the store's time.
"""

DAY_S = 86_400
HOUR_S = 3_600

GRACE_S = 7 * DAY_S
"""G: a prune frees only what nobody has referred to for that long."""
RELIANCE_S = GRACE_S - DAY_S
"""L: a run relies on a blob of its own only that long after it was sealed."""
FENCE_S = 6 * HOUR_S
"""W: a snapshot is put at the latest that long after the listing that it was judged by began."""
PARTIAL_AFTER_S = GRACE_S / 2
"""A run whose oldest uncommitted blob is older writes a partial snapshot."""
