"""How bundles become blobs: in order, and alike however many threads do it."""

import random
import sqlite3
from contextlib import closing

import pytest

from tests.support.run import Run, seal
from tests.support.site import Site
from vaultik.backup import spool
from vaultik.index import bundles


def make_site(tmp_path, blob_size_limit):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit=blob_size_limit)
    site.source.mkdir()
    rng = random.Random(3)
    for n in range(400):
        (site.source / f"small {n:03}").write_bytes(rng.randbytes(rng.randint(1, 4_000)))
    for n in range(6):
        (site.source / f"large {n}").write_bytes(rng.randbytes(900_000))
    return site


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_stand_in_the_blob_as_they_were_read(tmp_path, threads):
    run = Run(make_site(tmp_path, "64MiB"))
    run.session.scan()
    index = run.session.index()
    (bundle,) = bundles.wave_bundles(index, run.session.run, 1)
    run.session.chunk(bundle, threads)
    seal(run.session, bundle)
    offsets = "SELECT c.frame_offset, c.offset FROM chunks AS c JOIN bundles AS b ON b.blob = c.blob WHERE b.id = ?"
    read = " ORDER BY (SELECT min(ec.entry * 10000000 + ec.offset) FROM entry_chunks AS ec WHERE ec.chunk = c.id)"
    places = index.execute(offsets + read, (bundle,)).fetchall()
    run.session.close()
    assert len({frame for frame, _ in places}) > 5, "more than may be under way at once"
    assert places == sorted(places)


@pytest.mark.parametrize("workers", [1, 2])
def test_lower_bundles_go_first(tmp_path, workers):
    """Else the chain of the first ones, which later ones wait for, is the last to be begun, and runs alone."""
    site = make_site(tmp_path, "1MiB")
    site.backup("--workers", str(workers))
    with closing(sqlite3.connect(site.index)) as index:
        order = [row[0] for row in index.execute("SELECT id FROM bundles WHERE blob IS NOT NULL ORDER BY blob")]
    assert len(order) > 5
    for place, bundle in enumerate(order):
        assert abs(sorted(order).index(bundle) - place) < workers


def test_a_new_spool_file_leaves_the_bytes_of_an_older_one_alone(tmp_path):
    old = tmp_path / "1.part"
    old.write_bytes(b"an object by now")
    (tmp_path / "object").hardlink_to(old)
    with spool.create(old) as file:
        file.write(b"new")
    assert old.read_bytes() == b"new"
    assert (tmp_path / "object").read_bytes() == b"an object by now"
