"""What any user of a host can make costs its own entry, and never a backup, a snapshot or a prune."""

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.run import Run
from tests.support.site import Site
from tests.support.world import World
from vaultik.backup import plan
from vaultik.backup.read import find_data_ranges
from vaultik.core.bounds import DB_BOUND
from vaultik.errors import ConfigError
from vaultik.index.bundles import Cut, Piece
from vaultik.index.unplanned import ChangedFile
from vaultik.snapshot.rules import DEEPEST


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "a").write_text("a")
    return site


@pytest.fixture
def on_tmpfs():
    """A site on the file system that lets anybody make files of any size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        site = Site(Path(folder))
        site.source.mkdir()
        (site.source / "a").write_text("a")
        yield site


@contextmanager
def deep(root, count):
    """So many directories one in the other, which Python's own rmtree can't remove."""
    fd = os.open(root, os.O_RDONLY)
    try:
        for _ in range(count):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
    finally:
        os.close(fd)
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", root / "d"], check=True)


def test_a_db_that_compresses_without_end_is_taken_by_every_reader(site):
    run = Run(site)
    run.session.scan()
    index = run.session.index()
    # As scanned from as many files with an attribute of zeros each; those would take their time.
    (entry,) = index.execute("SELECT id FROM entries WHERE name = ?", (b"source",)).fetchone()
    index.executemany(
        "INSERT INTO xattrs VALUES (?, ?, zeroblob(65536))", ((entry, b"user.%d" % n) for n in range(2000))
    )
    run.rest()
    (stored,) = site.objects(".sqlite.zst.age")
    content = 2000 * 65536
    assert DB_BOUND.free < content
    assert content / 200 < stored.stat().st_size < content / 150
    assert str(site.source / "a") in site.run("ls", *site.where, "latest", site.source, "-R").stdout
    site.run("prune", *site.where)
    site.restore(site.tmp / "out", "--dry-run")


def test_a_directory_deeper_than_a_snapshot_holds_is_left_out_and_named(site, tmp_path):
    depth = len(site.source.parts) - 1
    with deep(site.source, DEEPEST - depth + 4):
        for _ in range(2):
            done = site.run("backup", site.config, "--cron", code=3)
            assert done.stderr.endswith("/d: more than 4,096 names below /\n")
            assert done.stderr.count("\n") == 1
        listed = site.run("ls", *site.where, "latest", site.source, "-R").stdout.splitlines()
        assert len(listed) == 1 + DEEPEST - depth
        try:
            site.restore(tmp_path / "out")
            assert (site.restored(tmp_path / "out") / "a").read_text() == "a"
        finally:
            subprocess.run(["rm", "-rf", tmp_path / "out"], check=True)
    site.backup()


def test_sizes_that_come_to_more_than_a_number_holds(on_tmpfs):
    site = on_tmpfs
    sizes = {"hole 1": 7 << 60, "hole 2": 7 << 60, "hole 3": (1 << 63) - 1}
    for name, size in sizes.items():
        (site.source / name).touch()
        os.truncate(site.source / name, size)
    assert site.backup()["bytes"] == sum(sizes.values()) + 1
    assert site.backup()["files_read"] <= len(sizes) + 1
    site.run("prune", *site.where)
    site.run("snapshots", *site.where)
    site.restore(site.tmp / "out")
    restored = site.restored(site.tmp / "out")
    assert {path.name: path.stat().st_size for path in restored.iterdir()} == {**sizes, "a": 1}
    # One that can't be opened isn't planned by its size, of which there is no end.
    (site.source / "hole 1").chmod(0)
    site.forget_state()
    assert site.backup(code=3, no_rights=True)["unreadable"] == 1


def test_a_file_whose_holes_are_not_known_is_planned_as_one_piece(site):
    run = Run(site)
    assert find_data_ranges(run.session.index(), 12345, 7 << 60) is None
    run.session.close()
    made = plan.plan_bundles(
        [ChangedFile(5, 7 << 60, 0)], limit=10**6, longest_chunk=10**5, data_ranges=lambda *_: None
    )
    assert [bundle.pieces for bundle in made] == [[Piece(5, 0, None, Cut.NONE)]]


def test_what_is_no_content_makes_no_snapshot_great(site):
    """A size costs nothing: one sparse file for a day must not make all later snapshots seem shrunk."""
    (site.source / "data").write_bytes(os.urandom(300_000))
    site.backup()
    (site.source / "sparse").touch()
    os.truncate(site.source / "sparse", 1 << 40)
    (site.source / "twice").write_bytes((site.source / "data").read_bytes())
    site.backup()
    (site.source / "sparse").unlink()
    (site.source / "twice").unlink()
    site.backup()
    site.run("prune", *site.where)
    (site.source / "data").write_bytes(b"little")
    site.backup()
    assert "300,001 bytes became" in site.run("prune", *site.where, code=1).stderr


def test_more_blobs_than_a_manifest_names_are_refused_before_anything_is_uploaded(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MOST_BLOBS", 5)
    with World(tmp_path).clocks() as world:
        host = world.add_host()
        for n in range(6):
            host.write(f"file {n}", 900_000)
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"blob_size_limit: at 1.0 MB that makes 6 blobs.* name 5") as refused:
                host.backup()
            assert "raise blob_size_limit" in refused.value.hint
            assert not world.objects
        world.blob_size_limit *= 8
        host.backup()
        host.write("one more", 900_000)
        host.backup()
        assert len(world.snapshots) == 2
