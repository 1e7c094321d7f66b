"""Space comes back without a key on the source: a year of daily edits, backed up and pruned every day."""

import os
import random
import tempfile

import pytest

from tests.support.world import DAY, World
from vaultik.core.names import BLOBS_PREFIX

DAYS = int(os.environ.get("VAULTIK_DAYS", "210"))
"""`make soak` lives a whole year, of several kinds."""
FILES = 600
SHM = "/dev/shm" if os.path.isdir("/dev/shm") else None


def needed_bytes(world):
    """What the snapshots in the store need: every chunk of theirs once."""
    sizes = {}
    for key in world.snapshots:
        if key in world.objects:
            sizes |= dict(world.rows(key, "SELECT hash, size FROM chunks WHERE id IN (SELECT chunk FROM entry_chunks)"))
    return sum(sizes.values())


def live(host, rng, day, *, hot, cold, new):
    """A day: some files are written anew every time, others now and then; some come, one goes."""
    names = sorted(path.name for path in host.source.iterdir())
    # In an order of their own: a set has another with every process, and each life would be another.
    for name in sorted({*(f"file {n * 37 % FILES:04}" for n in range(hot)), *rng.sample(names, cold)}):
        host.write(name, rng.randint(3_000, 20_000), seed=f"{name} {day}")
    (host.source / rng.choice(names)).unlink(missing_ok=True)
    for n in range(new):
        host.write(f"new {day} {n}", rng.randint(3_000, 20_000), seed=f"new {day} {n}")


def a_year(world, *, hot, cold, new, **rules):
    """Live it. Returns, week by week, the ratio of stored to needed bytes, and the number of blobs."""
    rng = random.Random(1)
    host = world.add_host()
    for n in range(FILES):
        host.write(f"file {n:04}", rng.randint(3_000, 20_000))
    weeks = []
    for day in range(DAYS):
        live(host, rng, day, hot=hot, cold=cold, new=new)
        host.backup()
        world.prune(**rules)
        world.pass_time(DAY)
        if day % 7 == 6:
            stored = sum(len(data) for key, (data, _) in world.objects.items() if BLOBS_PREFIX in key)
            weeks.append((stored / needed_bytes(world), len(world.blobs())))
    return weeks


@pytest.mark.parametrize(
    ("day", "rules"),
    [
        ({"hot": 6, "cold": 1, "new": 1}, {"daily": 7}),
        ({"hot": 6, "cold": 2, "new": 3}, {"daily": 7, "weekly": 4}),
        ({"hot": 20, "cold": 1, "new": 2}, {"daily": 7, "weekly": 4}),
    ][: None if DAYS >= 365 else 1],
)
def test_what_is_stored_stays_near_what_the_kept_snapshots_need(day, rules):
    """In the mean below 1.3 times, also with blobs as small, and so as much padded, as these."""
    with tempfile.TemporaryDirectory(dir=SHM) as folder, World(folder).clocks() as world:
        weeks = a_year(world, **day, **rules)
    ratios = [ratio for ratio, _ in weeks]
    assert sum(ratios) / len(ratios) < 1.3, ratios
    assert max(ratios) < 1.45, ratios
    assert len(world.snapshots) < 30
    half = len(weeks) // 2
    # It goes up and down as a saw: each half is long enough for a whole tooth.
    assert max(blobs for _, blobs in weeks[half:]) < 1.6 * max(blobs for _, blobs in weeks[:half])
