"""How fast a run may send, and how much it gives way to others."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support.proxy import Proxy
from vaultik.config.values import UploadLimit, parse_upload_limit
from vaultik.store.pace import Pace
from vaultik.store.s3 import S3Store

MB = 10**6


def sent_per_second(proxy, size):
    """What a run's blobs came to at the server, from the first byte to the last."""
    puts = [request for request in proxy.operations("PutObject") if "/blobs/" in request.target]
    return size / (max(put.ended for put in puts) - min(put.began for put in puts))


@S3_GROUP
@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_server_sees_follows_the_limit(request, tmp_path, weed, workers):
    """Over all processes together, and steadily: with a blob at a time, and with many small ones."""
    site = make_site(request, tmp_path, "seaweedfs", chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    rates = {}
    with Proxy(weed) as proxy:
        site.settings["s3"]["endpoint"] = proxy.endpoint
        for limit in (200_000, 600_000):
            size = 6 * limit
            (site.source / f"{limit}").write_bytes(random.Random(limit).randbytes(size))
            proxy.requests.clear()
            site.configure(upload_limit=f"{limit // 1000}kB")
            done = site.backup("--workers", workers)
            rates[limit] = sent_per_second(proxy, done["bytes_stored"])
    assert 2.4 < rates[600_000] / rates[200_000] < 3.3, rates
    assert all(rate < 1.1 * limit for limit, rate in rates.items()), rates


@S3_GROUP
def test_parts_and_bytes_are_limited_too(weed, tmp_path):
    """By their own threads, against one limit; they arrive as they were sent."""
    body = tmp_path / "body"
    body.write_bytes(random.Random(1).randbytes(11 * MB))
    began = time.monotonic()
    pace = Pace(parse_upload_limit("4MB"))
    store = S3Store(
        weed.endpoint,
        "vault",
        f"{tmp_path.name}/",
        region="us-east-1",
        access_key_id=weed.access_key,
        secret_access_key=weed.secret_key,
        multipart_above=6 << 20,
        part_size=5 << 20,
        pace=pace,
    )
    try:
        assert store.put("parts", body, sha256=hashlib.sha256(body.read_bytes()).digest())
        assert time.monotonic() - began > 0.9 * 11 / 4
        small = os.urandom(1000)
        assert store.put("bytes", small, sha256=hashlib.sha256(small).digest())
        for key, content in (("parts", body.read_bytes()), ("bytes", small)):
            with store.open(key) as stored:
                assert b"".join(iter(lambda stored=stored: stored.read(1 << 20), b"")) == content
    finally:
        store.close()
        pace.close()


def test_a_directory_store_too(local_site):
    local_site.source.mkdir()
    (local_site.source / "file").write_bytes(random.Random(2).randbytes(2 * MB))
    local_site.configure(upload_limit="1MB/s")
    assert local_site.backup()["seconds"] > 0.9 * 2


def test_a_signal_ends_the_wait(local_site):
    local_site.source.mkdir()
    (local_site.source / "file").write_bytes(random.Random(3).randbytes(MB))
    local_site.configure(upload_limit="1kB")
    process = subprocess.Popen(local_site.command("backup", local_site.config), env=local_site.environment())
    try:
        while not list(local_site.store.rglob(".tmp-*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
    local_site.configure(upload_limit=None)
    assert local_site.backup()["exit_code"] == 0


@pytest.fixture
def at_hour(monkeypatch):
    """Sets this process's clock to a local hour, by the time zone."""

    def set_hour(hour):
        offset = (hour - time.gmtime().tm_hour) % 24
        monkeypatch.setenv("TZ", f"TEST{-offset if offset < 13 else 24 - offset:+d}")
        time.tzset()
        assert time.localtime().tm_hour == hour

    yield set_hour
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()


def test_another_time_of_day_has_another_limit(at_hour):
    """It takes effect in the middle of a wait."""
    at_hour(9)
    pace = Pace(parse_upload_limit({"08:00-18:00": "1kB", "22:00-06:00": "1GB"}))
    try:
        waiting = threading.Thread(target=pace.take, args=(3_600_000,))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        at_hour(20)
        waiting.join(60)
        assert not waiting.is_alive()
        pace.take(1 << 40)  # no limit, no wait
    finally:
        pace.close()


def test_times_of_day():
    limit = parse_upload_limit({"08:00-18:30": "1MB", "18:30-08:00": "2MB"})
    assert isinstance(limit, UploadLimit)
    assert [limit.rate_at(minute) for minute in (0, 479, 480, 1109, 1110, 1439)] == [
        2 * MB,
        2 * MB,
        MB,
        MB,
        2 * MB,
        2 * MB,
    ]
    assert parse_upload_limit({"12:00-24:00": "1MB"}).rate_at(0) is None
    assert parse_upload_limit(5000).rate_at(700) == 5000


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"upload_limit": "fast"}, "upload_limit: not a size"),
        ({"upload_limit": "10B"}, "upload_limit: less than 1kB a second"),
        ({"upload_limit": ["1MB"]}, "upload_limit: not a size per second"),
        ({"upload_limit": {"8-18": "1MB"}}, "upload_limit: not a time of day: '8-18'"),
        ({"upload_limit": {"08:00-25:00": "1MB"}}, "upload_limit: not a time of day"),
        ({"upload_limit": {"08:00-08:00": "1MB"}}, "upload_limit: not a time of day"),
        ({"upload_limit": {"08:00-12:00": "1MB", "11:00-13:00": "2MB"}}, "two times of day hold at 11:00"),
        ({"nice": 20}, "nice: expected a number <= 19"),
        ({"nice": -5}, "nice: expected a number >= 0"),
        ({"ionice": "realtime"}, "ionice: invalid enum value 'realtime'"),
    ],
)
def test_what_can_not_be_one(local_site, settings, reason):
    local_site.source.mkdir()
    local_site.configure(**settings)
    said = local_site.run("backup", local_site.config, code=2).stderr
    assert reason in said
    assert f"vaultik: {local_site.config}:" in said


@pytest.mark.parametrize("ionice", ["idle", "best-effort"])
def test_a_run_and_what_it_begins_give_way(local_site, tmp_path, ionice):
    """The hooks before it don't; nothing is ever raised."""
    local_site.source.mkdir()
    script = "import os, psutil; io = psutil.Process().ionice(); print(os.getpriority(0, 0), io.ioclass.name, io.value)"
    tell = [sys.executable, "-c", script]
    before, dump = tmp_path / "before", tmp_path / "dump"
    local_site.configure(
        nice=15,
        ionice=ionice,
        workers=2,
        hooks={"before": [["sh", "-c", f'exec "$@" >{before}', "sh", *tell]]},
        commands=[{"name": "/told", "command": tell}],
    )
    now = os.getpriority(os.PRIO_PROCESS, 0)
    for more in (0, 19):
        own = min(now + more, 19)
        subprocess.run(
            ["nice", "-n", str(more), *local_site.command("backup", local_site.config)],
            env=local_site.environment(),
            check=True,
            capture_output=True,
        )
        local_site.run("fetch", *local_site.where, "latest", "/told", dump)
        level = {"idle": "IOPRIO_CLASS_IDLE 0", "best-effort": "IOPRIO_CLASS_BE 7"}[ionice]
        assert dump.read_text() == f"{max(own, 15)} {level}\n"
        assert before.read_text().split()[0] == str(own)
        dump.unlink()
