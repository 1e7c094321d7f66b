"""Pings to whoever waits for them, by a real HTTP server: what comes, what leaves the host, what can't hurt."""

import base64
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.support.listener import Listener


@pytest.fixture
def service():
    with Listener() as listener:
        yield listener


@pytest.fixture
def watched(local_site, service):
    local_site.source.mkdir()
    (local_site.source / "telling-name").write_text("content")
    local_site.configure(notify=f"{service.url}/token-of-mine")
    # No proxy of the machine's.
    local_site.env["no_proxy"] = "127.0.0.1"
    return local_site


@pytest.mark.parametrize("way", ["backup", "luigi"])
def test_a_run_that_goes_well(watched, service, way):
    done = watched.run("backup", watched.config, "--cron") if way == "backup" else watched.luigi("Backup")
    assert (done.stdout, done.stderr) == ("", "")
    assert service.pings() == [("POST", "/token-of-mine/start"), ("POST", "/token-of-mine")]
    begun, ended = (asked.body for asked in service.asked)
    assert f"{os.uname().nodename}: backup begun" in begun
    assert f"{os.uname().nodename}: backup done\n" in ended
    snapshot = watched.run("snapshots", *watched.where).stdout
    assert any(line.removeprefix("snapshot: ") in snapshot for line in ended.splitlines() if "snapshot" in line)
    assert "files: 1 (7 B)" in ended
    assert service.asked[1].headers["content-type"].startswith("text/plain")
    for text in (begun, ended):
        assert len(text.encode()) < 10_000
        assert not any(word in text for word in ("telling-name", str(watched.source), watched.bucket, "key.txt"))


def test_a_run_that_fails(watched, service):
    watched.store.rmdir()
    said = watched.run("backup", watched.config, code=1).stderr
    assert service.pings() == [("POST", "/token-of-mine/start"), ("POST", "/token-of-mine/fail")]
    failed = service.asked[1].body
    assert "backup failed with exit code 1; the host's log says why" in failed
    assert str(watched.tmp) not in failed
    assert "token-of-mine" not in said


def test_an_address_for_each_event(watched, service):
    """As they stand, and for a service that takes no POST by GET; with a user and a password too."""
    with_user = service.url.replace("://", "://me:pass%20word@")
    watched.configure(
        notify={"success": f"{with_user}/push?status=up&msg=OK", "failure": f"{service.url}/push?status=down"}
    )
    service.answers = iter([404])
    watched.run("backup", watched.config)
    assert service.pings() == [("POST", "/push?status=up&msg=OK"), ("GET", "/push?status=up&msg=OK")]
    sent = base64.b64decode(service.asked[1].headers["authorization"].removeprefix("Basic "))
    assert sent == b"me:pass word"
    watched.run("prune", *watched.where)  # not told of
    assert len(service.asked) == 2


def test_a_query_stays_behind_the_suffix(watched, service):
    watched.configure(notify=f"{service.url}/token/?create=1")
    watched.run("backup", watched.config)
    assert service.pings() == [("POST", "/token/start?create=1"), ("POST", "/token/?create=1")]


def test_a_service_that_is_busy_is_asked_again(watched, service):
    service.answers = iter([503, 200])
    assert watched.run("backup", watched.config, "--cron").stderr == ""
    assert [path for _, path in service.pings()] == ["/token-of-mine/start"] * 2 + ["/token-of-mine"]


def test_what_can_not_be_told_is_a_warning(watched, service):
    """No backup fails for it, and no address is shown."""
    service.answers = iter([401, 500, 500, 500])
    said = watched.run("backup", watched.config, "--cron").stderr.splitlines()
    assert said == [
        "vaultik: notify: start could not be told: HTTP 401",
        "vaultik: notify: success could not be told: HTTP 500",
    ]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and doesn't listen
        port = unused.getsockname()[1]
        watched.configure(notify={"success": f"http://127.0.0.1:{port}/token-of-mine"})
        said = watched.run("backup", watched.config, "--cron").stderr
    assert said == "vaultik: notify: success could not be told: no connection\n"


def test_a_signal(watched, service, tmp_path):
    watched.configure(commands=[{"name": "/slow", "command": f"touch {tmp_path}/begun; exec sleep 600"}])
    process = subprocess.Popen(
        watched.command("backup", watched.config), env=watched.environment(), stderr=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
    assert service.pings() == [("POST", "/token-of-mine/start"), ("POST", "/token-of-mine/fail")]
    assert "exit code 143" in service.asked[1].body


@pytest.mark.parametrize(
    ("notify", "reason"),
    [
        ("ftp://hidden.example/secret", "notify: not a URL"),
        ({"failure": "hidden secret"}, "notify: not a URL"),
        ({"fail": "https://hidden.example/secret"}, "notify: fail is no event"),
        (["https://hidden.example/secret"], "notify: neither a URL"),
        ({}, "notify: neither a URL"),
    ],
)
def test_what_can_not_be_told_to(watched, notify, reason):
    watched.configure(notify=notify)
    said = watched.run("backup", watched.config, code=2).stderr
    assert reason in said
    assert "hidden" not in said
    assert "secret" not in said.partition("\n")[0].replace("a secret may stand in it", "")


def test_an_address_counts_as_a_secret(watched):
    watched.config.chmod(0o644)
    assert "holds a secret and others may read it" in watched.run("backup", watched.config).stderr
