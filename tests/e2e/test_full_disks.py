"""A full disk in the spool, under the index, in the target: one line, and the same command goes on when there is room.

Uses small tmpfs mounts, so it needs root; as a plain user it says so.
"""

import json
import os
import random

import pytest

from tests.support.disks import grow, small_disk
from tests.support.site import Site
from tests.support.tree import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    rng = random.Random(3)
    for n in range(30):
        (site.source / f"file {n}").write_bytes(rng.randbytes(200_000))
    return site


def refused(done, *words):
    lines = [line for line in done.stderr.splitlines() if line.startswith(("vaultik: ", "  hint: "))]
    assert len(lines) == 2, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_the_spool(site, tmp_path):
    site.configure(spool_dir=str(tmp_path / "small/spool"))
    with small_disk(tmp_path / "small", "1m"):
        refused(site.run("backup", site.config, code=1), "spool", "No space left", "spool_dir")
        assert site.objects(".sqlite.zst.age") == []
        grow(tmp_path / "small", "64m")
        site.backup()
        assert list((tmp_path / "small/spool").iterdir()) == []
    site.restore(tmp_path / "out")
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)


def test_under_the_index(site, tmp_path):
    for n in range(3000):
        (site.source / f"{'n' * 200} {n}").write_bytes(b"")
    site.configure(spool_dir=str(tmp_path / "spool"))
    with small_disk(site.state, "600k"):
        refused(site.run("backup", site.config, code=1), "index", "full")
        grow(site.state, "64m")
        site.backup()
    site.restore(tmp_path / "out")
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)


def test_the_target(site, tmp_path):
    site.backup()
    with small_disk(tmp_path / "out", "3m"):
        for at in ("out", "out/not there yet"):
            assert "3.1 MB are free there" in site.restore(tmp_path / at, "--dry-run").stdout
        assert json.loads(site.restore(tmp_path / "out", "--dry-run", "--json").stdout)["free_bytes"] == 3 << 20
        refused(site.restore(tmp_path / "out", code=1), "target", "No space left", "the same command continues")
        grow(tmp_path / "out", "64m")
        assert "free there" not in site.restore(tmp_path / "out", "--dry-run").stdout
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)
        assert not (tmp_path / "out/.vaultik-restore").exists()


@pytest.mark.parametrize("size", ["64k", "300k", "1m", "2m", "4m"])
def test_the_target_is_full_wherever_it_begins(site, tmp_path, size):
    """In the snapshot DB, its copy, the plan, the tree: never a damaged snapshot."""
    for n in range(4000):
        (site.source / f"{'n' * 100} {n}").write_text(str(n))
    site.backup()
    with small_disk(tmp_path / "out", size):
        refused(site.restore(tmp_path / "out", code=1), "target", "No space left", "the same command continues")
        grow(tmp_path / "out", "64m")
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)


@pytest.mark.parametrize("size", ["64k", "300k", "1m"])
def test_the_temporary_directory(site, tmp_path, size):
    for n in range(4000):
        (site.source / f"{'n' * 100} {n}").write_text(str(n))
    site.backup()
    site.env["TMPDIR"] = str(tmp_path / "small")
    with small_disk(tmp_path / "small", size):
        file = site.source / "file 1"
        for command in (
            ["ls"],
            ["fetch", file, "-"],
            ["fetch", file, tmp_path / "got"],
            ["restore", tmp_path / "x", "--dry-run"],
        ):
            done = site.run(command[0], *site.where, "latest", *command[1:], code=1)
            refused(done, f"temporary directory {tmp_path}/small: No space left", "TMPDIR")
        assert list((tmp_path / "small").iterdir()) == []


def test_the_store(site, tmp_path):
    with small_disk(site.store, "2m"):
        refused(site.run("backup", site.config, code=1), "store", "No space left", "next run continues")
        grow(site.store, "64m")
        site.backup()
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)
