"""Space comes back without a key on the source: a year of daily edits, backed up and pruned every day."""

import os
import random
import sqlite3
import tempfile
from io import BytesIO

import pytest

from tests.support.world import DAY, World
from vaultik.core.age_stream import open_stream
from vaultik.core.frames import decode_stream
from vaultik.core.names import BLOBS_PREFIX, DB_SUFFIX

DAYS = int(os.environ.get("VAULTIK_DAYS", "365"))


def needed_bytes(world):
    """What the snapshots in the store need: every chunk of theirs once."""
    sizes = {}
    for key, (data, _) in world.objects.items():
        if key.endswith(DB_SUFFIX):
            db = sqlite3.connect(":memory:")
            stream = open_stream(BytesIO(data), [world.identity])
            db.deserialize(b"".join(decode_stream(stream, size_limit=1 << 30)))
            sizes |= dict(
                db.execute("SELECT hash, size FROM chunks WHERE id IN (SELECT chunk FROM entry_chunks)").fetchall()
            )
            db.close()
    return sum(sizes.values())


def live(host, rng, day, *, churn, hot):
    """A day: some files are written anew, of which some are always the same ones; a few come and go."""
    names = sorted(path.name for path in host.source.iterdir())
    for name in rng.sample(names, max(1, int(len(names) * churn))) + names[:hot]:
        host.write(name, rng.randint(5_000, 40_000), seed=f"{name} {day}")
    (host.source / rng.choice(names)).unlink(missing_ok=True)
    host.write(f"new {day}", rng.randint(5_000, 40_000))


def a_year(world, *, churn, hot, days=DAYS):
    """Live it. Returns the ratio of stored to needed bytes and the number of blobs, week by week."""
    rng = random.Random(1)
    host = world.add_host()
    for n in range(250):
        host.write(f"file {n:03}", rng.randint(5_000, 40_000))
    weeks = []
    for day in range(days):
        live(host, rng, day, churn=churn, hot=hot)
        host.backup()
        world.prune(daily=7, weekly=4)
        world.pass_time(DAY)
        if day % 7 == 6:
            stored = sum(len(data) for key, (data, _) in world.objects.items() if BLOBS_PREFIX in key)
            weeks.append((stored / needed_bytes(world), len(world.blobs()), stored))
    return weeks


@pytest.mark.parametrize(("churn", "hot"), [(0.004, 1), (0.03, 5), (0.15, 20)])
def test_a_year_of_daily_edits(churn, hot):
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder,
        World(folder).clocks() as world,
    ):
        weeks = a_year(world, churn=churn, hot=hot)
        print([(round(ratio, 2), blobs) for ratio, blobs, _ in weeks[::4]])
        assert max(ratio for ratio, _, _ in weeks[8:]) < 1.3
        assert max(blobs for _, blobs, _ in weeks[26:]) <= 1.5 * max(blobs for _, blobs, _ in weeks[8:26])
