"""The daemon as a process: what it lives through, and how it ends in the middle of it."""

import fcntl
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.conftest import S3_GROUP
from tests.support.daemon import Daemon, is_alive, wait_until
from tests.support.disks import grow, small_disk
from tests.support.proxy import Proxy
from tests.support.site import Site
from tests.support.tree import describe

OFTEN = {"backup_interval": "1s", "full_scan_interval": "1h", "min_time_between_run": "0"}
ENDS_S = 10


@pytest.fixture
def host(local_site):
    local_site.source.mkdir()
    (local_site.source / "a").write_text("a")
    local_site.configure(**OFTEN)
    return local_site


def restored(site, snapshot):
    target = site.tmp / f"back-{snapshot}"
    site.restore(target, snapshot=snapshot)
    return site.restored(target)


def status(site, code=0):
    return json.loads(site.run("status", site.config, "--json", code=code).stdout)


@S3_GROUP
def test_sigterm_in_the_middle_of_an_upload_ends_it_in_time_and_the_next_start_goes_on(tmp_path, weed):
    held, let_go = threading.Event(), threading.Event()

    def hold(_request):
        held.set()
        let_go.wait(60)

    with Proxy(weed, {"PutObject": ["pass", "pass", hold]}) as proxy:
        keys = {"AWS_ACCESS_KEY_ID": weed.access_key, "AWS_SECRET_ACCESS_KEY": weed.secret_key}
        site = Site(
            tmp_path, proxy.endpoint, prefix=f"{tmp_path.name}/", env={**keys, "AWS_DEFAULT_REGION": "us-east-1"}
        )
        site.configure(chunk_size="64KiB", blob_size_limit="1MiB", **OFTEN)
        site.source.mkdir()
        for number in range(8):
            (site.source / f"{number}").write_bytes(os.urandom(900_000))
        with Daemon(site) as daemon:
            assert held.wait(60)
            begun = time.monotonic()
            assert daemon.end() == 0
            assert time.monotonic() - begun < ENDS_S
            assert "the run: ended by a signal, at a safe point; what is done is kept" in daemon.said()
            wait_until(lambda: not lock_is_held(site), "the lock is free")
        let_go.set()
        first = [r.target for r in proxy.operations("PutObject") if "/blobs/" in r.target]
        with Daemon(site) as daemon:
            snapshot = daemon.wait_for_snapshot()
            assert daemon.end() == 0
        puts = [r.target for r in proxy.operations("PutObject") if "/blobs/" in r.target]
        assert len(first) >= 2
        assert all(puts.count(target) == 1 for target in first[:2])
    site.endpoint = weed.endpoint
    assert describe(restored(site, snapshot)) == describe(site.source)


def lock_is_held(site):
    with (site.state / "index.sqlite.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# -- what it lives through --------------------------------------------------------------------------


def test_a_store_that_is_away_and_comes_back(host):
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        away = host.store.with_name("away")
        host.store.rename(away)
        (host.source / "b").write_text("b")
        line = daemon.wait_for(r"ERROR run failed: (.*); again in 1 s")[1]
        assert str(host.store) in line
        daemon.wait_for(r"run failed 3 times in a row: ")
        found = wait_until(lambda: (s := status(host)["daemon"])["failures"] >= 2 and s, "it tells of failures")
        assert str(host.store) in found["last_error"]
        assert "failing         " in host.run("status", host.config).stdout
        away.rename(host.store)
        snapshot = daemon.wait_for_snapshot()
        assert describe(restored(host, snapshot)) == describe(host.source)
        wait_until(lambda: status(host)["daemon"]["failures"] == 0, "it is well again")


def test_a_source_that_vanishes_and_comes_back(host):
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        away = host.tmp / "away"
        host.source.rename(away)
        daemon.wait_for(r"ERROR run failed: source .*")
        (away / "b").write_text("b")
        away.rename(host.source)
        snapshot = daemon.wait_for_snapshot()
        assert describe(restored(host, snapshot)) == describe(host.source)


def test_a_run_that_is_killed_takes_nothing_down(host):
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        with (host.state / "index.sqlite.lock").open() as lock:
            # A run that finds the lock taken isn't a failure, and one is tried again.
            fcntl.flock(lock, fcntl.LOCK_EX)
            (host.source / "b").write_text("b")
            daemon.wait_for(r"another run is going on; again in 1 s")
            assert "failed" not in daemon.said()
        daemon.wait_for(r"snapshot (\S+) in ", 2)
        daemon.send(signal.SIGUSR1)
        (run,) = wait_until(daemon.runs, "a run begins")
        os.kill(run, signal.SIGKILL)
        daemon.wait_for(r"run failed: the run's process ended by signal SIGKILL")
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 3)[1]
        assert describe(restored(host, snapshot)) == describe(host.source)


def test_nothing_outlives_a_daemon_that_is_killed(host):
    (host.source / "big").write_bytes(os.urandom(50_000_000))
    with Daemon(host) as daemon:
        (run,) = wait_until(daemon.runs, "a run begins")
        daemon.process.kill()
        daemon.process.wait()
        wait_until(lambda: not is_alive(run), "the run is gone")
        wait_until(
            lambda: not (host.state / "index.sqlite.lock").exists() or not lock_is_held(host), "the lock is free"
        )
        assert (host.state / "index.sqlite.pid").exists()
    (host.source / "big").unlink()
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()


FEW_WATCHES = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 4 >/proc/sys/user/max_inotify_watches; exec "$@"',
    "sh",
]


def test_too_few_watches_are_full_scans_at_their_time_and_no_sooner(host):
    if subprocess.run([*FEW_WATCHES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    for number in range(9):
        (host.source / str(number)).mkdir()
    host.configure(backup_interval="1h")
    with Daemon(host, before=FEW_WATCHES) as daemon:
        daemon.wait_for(r"WARNING everything will be scanned: .*max_inotify_watches=\d+")
        daemon.wait_for_snapshot()
        wait_until(lambda: (status(host)["daemon"].get("doubt") or "").startswith("the "), "it tells of its doubt")
        assert "the next run is a full scan" in host.run("status", host.config).stdout
        (host.source / "5" / "b").write_text("b")
        daemon.send(signal.SIGUSR1)
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 2)[1]
        assert describe(restored(host, snapshot)) == describe(host.source)
        assert daemon.end() == 0
        assert daemon.count(r"full scan \(") == daemon.count("snapshot ") == 2
        assert daemon.count("WARNING") == 1


# -- full disks ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_full_disk(host):
    with small_disk(host.state, "3M"):
        with Daemon(host) as daemon:
            daemon.wait_for_snapshot()
            (host.source / "big").write_bytes(os.urandom(6_000_000))
            line = daemon.wait_for(r"ERROR run failed: (.*)")[1]
            assert "No space left" in line or "full" in line
            grow(host.state, "60M")
            snapshot = daemon.wait_for_snapshot()
            assert daemon.end() == 0
        assert describe(restored(host, snapshot)) == describe(host.source)
