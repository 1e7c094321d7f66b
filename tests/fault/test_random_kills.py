"""SIGKILL at random moments to real backups and prunes, over a directory and over S3, until they are let through.

Then every promise is looked at: what is listed is whole, each object is what its name says, the spool is empty, the
newest snapshot is the source. `make soak` kills a thousand times; with -rP it says what was killed how often.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support import prefork
from tests.support.tree import compare
from vaultik.store.open import open_store

KILLS = int(os.environ.get("VAULTIK_KILLS", "16"))


def edit(site, rng):
    for _ in range(rng.randint(1, 4)):
        path = site.source / f"file {rng.randrange(40):02}"
        path.write_bytes(rng.randbytes(rng.randint(1, 300_000)))
    (site.source / f"file {rng.randrange(40):02}").unlink(missing_ok=True)


def kill_one(site, rng, arguments, lasts):
    """Start a command and kill all of it at some moment; sometimes it is through by then.

    Args:
        site: where.
        rng: chooses the moment.
        arguments: of the command.
        lasts: seconds that it takes, by command; kept such that now and then one is through, however busy the machine
            and however much the killed ones have left to do.

    Returns:
        Whether it was killed.
    """
    code, _, said = prefork.run_for(arguments, site.environment(), rng.uniform(0, lasts[arguments[0]]))
    assert "Traceback" not in said, said
    is_killed = code == -signal.SIGKILL
    lasts[arguments[0]] *= 1.02 if is_killed else 0.9
    return is_killed


def check_store(site):
    store = open_store(site.endpoint, site.bucket, site.prefix, **site.keys())
    sizes = {}
    for info in store.walk():
        digest = info.key.rsplit("/", 1)[-1].split(".")[-4 if info.key.endswith(".age") else -1]
        with store.open(info.key) as stream:
            data = stream.read()
        assert hashlib.sha256(data).hexdigest() == digest, info.key
        sizes[info.key] = len(data)
    store.close()
    rows = json.loads(site.run("snapshots", *site.where, "--json").stdout)
    assert not [row for row in rows if "problem" in row]
    return sizes, rows


@pytest.mark.parametrize("kind", ["directory", pytest.param("seaweedfs", marks=S3_GROUP)])
def test_killed_again_and_again(request, tmp_path, kind):
    site = make_site(request, tmp_path, kind, chunk_size="64KiB", blob_size_limit="2MiB")
    rng = random.Random(17)
    site.source.mkdir()
    for n in range(40):
        (site.source / f"file {n:02}").write_bytes(rng.randbytes(rng.randint(1, 300_000)))
    began = time.monotonic()
    site.backup()
    lasts = dict.fromkeys(("backup", "prune"), time.monotonic() - began)
    tally = Counter()
    while sum(count for (_, killed), count in tally.items() if killed) < KILLS // 2:
        edit(site, rng)
        backup = ["backup", site.config, "--cron", "--workers", rng.randint(1, 2)]
        prune = ["prune", *site.where, "--keep-last", rng.randint(1, 3), "--grace", "0", "--allow-shrink", "--yes"]
        command = rng.choice([backup, backup, prune])
        tally[command[0], kill_one(site, rng, command, lasts)] += 1
    site.backup("--workers", "2")
    site.run("prune", *site.where, "--keep-last", "2", "--grace", "0", "--allow-shrink", "--yes")
    site.backup()
    _, rows = check_store(site)
    for row in rows:
        site.restore(tmp_path / row["snapshot"], snapshot=row["snapshot"])
    assert compare(site.source, site.restored(tmp_path / rows[-1]["snapshot"])) == []
    assert site.spooled() == []
    for (command, killed), count in sorted(tally.items()):
        sys.stdout.write(f"{kind}: {command}: {count} {'killed' if killed else 'let through'}\n")
