"""The daemon as a process: what it does with changes, signals, and whoever starts it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, is_alive, killed_after, wait_until
from tests.support.tree import describe

OFTEN = {"backup_interval": "1s", "full_scan_interval": "1h", "min_time_between_run": "0"}
SELDOM = {"backup_interval": "1h", "full_scan_interval": "24h", "min_time_between_run": "0"}
NOTHING = r"nothing changed: no run"


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


# -- what it runs -----------------------------------------------------------------------------------


def test_what_changes_is_backed_up_and_nothing_else_makes_a_snapshot(host):
    with Daemon(host) as daemon:
        daemon.wait_for(r"full scan \(the first run since the start\)")
        daemon.wait_for_snapshot()
        daemon.wait_for(NOTHING, 2)
        assert len(daemon.snapshots()) == 1
        (host.source / "new").mkdir()
        (host.source / "new" / "b").write_text("b")
        daemon.wait_for(r"run over what changed \(\d+ dirty\)")
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 2)[1]
        assert describe(restored(host, snapshot)) == describe(host.source)
        rests = daemon.count(NOTHING)
        written = len(daemon.snapshots())
        daemon.wait_for(NOTHING, rests + 3)
        assert len(daemon.snapshots()) == written
        assert daemon.end() == 0
        assert "Traceback" not in daemon.said()
    assert len(host.objects(".sqlite.zst.age")) == written


def test_a_full_scan_comes_when_it_is_due(host):
    host.configure(full_scan_interval="3s")
    with Daemon(host) as daemon:
        daemon.wait_for(r"full scan \(every 3 s\)", 2)
        assert len(daemon.snapshots()) >= 2


def test_two_runs_are_never_closer_than_the_config_says(host):
    host.backup()
    host.configure(min_time_between_run="1h")
    with Daemon(host) as daemon:
        daemon.wait_for(r"watching")
        wait_until(lambda: status(host)["daemon"]["alive"] and status(host)["daemon"].get("next_look"), "it waits")
        (host.source / "b").write_text("b")
        found = wait_until(lambda: status(host)["daemon"], "it tells")
        assert 3000 < found["next_look"] - time.time() <= 3600
        assert daemon.snapshots() == []
        daemon.send(signal.SIGUSR1)
        daemon.wait_for(r"\(asked for; ")
        daemon.wait_for_snapshot()


def test_status_tells_of_it(host):
    with Daemon(host) as daemon:
        daemon.wait_for(NOTHING)
        found = wait_until(
            lambda: (s := status(host)) and s["daemon"].get("next_full_scan") and not s["daemon"]["running"] and s,
            "it told",
        )
        assert (found["daemon"]["pid"], found["daemon"]["alive"]) == (daemon.pid, True)
        assert (found["daemon"]["dirty"], found["daemon"]["failures"], found["daemon"]["doubt"]) == (0, 0, None)
        assert found["daemon"]["watching"] >= 1
        text = host.run("status", host.config).stdout
        assert f"running, process {daemon.pid}, " in text
        assert "when something changes; a full scan in " in text
        assert daemon.end() == 0
    assert "daemon          not running\n" in host.run("status", host.config).stdout


# -- signals ----------------------------------------------------------------------------------------


def test_it_ends_as_it_is_asked_to(host):
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        assert (host.state / "index.sqlite.pid").read_text() == f"{daemon.pid}\n"
        assert daemon.end(signal.SIGTERM) == 0
        assert "ending on SIGTERM" in daemon.said()
    assert not (host.state / "index.sqlite.pid").exists()
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        assert daemon.end(signal.SIGINT) == 130


def test_sigusr1_is_a_run_now(host):
    host.configure(**SELDOM)
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        daemon.send(signal.SIGUSR1)
        daemon.wait_for(r"full scan \(asked for; nothing is known to be dirty\)")
        daemon.wait_for(r"snapshot (\S+) in ", 2)
        (host.source / "b").write_text("b")
        wait_until(lambda: status(host)["daemon"], "it is there")
        daemon.send(signal.SIGUSR1)
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 3)[1]
        assert describe(restored(host, snapshot)) == describe(host.source)


def test_sighup_reads_the_config_again(host):
    other = host.tmp / "other"
    other.mkdir()
    (other / "c").write_text("c")
    host.configure(**SELDOM)
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        host.configure(source_dirs=[str(host.source), str(other)])
        daemon.send(signal.SIGHUP)
        daemon.wait_for(r"config read again")
        daemon.wait_for(r"full scan \(the config changed\)")
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 2)[1]
        target = host.tmp / "back"
        host.restore(target, snapshot=snapshot)
        assert Path(f"{target}{other}/c").read_text() == "c"
        (other / "d").write_text("d")
        daemon.send(signal.SIGUSR1)
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 3)[1]
        host.restore(host.tmp / "again", snapshot=snapshot)
        assert Path(f"{host.tmp}/again{other}/d").read_text() == "d"


def test_a_bad_config_changes_nothing(host):
    host.configure(**SELDOM)
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        good = host.config.read_text()
        for number, (text, said) in enumerate(
            [
                (good + "\nnonsense: 1\n", "nonsense: unknown key"),
                (good.replace("index.sqlite", "other.sqlite"), "index_path changed"),
                ("{", "not YAML"),
            ],
            1,
        ):
            host.config.write_text(text)
            daemon.send(signal.SIGHUP)
            line = daemon.wait_for(r"config not reloaded, the one before stays in force: (.*)", number)[1]
            assert said in line
            assert daemon.wait_for(r"  hint: \S", number)
        (host.source / "b").write_text("b")
        daemon.send(signal.SIGUSR1)
        snapshot = daemon.wait_for(r"snapshot (\S+) in ", 2)[1]
        assert describe(restored(host, snapshot)) == describe(host.source)


# -- how it begins ----------------------------------------------------------------------------------


def test_a_second_daemon_is_refused(host):
    with Daemon(host) as daemon:
        daemon.wait_for_snapshot()
        for more in (["--foreground"], ["--log-file", str(host.tmp / "log")]):
            done = host.run("backup", host.config, "--daemon", *more, code=1)
            assert f"a daemon is running already (process {daemon.pid})" in done.stderr
        daemon.wait_for(NOTHING)


def test_in_the_background_it_is_a_service_process(host):
    log = host.tmp / "log"
    place = host.state / "index.sqlite.pid"
    with killed_after(lambda: int(place.read_text())), open(host.tmp / "of the caller", "w") as mine:
        os.set_inheritable(mine.fileno(), True)
        done = subprocess.run(
            host.command("backup", host.config, "--daemon", "--log-file", "log"),
            env=host.environment(PYTHONPATH=os.getcwd()),
            cwd=host.tmp,
            capture_output=True,
            text=True,
            close_fds=False,
            check=True,
            timeout=60,
        )
        pid = int(place.read_text())
        assert done.stdout == f"vaultik runs in the background, process {pid}\n"
        assert "watching" in log.read_text()
        assert os.getsid(pid) not in (pid, os.getsid(0))
        process = Path(f"/proc/{pid}")
        assert (process / "cwd").readlink() == Path("/")
        terminal = (process / "stat").read_text().rpartition(")")[2].split()[4]
        assert terminal == "0"
        opened = {int(fd.name): os.readlink(fd) for fd in (process / "fd").iterdir()}
        assert opened[0] == "/dev/null"
        assert {opened[1], opened[2]} == {str(log)}
        assert str(host.tmp / "of the caller") not in opened.values()
        others = {name for fd, name in opened.items() if fd > 2 and not name.startswith(("anon_inode:", "pipe:"))}
        assert others <= {str(log), str(place), "/"}
        assert log.stat().st_mode & 0o777 == 0o600
        wait_until(lambda: "snapshot " in log.read_text(), "there is a snapshot")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "it is gone")
        assert not place.exists()
        assert "Traceback" not in log.read_text()
        assert "ResourceWarning" not in log.read_text()


def test_what_is_wrong_is_told_before_it_goes_to_the_background(host, tmp_path):
    command = ["backup", host.config, "--daemon", "--log-file", tmp_path / "log"]
    good = host.config.read_text()
    host.config.write_text(good + "nonsense: 1\n")
    assert "nonsense: unknown key" in host.run(*command, code=2).stderr
    host.config.write_text(good)
    host.backup()
    elsewhere = host.config.with_name("moved.yaml")
    elsewhere.write_text(good)
    assert "index belongs to the config" in host.run("backup", elsewhere, *command[2:], code=2).stderr
    assert not (tmp_path / "log").exists()
    done = host.run(*command[:-1], tmp_path / "nowhere" / "log", code=2)
    assert "log file" in done.stderr
    assert not (host.state / "index.sqlite.pid").exists()


@pytest.mark.skipif(os.path.exists("/dev/log"), reason="this machine has a system log")
def test_without_a_system_log_it_says_what_to_do(host):
    with killed_after(lambda: int((host.state / "index.sqlite.pid").read_text())):
        done = host.run("backup", host.config, "--daemon", code=2)
    assert "no system log at /dev/log" in done.stderr
    assert "--log-file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--daemon", "--json"], "--json: for a single run"),
        (["--daemon", "--foreground", "--cron"], "--cron: for a single run"),
        (["--daemon", "--quiet", "--adopt"], "--adopt, --quiet: for a single run"),
        (["--foreground"], "go with --daemon"),
        (["--log-file", "x"], "go with --daemon"),
    ],
)
def test_options_that_make_no_sense_together(host, arguments, said):
    assert said in host.run("backup", host.config, *arguments, code=2).stderr
    assert not host.state.exists()


# -- what it tells systemd --------------------------------------------------------------------------


class Manager:
    """Listens as systemd does."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(0)
        self.heard = []

    def wait_for(self, beginning, times=1):
        def heard():
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.heard += self._socket.recv(4096).decode().splitlines()
            return sum(line.startswith(beginning) for line in self.heard) >= times

        wait_until(heard, lambda: f"systemd hears {beginning}: {self.heard}")

    def close(self):
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_it_tells_systemd_how_it_is(host, abstract):
    address = f"@vaultik-test-{os.getpid()}" if abstract else str(host.tmp / "notify")
    host.configure(**SELDOM)
    with (
        contextlib.closing(Manager(address.replace("@", "\0"))) as manager,
        Daemon(host, NOTIFY_SOCKET=address, WATCHDOG_USEC="400000") as daemon,
    ):
        manager.wait_for("READY=1")
        assert not any(line.startswith("STATUS=") for line in manager.heard[: manager.heard.index("READY=1")])
        manager.wait_for("STATUS=backing up")
        manager.wait_for("STATUS=next look ")
        manager.wait_for("WATCHDOG=1", 5)
        daemon.send(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("MONOTONIC_USEC=")
        manager.wait_for("READY=1", 2)
        daemon.send(signal.SIGSTOP)
        manager.wait_for("WATCHDOG=1", 1)
        fed = manager.heard.count("WATCHDOG=1")
        daemon.send(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1", fed + 2)
        assert daemon.end() == 0
        manager.wait_for("STOPPING=1")


# -- while it begins ----------------------------------------------------------------------------------

SLOW = """
import time
import vaultik.daemon.watch as watch
def start(self):
    print("placing watches", flush=True)
    time.sleep(3600)
watch.Watcher.start = start
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_while_watches_are_being_placed(host, number, code):
    """On millions of directories that takes its time."""
    (host.tmp / "slow").mkdir()
    (host.tmp / "slow" / "sitecustomize.py").write_text(SLOW)
    with Daemon(host, PYTHONPATH=f"{host.tmp / 'slow'}:{os.getcwd()}") as daemon:
        daemon.wait_for("placing watches")
        daemon.send(signal.SIGHUP)
        daemon.send(signal.SIGUSR1)
        assert daemon.end(number) == code
        assert "Traceback" not in daemon.said()
    assert not (host.state / "index.sqlite.pid").exists()
