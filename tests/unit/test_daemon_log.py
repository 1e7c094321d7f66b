"""The daemon's log: one printable line per event, wherever it goes."""

import os
import socket

import pytest

from vaultik.daemon import log as logs
from vaultik.errors import ConfigError


@pytest.fixture(autouse=True)
def closed():
    opened = []
    yield opened.append
    for log in opened:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()


def test_the_systems_log(tmp_path, closed):
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
        system.bind(address)
        system.settimeout(10)
        log = logs.to_syslog(address)
        closed(log)
        log.warning("a line\nand \x1b[31mmore")
        daemon, warning = 3, 4
        assert (
            system.recv(1000).decode()
            == f"<{daemon * 8 + warning}>vaultik[{os.getpid()}]: a line\\x0aand \\x1b[31mmore"
        )
        assert len(logs.descriptors(log)) == 1


def test_no_system_log(tmp_path):
    with pytest.raises(ConfigError, match=r"no system log at .*: No such file"):
        logs.to_syslog(str(tmp_path / "log"))


def test_a_file_that_was_rotated_away(tmp_path, closed):
    path = tmp_path / "log"
    log = logs.to_file(path)
    closed(log)
    log.info("before")
    path.rename(tmp_path / "log.1")
    log.info("after")
    assert path.read_text().endswith(" INFO after\n")
    assert path.read_text().count("\n") == 1
    assert (tmp_path / "log.1").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match=r"log file .*: No such file"):
        logs.to_file(tmp_path / "nowhere" / "log")


def test_standard_error_with_priorities_where_the_journal_stands_behind_it(capfd, closed, monkeypatch):
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    log = logs.to_stderr()
    closed(log)
    log.error("bad")
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    logs.to_stderr().error("bad")
    first, second = capfd.readouterr().err.splitlines()
    assert first == "<3>bad"
    assert second.endswith("Z ERROR bad")
