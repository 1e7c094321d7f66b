"""Large files: sparse ones, and ones that change under the reader, come back as what was read and nothing else."""

import contextlib
import os
import random
import sqlite3
import threading

import pytest

from tests.support.run import Run, seal, upload
from tests.support.site import Site
from vaultik.index import bundles, contents

KIB, MIB = 1 << 10, 1 << 20
LONGEST = 8 * 64 * KIB
EXTENT = 4 * MIB - LONGEST


def aligned(number):
    return (number + 65535) // 65536 * 65536


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="4MiB")
    site.source.mkdir()
    return site


@pytest.mark.parametrize("seed", range(6))
def test_no_extent_reaches_over_a_hole(site, tmp_path, seed):
    """Ranges a little longer than an extent: the last boundary lies within one chunk of the hole."""
    rng = random.Random(seed)
    at = 0
    with (site.source / "image").open("wb") as file:
        for _ in range(4):
            for size in (aligned(EXTENT) + 65536 * rng.randint(0, 8), 65536 * rng.randint(1, 40)):
                file.seek(at)
                file.write(rng.randbytes(size))
                at += size + 65536 * rng.randint(1, 3)
        file.truncate(at)
    site.backup("--workers", "2")
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "image").read_bytes() == (site.source / "image").read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_a_file_truncated_and_written_again_all_the_time_spoils_nothing_else(site, tmp_path, seed):
    hot = site.source / "hot"
    data = random.Random(seed).randbytes(12 * MIB)
    hot.write_bytes(data)
    (site.source / "other").write_text("precious")
    stop = threading.Event()

    def write():
        rng = random.Random(seed)
        fd = os.open(hot, os.O_RDWR)
        while not stop.wait(0.005):
            os.ftruncate(fd, rng.randrange(len(data)))
            stop.wait(0.005)
            os.pwrite(fd, data, 0)
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        site.backup("--workers", "2")
    finally:
        stop.set()
        writer.join()
    site.restore(tmp_path / "out")
    restored = site.restored(tmp_path / "out")
    assert (restored / "other").read_text() == "precious"
    # Every byte is one that stood there at some time: the file's own, or a hole's.
    found = (restored / "hot").read_bytes()
    assert all(a in (b, 0) for a, b in zip(found[::997], data[::997], strict=False))


def test_a_file_that_outgrows_its_bundle_is_planned_anew(site, tmp_path):
    """Small at the scan, far larger than a blob when it is read: it is cut into extents after all."""
    (site.source / "log").write_bytes(b"x" * 1000)
    run = Run(site)
    run.session.scan()
    data = random.Random(1).randbytes(20 * MIB)
    (site.source / "log").write_bytes(data)
    run.rest()
    assert max(path.stat().st_size for path in site.blobs()) < 6 * MIB
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "log").read_bytes() == data


def run_with(site, act):
    """A backup during which something happens before each bundle is read."""
    run = Run(site)
    run.session.scan()
    chunk = run.session.chunk

    def acting(bundle):
        act()
        chunk(bundle)

    run.session.chunk = acting
    run.rest()


def test_a_sparse_image_in_use_keeps_its_size(site, tmp_path):
    """Four MiB of data, eight of hole, and a guest that goes on writing: the disk isn't cut off where its data ends."""
    image = site.source / "disk.raw"
    with image.open("wb") as file:
        file.write(random.Random(1).randbytes(6 * MIB))
        file.truncate(12 * MIB)
    run_with(site, lambda: os.utime(image))
    site.restore(tmp_path / "out")
    restored = site.restored(tmp_path / "out") / "disk.raw"
    assert restored.read_bytes() == image.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_a_hole_that_is_filled_between_planning_and_reading(site, tmp_path, seed):
    rng = random.Random(seed)
    image = site.source / "disk.raw"
    hole = aligned(EXTENT) + 65536 * seed
    with image.open("wb") as file:
        file.write(rng.randbytes(hole))
        file.seek(hole + 131072)
        file.write(rng.randbytes(6 * MIB))
    filling = rng.randbytes(131072)

    def fill():
        with image.open("r+b") as file:
            file.seek(hole)
            file.write(filling)

    run_with(site, fill)
    site.backup()
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "disk.raw").read_bytes() == image.read_bytes()


