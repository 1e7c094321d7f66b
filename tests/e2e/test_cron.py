"""From cron: nothing but an environment of three variables, no terminal, and nothing said unless something is wrong."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import prefork
from tests.support.site import BIN, NO_RIGHTS, Site

SHIPPED_CFG = Path(__file__).parents[2] / "luigi.cfg"
VAULTIK = "vaultik backup {config} --cron"
LUIGI = "LUIGI_CONFIG_PATH={cfg} luigi --module vaultik.tasks Backup --workers {workers}"
WAYS = pytest.mark.parametrize(
    "line",
    [VAULTIK, VAULTIK + " --workers 2", LUIGI.replace("{workers}", "1"), LUIGI.replace("{workers}", "2")],
    ids=["vaultik", "vaultik-2", "luigi-1", "luigi-2"],
)
BOTH = pytest.mark.parametrize("line", [VAULTIK, LUIGI.replace("{workers}", "2")], ids=["vaultik", "luigi"])


class Crontab:
    """A line of a crontab, run as cron runs it."""

    def __init__(self, site):
        self.site = site
        self.home = site.tmp / "home"
        self.home.mkdir()
        self.cfg = site.tmp / "luigi.cfg"
        self.cfg.write_text(SHIPPED_CFG.read_text().replace("/etc/vaultik.yaml", str(site.config)))
        # Where the programs stand; cron's PATH has no place for a virtual environment.
        self.path = site.tmp / "bin"
        self.path.mkdir()
        for name in ("vaultik", "luigi"):
            program = self.path / name
            command = "-m vaultik" if name == "vaultik" else BIN / "luigi"
            program.write_text(f'#!/bin/sh\nPYTHONPATH={os.getcwd()} exec {sys.executable} {command} "$@"\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def begin(self, line, *, no_rights=False):
        text = line.format(config=self.site.config, cfg=self.cfg)
        environment = [f"HOME={self.home}", f"PATH={self.path}:/usr/bin:/bin", "SHELL=/bin/sh"]
        return subprocess.Popen(
            [*(NO_RIGHTS if no_rights else ()), "env", "-i", *environment, "/bin/sh", "-c", text],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, line, code=0, *, no_rights=False):
        """What cron would mail."""
        process = self.begin(line, no_rights=no_rights)
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            kill(process)
        assert process.returncode == code, said
        assert "Traceback" not in said
        return said

    def snapshots(self):
        found = subprocess.run(
            self.site.command("snapshots", *self.site.where, "--json"),
            env=self.site.environment(),
            capture_output=True,
            check=False,
        )
        return json.loads(found.stdout) if found.returncode == 0 else []


@pytest.fixture
def cron(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "a").write_bytes(os.urandom(3_000_000))
    return Crontab(site)


def kill(process):
    if process.poll() is None:
        prefork.kill_group(process.pid)
        process.communicate()


def wait_for(look):
    for _ in range(2400):
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it never was so")


@WAYS
def test_each_time_a_new_snapshot_and_not_a_word(cron, line):
    for count in (1, 2):
        assert cron.run(line) == ""
        assert len(cron.snapshots()) == count
    assert list(cron.home.iterdir()) == []


@WAYS
def test_what_could_not_be_read_is_said_and_is_code_3(cron, line):
    (cron.site.source / "secret").write_text("x")
    (cron.site.source / "secret").chmod(0)
    said = cron.run(line, code=3, no_rights=True)
    assert said == f"vaultik: {cron.site.source}/secret: Permission denied\n"
    assert len(cron.snapshots()) == 1


@WAYS
def test_a_failure_is_said_and_never_0(cron, line):
    store = cron.site.settings["s3"]
    cron.site.configure(s3={**store, "endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b"})
    message, hint = cron.run(line, code=1).splitlines()
    assert message.endswith("can't connect")
    assert hint.startswith("  hint: ")
    cron.site.configure(s3=store)
    assert cron.run(line) == ""


@BOTH
def test_a_config_that_cannot_be_used_is_code_2(cron, line):
    cron.site.configure(chunk_size="nonsense")
    assert "chunk_size" in cron.run(line, code=2)
    cron.site.config.unlink()
    assert str(cron.site.config) in cron.run(line, code=2)


@BOTH
def test_a_second_one_ends_quietly_and_a_dead_ones_lock_is_not_in_the_way(cron, line):
    (cron.site.source / "big").write_bytes(os.urandom(40_000_000))
    first = cron.begin(line)
    try:
        wait_for(lambda: cron.site.spool.exists() and any(cron.site.spooled()))
        os.killpg(first.pid, signal.SIGSTOP)
        assert first.poll() is None, "it was over before the second one began"
        for second in (VAULTIK, LUIGI.replace("{workers}", "1")):
            assert cron.run(second) == ""
        assert cron.snapshots() == []
        # Killed with only its parent process: the others must not hold the lock on.
        os.kill(oldest_python(first.pid), signal.SIGKILL)
        os.killpg(first.pid, signal.SIGCONT)
        first.communicate(timeout=60)
        wait_for(lambda: not alive(first.pid))
    finally:
        kill(first)
    assert cron.run(line) == ""
    assert len(cron.snapshots()) == 1


def oldest_python(group):
    """The process that began a run: the shells above it may or may not have become it."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "-g", str(group)], capture_output=True, text=True, check=True
    ).stdout
    return min(int(line.split()[0]) for line in listed.splitlines() if "python" in line)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
