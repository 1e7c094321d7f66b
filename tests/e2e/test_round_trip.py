"""What goes in comes out: through the command line and through luigi, to a directory and to S3."""

import random

import pytest

from tests.support.tree import describe, edit_tree, itemized, make_tree


def assert_equal_trees(site, target):
    restored = site.restored(target)
    assert itemized(site.source, restored) == ""
    assert describe(restored) == describe(site.source)


@pytest.mark.parametrize("workers", [1, 2])
def test_two_backups_with_an_edit_between_come_back_whole(site, tmp_path, workers):
    make_tree(site.source)
    before = describe(site.source)
    first = site.backup("--workers", str(workers))
    edit_tree(site.source)
    second = site.backup("--workers", str(workers))
    assert first["exit_code"] == second["exit_code"] == 0
    assert 0 < second["files_read"] < 60
    site.restore(tmp_path / "out")
    assert_equal_trees(site, tmp_path / "out")
    site.restore(tmp_path / "old", snapshot=first["snapshot"])
    assert describe(site.restored(tmp_path / "old")) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_luigi_runs_the_same_graph(site, tmp_path, workers):
    make_tree(site.source)
    site.luigi("Backup", "--workers", workers)
    edit_tree(site.source)
    site.luigi("Backup", "--workers", workers)
    snapshots = site.run("snapshots", *site.where).stdout
    assert len(snapshots.splitlines()) == 3
    out = tmp_path / "out"
    site.luigi(
        "Restore",
        "--bucket",
        site.bucket,
        "--prefix",
        site.prefix,
        "--snapshot",
        "latest",
        "--target",
        out,
        "--endpoint",
        site.endpoint,
    )
    assert_equal_trees(site, out)


def test_an_unchanged_tree_reads_and_stores_nothing(site):
    make_tree(site.source)
    site.backup()
    again = site.backup()
    assert again["files_read"] == again["bytes_new"] == again["bytes_uploaded"] == again["blobs"] == 0


def test_equal_content_is_stored_once(local_site):
    local_site.source.mkdir()
    data = bytes(range(256)) * 20_000
    (local_site.source / "a").write_bytes(data)
    local_site.backup()
    (local_site.source / "b").write_bytes(data)
    second = local_site.backup()
    assert second["bytes_read"] >= len(data)
    assert second["bytes_new"] == 0


def test_a_file_larger_than_a_blob_is_cut_into_extents(site, tmp_path):
    site.configure(chunk_size="64KiB", blob_size_limit="4MiB")
    site.source.mkdir()
    data = random.Random(3).randbytes(30_000_000)
    (site.source / "image").write_bytes(data)
    first = site.backup("--workers", "2")
    assert first["blobs"] >= 8
    (site.source / "image").write_bytes(b"ten bytes!" + data)
    second = site.backup("--workers", "2")
    assert second["bytes_new"] <= 3 * 8 * 64 * 1024
    site.restore(tmp_path / "out", "--workers", "2")
    assert (site.restored(tmp_path / "out") / "image").read_bytes() == b"ten bytes!" + data


@pytest.mark.parametrize("size", [4 << 20, (4 << 20) + 1, 5_000_000, 7_500_000, 11_100_000])
def test_every_extent_of_a_large_file_comes_back(local_site, tmp_path, size):
    local_site.configure(chunk_size="64KiB", blob_size_limit="4MiB")
    local_site.source.mkdir()
    data = random.Random(size).randbytes(size)
    (local_site.source / "image").write_bytes(data)
    local_site.backup()
    local_site.restore(tmp_path / "out")
    assert (local_site.restored(tmp_path / "out") / "image").read_bytes() == data


def test_an_empty_source_and_a_single_file_as_source(local_site, tmp_path):
    local_site.source.mkdir()
    (tmp_path / "alone").write_text("alone")
    local_site.configure(source_dirs=[str(local_site.source), str(tmp_path / "alone")])
    local_site.backup()
    local_site.restore(tmp_path / "out")
    assert describe(local_site.restored(tmp_path / "out")) == {}
    assert (tmp_path / "out" / str(tmp_path / "alone").lstrip("/")).read_text() == "alone"
