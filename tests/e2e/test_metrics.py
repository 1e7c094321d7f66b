"""Figures for Prometheus: a textfile that is whole at any time, and keeps what it knew when a run fails."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families


def read(site):
    """The figures by name, without what stands in front of all of them."""
    found = {}
    for family in text_string_to_metric_families(site.metrics.read_text()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            assert sample.labels == {"config": str(site.config)}
            found[sample.name.removeprefix("vaultik_backup_")] = sample.value
    return found


@pytest.fixture
def measured(local_site):
    local_site.source.mkdir()
    (local_site.source / "file").write_text("content")
    local_site.metrics = local_site.tmp / "figures" / "vaultik.prom"
    local_site.metrics.parent.mkdir()
    local_site.configure(metrics_path=str(local_site.metrics))
    return local_site


def test_good_runs_and_bad_ones(measured):
    begun = time.time()
    measured.run("backup", measured.config, umask=0o077)
    good = read(measured)
    assert begun <= good["last_success_timestamp_seconds"] <= good["last_attempt_timestamp_seconds"] <= time.time()
    assert (good["last_exit_code"], good["failures"], good["snapshots_written"]) == (0, 0, 1)
    assert (good["files"], good["bytes"], good["new_bytes"], good["unreadable_files"]) == (1, 7, 7, 0)
    assert good["stored_bytes"] > 7
    assert 0 < good["duration_seconds"] < time.time() - begun
    # Others may read it, nothing else lies beside it.
    assert measured.metrics.stat().st_mode & 0o777 == 0o644
    assert list(measured.metrics.parent.iterdir()) == [measured.metrics]

    away = measured.store.rename(measured.tmp / "away")
    for failures in (1, 2):
        measured.run("backup", measured.config, code=1)
        bad = read(measured)
        assert (bad["last_exit_code"], bad["failures"], bad["snapshots_written"]) == (1, failures, 1)
        assert bad["last_success_timestamp_seconds"] == good["last_success_timestamp_seconds"]
        assert bad["last_attempt_timestamp_seconds"] > good["last_attempt_timestamp_seconds"]
        assert (bad["files"], bad["stored_bytes"]) == (good["files"], good["stored_bytes"])

    away.rename(measured.store)
    (measured.source / "other").write_text("more")
    measured.luigi("Backup")
    again = read(measured)
    assert (again["last_exit_code"], again["failures"], again["snapshots_written"]) == (0, 0, 2)
    assert again["last_success_timestamp_seconds"] > good["last_success_timestamp_seconds"]
    assert (again["files"], again["bytes"], again["new_bytes"]) == (2, 11, 4)


def test_before_the_first_success(measured):
    measured.store.rmdir()
    measured.run("backup", measured.config, code=1)
    figures = read(measured)
    assert (figures["last_success_timestamp_seconds"], figures["files"], figures["failures"]) == (0, 0, 1)


def test_a_place_where_it_can_not_be_written(measured):
    measured.metrics.parent.rmdir()
    said = measured.run("backup", measured.config, "--cron").stderr
    assert f"vaultik: metrics_path {measured.metrics}: No such file or directory" in said
    assert "\n" not in said.rstrip("\n")


def test_a_path_that_is_none(measured):
    measured.configure(metrics_path="figures.prom")
    assert (
        "metrics_path: 'figures.prom' is not an absolute path" in measured.run("backup", measured.config, code=2).stderr
    )
