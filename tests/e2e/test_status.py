"""`vaultik status`: from the index alone, whatever goes on, changing nothing."""

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time

import pytest

from vaultik.index import lock


def look(site, *arguments, code=0, **kwargs):
    return site.run("status", site.config, *arguments, code=code, **kwargs)


def facts(site, *arguments, code=0):
    return json.loads(look(site, "--json", *arguments, code=code).stdout)


def everything(directory):
    """Every file with its bytes and times."""
    return {
        path: (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
    }


def age_runs(site, seconds):
    """Let all runs have been longer ago."""
    with contextlib.closing(sqlite3.connect(site.index)) as index, index:
        index.execute("UPDATE runs SET started = started - ?, finished = finished - ?", (seconds, seconds))


@pytest.fixture
def host(local_site):
    local_site.source.mkdir()
    (local_site.source / "a").write_bytes(b"a" * 1000)
    return local_site


def test_without_an_index_it_says_so_and_makes_none(host):
    done = look(host, code=1)
    assert f"index {host.index}: not there" in done.stderr
    assert "hint: the first backup makes it" in done.stderr
    assert not host.state.exists()
    host.state.mkdir()
    host.index.touch()
    assert "no run has begun yet" in look(host, code=1).stderr
    assert [path.name for path in host.state.iterdir()] == [host.index.name]


def test_what_was_stored_and_when(host):
    snapshot = host.backup()["snapshot"]
    text = look(host).stdout
    assert f"last snapshot   {snapshot}, " in text
    assert "1 file (1.0 KB), 1.0 KB new" in text
    assert "last run        done" in text
    assert "daemon          not running" in text
    found = facts(host)
    assert found["ok"] is True
    assert found["last_success"]["snapshot"] == snapshot
    assert found["last_success"]["counts"]["files"] == 1
    assert found["running"] is False
    assert found["daemon"] == {"alive": False, "pid": None}
    assert found["last_full_scan"] == found["last_success"]["started"]


def test_it_changes_nothing_and_needs_neither_key_nor_store(host):
    host.backup()
    host.store.rename(host.store.with_name("elsewhere"))
    before = everything(host.state)
    assert {path.name for path in before} == {"index.sqlite", "index.sqlite.lock", "index.sqlite.source", "spool"}
    assert "-wal" not in str(before)
    look(host)
    look(host, "--json")
    assert everything(host.state) == before


def test_it_reads_while_a_run_writes_and_holds_the_lock(host):
    snapshot = host.backup()["snapshot"]
    with (host.state / "index.sqlite.lock").open() as lock, contextlib.closing(sqlite3.connect(host.index)) as writer:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO runs (run_id, started) VALUES ('now', ?)", (time.time(),))
        assert facts(host)["last_run"]["snapshot"] == snapshot
        writer.execute("COMMIT")
        found = facts(host)
        assert found["running"] is True
        assert found["last_success"]["snapshot"] == snapshot
        assert found["last_run"]["run_id"] == "now"
        text = look(host).stdout
        assert "a run is going on" in text
        assert "last run        begun" in text
    assert "last run        interrupted" in look(host).stdout


def test_looking_keeps_no_run_from_beginning(host, monkeypatch):
    """Looking takes a shared lock for an instant; a run looks again before it gives up."""
    path = host.tmp / "lock"
    with path.open("w") as mine, path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert lock.is_locked(path) is False
        monkeypatch.setattr(lock.time, "sleep", lambda _seconds: fcntl.flock(looking, fcntl.LOCK_UN))
        assert lock.take(mine.fileno()) is True
        assert lock.is_locked(path) is True
        assert lock.take(looking.fileno()) is False


def test_max_age(host):
    host.backup()
    look(host, "--max-age", "26h")
    age_runs(host, 27 * 3600)
    done = look(host, "--max-age", "26h", code=1)
    assert "the last snapshot is 1 d 3 h old, more than 1 d 2 h" in done.stderr
    found = facts(host, "--max-age", "26h", code=1)
    assert (found["ok"], found["max_age_seconds"]) == (False, 26 * 3600)
    assert found["age_seconds"] >= 27 * 3600
    look(host)
    look(host, "--max-age", "28h")
    age_runs(host, -48 * 3600)
    assert facts(host, "--max-age", "1s")["age_seconds"] == 0.0
    done = look(host, "--max-age", "soon", code=2)
    assert "not a duration" in done.stderr


def test_a_run_that_failed_is_remembered_with_its_reason(host):
    host.store.rename(host.store.with_name("elsewhere"))
    host.run("backup", host.config, "--cron", code=1)
    done = look(host, code=1)
    assert "last snapshot   none" in done.stdout
    assert "no snapshot was ever written" in done.stderr
    assert "last run        failed: " in done.stdout
    assert str(host.store) in facts(host, code=1)["last_run"]["error"]
    host.store.with_name("elsewhere").rename(host.store)
    host.backup()
    assert facts(host)["last_run"]["error"] is None
    host.store.rename(host.store.with_name("elsewhere"))
    host.run("backup", host.config, code=1)
    host.luigi("Backup", code=1)
    found = facts(host)
    assert found["last_success"]["exit_code"] == 0
    assert found["last_run"]["exit_code"] is None
    assert str(host.store) in found["last_run"]["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_files_that_could_not_be_read_are_named(host):
    (host.source / "b\x1b[31m").write_text("no")
    (host.source / "b\x1b[31m").chmod(0)
    host.source.chmod(0o755)
    host.tmp.chmod(0o755)
    os.chown(host.source / "b\x1b[31m", 1234, 1234)
    host.run("backup", host.config, code=3, no_rights=True)
    text = look(host).stdout
    assert f"unreadable    {host.source}/b\\x1b[31m: " in text
    assert "done, but some files could not be read" in text
    assert "\x1b" not in text
    (problem,) = facts(host)["unreadable"]
    assert problem["path"].endswith("b\x1b[31m")


def test_the_last_success_is_not_forgotten_over_a_thousand_failures(host):
    snapshot = host.backup()["snapshot"]
    with contextlib.closing(sqlite3.connect(host.index)) as index, index:
        index.executemany("INSERT INTO runs (run_id, started) VALUES (?, 0)", [(str(n),) for n in range(1001)])
    host.store.rename(host.store.with_name("elsewhere"))
    host.run("backup", host.config, code=1)
    assert facts(host)["last_success"]["snapshot"] == snapshot


def test_the_index_of_an_older_vaultik_is_read_and_left_as_it_is(host):
    snapshot = host.backup()["snapshot"]
    with contextlib.closing(sqlite3.connect(host.index)) as index, index:
        index.executescript(
            "DROP INDEX entries_again; ALTER TABLE runs DROP COLUMN error; ALTER TABLE runs DROP COLUMN full"
        )
        index.execute("PRAGMA user_version = 3")
    before = everything(host.state)
    assert facts(host)["last_success"]["snapshot"] == snapshot
    assert everything(host.state) == before


def test_a_damaged_index_is_a_line(host):
    host.backup()
    host.index.write_bytes(b"no index" * 1000)
    done = look(host, code=1)
    assert f"index {host.index}: damaged" in done.stderr


def test_it_needs_the_right_to_read_the_index(host):
    host.backup()
    host.tmp.chmod(0o755)
    host.index.chmod(0)
    if os.geteuid() != 0:
        pytest.skip("only root has rights to give up")
    os.chown(host.index, 1234, 1234)
    done = look(host, code=1, no_rights=True)
    assert f"index {host.index}: " in done.stderr


def test_an_index_of_another_config_is_no_good_news(local_site):
    site = local_site
    site.source.mkdir()
    site.backup()
    copy = site.config.with_name("copy.yaml")
    copy.write_bytes(site.config.read_bytes())
    done = site.run("status", copy, "--max-age", "26h", code=1)
    assert f"the index belongs to the config {site.config}: with this one no backup begins" in done.stderr
    assert json.loads(site.run("status", copy, "--json", code=1).stdout)["ok"] is False
    site.run("status", site.config, "--max-age", "26h")
