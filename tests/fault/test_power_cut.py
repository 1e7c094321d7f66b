"""A power cut at any point of a backup or a prune: what was not synced is lost or not, and committed snapshots stay whole."""

import hashlib
import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tests.fault.test_kills import run_killed
from tests.support.power import MADE, Cut, parent, read_ops, record
from tests.support.site import Site
from tests.support.snapshots import open_own
from tests.support.tree import compare
from vaultik.core.names import DB_SUFFIX, blob_key
from vaultik.secrets import load_identities


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    fill(site, 1)
    return site


def fill(site, seed):
    rng = random.Random(seed)
    for n in rng.sample(range(30), 12 + 6 * (seed == 1)):
        (site.source / f"file {n:02}").write_bytes(rng.randbytes(rng.randint(1, 200_000)))


def root_of(site):
    return site.store / site.bucket


def contents(site):
    return {str(path): path.read_bytes() for path in root_of(site).rglob("*") if path.is_file()}


def refers_to(site, sealed):
    """The paths of the blobs that a snapshot DB names."""
    with closing(open_own(sealed, load_identities(site.key))) as db:
        rows = db.execute("SELECT hash FROM blobs").fetchall()
    return {str(root_of(site) / site.prefix / blob_key(row[0])) for row in rows}


def a_day(site, tmp_path):
    """Two backups, a prune, a backup, recorded. Returns what was done to store and spool, what all files held, and when each ended."""
    ops, held, ended = [], {}, []
    prune = ["prune", *site.where, "--grace", "0", "--allow-shrink", "--yes", "--quiet"]
    backup = ["backup", site.config, "--cron"]
    for number, command in enumerate((backup, backup, prune, backup)):
        if number == 1:
            for path in site.source.iterdir():
                path.unlink()
        fill(site, number + 2)
        log = tmp_path / f"strace {number}"
        record(site.command(*command), log, env=site.environment())
        # The spool as well: a file of it becomes the object.
        ops += read_ops(log, str(root_of(site)), str(site.state / "spool"))
        held |= contents(site)
        ended.append((len(ops), {path for path in held if path.endswith(DB_SUFFIX) and Path(path).exists()}))
    return ops, held, ended


def present(cut, rng, share, top):
    """The files after a cut, of which each unsynced step is there by chance; what a lost directory held is lost with it."""
    names = cut.names(lambda: rng.random() < share)
    directories = {name for name, inode in names.items() if inode == MADE} | {top}

    def stands(path):
        return path == top or (path in directories and stands(parent(path)))

    return {name: inode for name, inode in names.items() if inode != MADE and stands(parent(name))}


def test_whatever_a_power_cut_leaves_every_snapshot_in_it_is_whole(site, tmp_path):
    ops, held, ended = a_day(site, tmp_path)
    assert len(ops) > 100
    needs = {path: refers_to(site, data) for path, data in held.items() if path.endswith(DB_SUFFIX)}
    assert len(needs) == 3
    assert sum(op.kind == "unlink" and "/blobs/" in op.path for op in ops) > 1, "the prune frees some"
    top = str(root_of(site))
    rng = random.Random(5)
    looked_at = 0
    for at in range(len(ops) + 1):
        cut = Cut(ops[:at])
        for share in (0.0, 0.5, 1.0):
            names = present(cut, rng, share, top)
            there = {path for path in names if not Path(path).name.startswith(".tmp-")}
            for path in there:
                assert cut.is_whole(names[path]), f"{path} has its name before its bytes are on the disk (cut at {at})"
            for path in there & needs.keys():
                looked_at += 1
                assert needs[path] <= there, f"{path} stands, but not all that it needs (cut at {at})"
            done = [kept for end, kept in ended if end <= at]
            if done and at in (end for end, _ in ended):
                assert done[-1] <= there, f"a snapshot that was done is gone (cut at {at})"
    assert looked_at > 50
    for path, data in held.items():
        if not Path(path).name.startswith(".tmp-"):
            assert hashlib.sha256(data).hexdigest() in path


@pytest.mark.parametrize("seed", range(6))
def test_an_index_that_lost_its_last_writes_goes_on(site, tmp_path, seed):
    """The WAL is cut anywhere, the spool is what the disk had of it, the store has everything: the next run mends all."""
    (tmp_path / "killer.py").write_text(
        Path(run_killed.__code__.co_filename).read_text().split('KILLER = """')[1].split('"""')[0]
    )
    rng = random.Random(seed)
    site.backup()
    fill(site, 10 + seed)
    run_killed(
        site, rng.choice(["upload:after", "seal:after", "put db:after", "base row:before", "uploaded row:after"])
    )
    log = site.index.with_name("index.sqlite-wal")
    if log.exists():
        with log.open("r+b") as file:
            file.truncate(rng.randrange(log.stat().st_size + 1))
        site.index.with_name("index.sqlite-shm").unlink(missing_ok=True)
    for path in site.spooled():
        if rng.random() < 0.5:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    assert site.backup()["exit_code"] == 0
    site.restore(tmp_path / "out")
    assert compare(site.source, site.restored(tmp_path / "out")) == []
    assert site.spooled() == []
    shutil.rmtree(tmp_path / "out")