def test_an_extent_read_just_after_a_change_is_looked_at_again(site):
    """Its time can't tell of one more change in the same tick, whichever of the extents was read so soon."""
    image = site.source / "image"
    image.write_bytes(random.Random(1).randbytes(9 * MIB))
    assert site.backup()["files_read"] == 1
    assert site.backup()["files_read"] == 1
    os.utime(image, (10**9, 10**9))
    assert site.backup()["files_read"] == 1
    assert site.backup()["files_read"] == 0


def interrupted(site, bundles_done):
    """A run that ends before its large file is read to its end."""
    run = Run(site)
    run.session.scan()
    wave = bundles.wave_bundles(run.session.index(), run.session.run, run.session.next_wave())
    for bundle in wave[:bundles_done]:
        run.session.chunk(bundle)
        seal(run.session, bundle)
        upload(run.session, bundle)
    return run


@pytest.mark.parametrize("period", [100_000, 1_500_000])
@pytest.mark.parametrize("bundles_done", [1, 3])
def test_another_chunk_size_while_a_large_file_is_half_read(tmp_path, period, bundles_done):
    """What was cut by the old parameters doesn't meet what is cut by the new ones; periodic data shows it most."""
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    (site.source / "image").write_bytes(random.Random(0).randbytes(period) * (36 * MIB // period))
    interrupted(site, bundles_done).session.close()
    config = site.config.read_text()
    assert "64KiB" in config
    site.config.write_text(config.replace("64KiB", "2MiB").replace("1MiB", "32MiB"))
    run = Run(site)
    for table in ("pieces", "boundaries", "extent_chunks"):
        assert run.session.index().execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    run.session.scan()
    run.rest()
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "image").read_bytes() == (site.source / "image").read_bytes()


def spoil(site, statement):
    with contextlib.closing(sqlite3.connect(site.index)) as index, index:
        assert index.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    "statement",
    [
        # The next extent begins where a chunk of this one begins, or within one.
        "UPDATE boundaries SET actual = (SELECT max(offset) FROM extent_chunks)",
        "UPDATE boundaries SET actual = (SELECT max(offset) FROM extent_chunks) + 7",
    ],
)
def test_extents_that_do_not_fit_together_are_read_again(site, tmp_path, statement):
    (site.source / "image").write_bytes(random.Random(1).randbytes(11 * MIB))
    run = interrupted(site, 1)
    spoil(site, statement)
    assert run.rest() == []
    with contextlib.closing(sqlite3.connect(site.index)) as index:
        assert index.execute("SELECT count(*) FROM commits").fetchone() == (1,), "nothing was recorded that doesn't fit"
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "image").read_bytes() == (site.source / "image").read_bytes()


def test_extents_that_never_fit_together_make_a_file_unreadable_and_no_more(site, tmp_path, monkeypatch):
    (site.source / "image").write_bytes(random.Random(1).randbytes(11 * MIB))
    (site.source / "other").write_text("precious")
    monkeypatch.setattr(contents, "are_fitting", lambda *_: False)
    run = Run(site)
    run.session.scan()
    (problem,) = run.rest()
    assert problem.kind == "unreadable"
    assert "fit together" in problem.reason
    site.restore(tmp_path / "out")
    assert [path.name for path in site.restored(tmp_path / "out").iterdir()] == ["other"]
    monkeypatch.undo()
    site.backup()
    site.restore(tmp_path / "whole")
    assert (site.restored(tmp_path / "whole") / "image").read_bytes() == (site.source / "image").read_bytes()


def test_an_index_whose_content_does_not_fit_together_is_mended(site, tmp_path):
    """No run records such; one that an older version left must not keep every later one from committing."""
    (site.source / "image").write_bytes(random.Random(1).randbytes(3 * MIB))
    site.backup()
    os.utime(site.source / "image", (10**9, 10**9))
    site.backup()
    spoil(
        site,
        "UPDATE entry_chunks SET offset = offset + 9 WHERE offset = (SELECT min(offset) FROM entry_chunks WHERE offset > 0)",
    )
    spoil(site, "UPDATE entry_chunks SET offset = offset + 9 WHERE offset = (SELECT max(offset) FROM entry_chunks)")
    site.backup()
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "image").read_bytes() == (site.source / "image").read_bytes()
