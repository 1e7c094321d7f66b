"""`vaultik init --systemd`: units that systemd accepts, that protect the host, and under which a backup works."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.site import Site
from vaultik.cli.systemd import UNITS as ENDS

UNITS = [f"vaultik{end}" for end in ENDS]

EXPOSURE = 3.0
"""The most that `systemd-analyze security` may find, of 10."""
FORBIDDEN = {
    "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers", "ProtectKernelModules", "TemporaryFileSystem",
    "InaccessiblePaths", "RootDirectory", "DynamicUser", "ProcSubset",
}  # fmt: skip
"""Each hides a part of the sources."""


@pytest.fixture
def units(local_site):
    """The units for a site, where systemd-analyze finds no others."""
    directory = local_site.tmp / "units"
    directory.mkdir()
    said = local_site.run("init", local_site.config, "--systemd", "--directory", directory).stdout
    assert all(f"Wrote {directory / name}" in said for name in UNITS)
    return directory


def analyze(*arguments, **kwargs):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, **kwargs
    )


def verify(directory, name="vaultik"):
    done = analyze("verify", *(directory / f"{name}{end}" for end in ENDS))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def settings_of(unit):
    lines = [line for line in unit.read_text().splitlines() if line and line[0] not in "#[;"]
    return [tuple(line.split("=", 1)) for line in lines]


def test_systemd_accepts_them(units):
    verify(units)


def test_they_are_hardened(units):
    for name in ("vaultik.service", "vaultik-backup.service"):
        done = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", units / name)
        assert done.returncode == 0, done.stdout[-500:]
        found = float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1])
        assert 0 < found <= EXPOSURE


def test_nothing_hides_what_is_to_be_backed_up(units):
    for name in ("vaultik.service", "vaultik-backup.service"):
        keys = {key for key, _ in settings_of(units / name)}
        assert not keys & FORBIDDEN
        assert {"ProtectSystem", "CapabilityBoundingSet", "NoNewPrivileges", "SystemCallFilter"} <= keys


def test_what_they_start_is_the_config_that_was_named(units, local_site):
    daemon = dict(settings_of(units / "vaultik.service"))
    assert daemon["ExecStart"].endswith(f" backup {local_site.config} --daemon --foreground")
    assert (daemon["Type"], daemon["Restart"]) == ("notify", "on-failure")
    assert dict(settings_of(units / "vaultik-backup.service"))["ExecStart"].endswith(
        f" backup {local_site.config} --cron"
    )
    timer = dict(settings_of(units / "vaultik-backup.timer"))
    assert (timer["Persistent"], timer["RandomizedDelaySec"]) == ("true", "15min")
    writable = [value for key, value in settings_of(units / "vaultik.service") if key == "ReadWritePaths"]
    assert writable == [f"{local_site.state}", f"-{local_site.store}"]
    assert local_site.state.stat().st_mode & 0o777 == 0o700


def test_an_index_in_its_usual_place_is_made_by_systemd(local_site):
    local_site.configure(index_path="/var/lib/vaultik-of-a-test/index.sqlite", spool_dir=str(local_site.tmp / "spool"))
    directory = local_site.tmp / "units"
    directory.mkdir()
    local_site.run("init", local_site.config, "--systemd", "--directory", directory)
    assert not Path("/var/lib/vaultik-of-a-test").exists()
    found = settings_of(directory / "vaultik.service")
    assert ("StateDirectory", "vaultik-of-a-test") in found
    assert ("ReadWritePaths", f"{local_site.tmp / 'spool'}") in found
    verify(directory)


def test_names_that_mean_something_to_systemd(tmp_path):
    odd = tmp_path / "a b%n$HOME;'c'"
    odd.mkdir()
    site = Site(odd)
    directory = tmp_path / "units"
    directory.mkdir()
    site.run("init", site.config, "--systemd", "--directory", directory)
    verify(directory)
    (command,) = [value for key, value in settings_of(directory / "vaultik.service") if key == "ExecStart"]
    assert command.endswith(f""" backup "{tmp_path}/a b%%n$$HOME;'c'/vaultik.yaml" --daemon --foreground""")


def test_units_that_are_there_stay_unless_forced(units, local_site):
    mine = units / "vaultik-backup.timer"
    mine.write_text(mine.read_text() + "# mine")
    (units / "vaultik.service").unlink()
    command = ["init", local_site.config, "--systemd", "--directory", units]
    said = local_site.run(*command, code=2).stderr
    assert "exists already" in said
    assert "--force" in said
    assert mine.read_text().endswith("# mine")
    assert not (units / "vaultik.service").exists()
    local_site.run(*command, "--force")
    assert not mine.read_text().endswith("# mine")
    verify(units)


def test_a_second_config_of_a_host_has_units_of_its_own(units, tmp_path):
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    before = (units / "vaultik.service").read_text()
    command = ["init", other.config, "--systemd", "--directory", units, "--force"]
    said = other.run(*command, code=2).stderr
    assert f"vaultik.service: is not of {other.config}" in said
    assert "--name" in said
    said = other.run(*command, "--name", "mail").stdout
    assert "systemctl enable --now mail.service" in said
    assert (units / "vaultik.service").read_text() == before
    assert f"backup {other.config} --cron" in (units / "mail-backup.service").read_text()
    verify(units, "mail")
    other.run(*command, "--name", "a/b", code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vaultik.yaml", "--systemd"], "a unit needs its absolute path"),
        (["{tmp}/nowhere.yaml", "--systemd"], "No such file"),
        (["{tmp}/vaultik.yaml", "--systemd", "--directory", "{tmp}/nowhere"], "not a directory"),
        (["{tmp}/vaultik.yaml", "--force"], "go with --systemd"),
        (["{tmp}/vaultik.yaml", "--directory", "{tmp}"], "go with --systemd"),
    ],
)
def test_what_makes_no_sense_is_refused(local_site, arguments, said):
    before = sorted(local_site.tmp.rglob("*"))
    done = local_site.run("init", *(a.format(tmp=local_site.tmp) for a in arguments), code=2, cwd=local_site.tmp)
    assert said in done.stderr
    assert sorted(local_site.tmp.rglob("*")) == before


def test_a_config_that_is_not_filled_in_is_refused(local_site):
    empty = local_site.tmp / "empty.yaml"
    local_site.run("init", empty)
    assert "age_recipient" in local_site.run("init", empty, "--systemd", "--directory", local_site.tmp, code=2).stderr


# -- a backup within those bounds -------------------------------------------------------------------


def allowed_calls(unit):
    """The system calls that a unit's filter leaves."""
    calls = set()
    for key, value in settings_of(unit):
        if key == "SystemCallFilter":
            sets = {call for name in value.removeprefix("~").split() for call in expand(name)}
            calls = calls - sets if value.startswith("~") else calls | sets
    return calls


def expand(name, known={}):  # noqa: B006 - a cache
    if not name.startswith("@"):
        return {name}
    if name not in known:
        lines = analyze("syscall-filter", "--no-pager", name).stdout.splitlines()[1:]
        words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        known[name] = {call for word in words for call in expand(word)}
    return known[name]


def test_a_daemon_and_its_runs_need_no_system_call_that_is_filtered(units, site):
    site.source.mkdir()
    (site.source / "a").write_bytes(os.urandom(3_000_000))
    site.configure(workers=2)
    allowed = allowed_calls(units / "vaultik.service")
    assert {"openat", "inotify_add_watch", "syncfs"} <= allowed
    assert not {"mount", "init_module", "ptrace"} & allowed
    trace = site.tmp / "trace"
    with Daemon(site, before=["strace", "-f", "-qq", "-o", trace]) as daemon:
        daemon.wait_for_snapshot()
        os.kill(int(site.index.with_name("index.sqlite.pid").read_text()), signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    calls = re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", trace.read_text(errors="replace"), re.MULTILINE)
    assert {"openat", "inotify_add_watch"} <= set(calls)
    assert not set(calls) - allowed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_a_backup_needs_no_right_but_those_that_are_left(units, local_site):
    source = local_site.source
    source.mkdir()
    private = source / "private"
    private.write_text("of somebody else")
    private.chmod(0)
    os.utime(private, (1, 1))
    os.chown(private, 1234, 1234)
    found = dict(settings_of(units / "vaultik.service"))
    rights = found["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
    bounds = [f"--bounding-set=-all,{','.join(rights)}", "--inh-caps=-all", "--no-new-privs"]
    writable = [
        value.removeprefix("-") for key, value in settings_of(units / "vaultik.service") if key == "ReadWritePaths"
    ]
    assert (found["RuntimeDirectory"], found["Environment"]) == ("%N", "TMPDIR=%t/%N")
    runtime = local_site.tmp / "runtime"
    runtime.mkdir()
    mount_point = next(path for path in local_site.tmp.parents if os.path.ismount(path))
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", mount_point, runtime, *writable, "--"),
            *("setpriv", *bounds, sys.executable, "-c", NO_NEW_CODE),
            *local_site.command("backup", local_site.config),
        ],
        env=local_site.environment(OUTSIDE=str(local_site.tmp / "outside"), TMPDIR=str(runtime)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert private.stat().st_atime == 1
    local_site.restore(local_site.tmp / "back")
    assert (local_site.restored(local_site.tmp / "back") / "private").read_text() == "of somebody else"


READ_ONLY = """
mount_point=$1; shift
while [ "$1" != -- ]; do mount --bind "$1" "$1"; shift; done
shift
mount -o remount,bind,ro "$mount_point"
if touch "$OUTSIDE" 2>/dev/null; then echo "$OUTSIDE can be written" >&2; exit 9; fi
exec "$@"
"""
"""What ProtectSystem=strict and ReadWritePaths make, in a mount namespace that ends with the process."""

NO_NEW_CODE = """
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1  # what MemoryDenyWriteExecute sets; kernels before 6.3 don't have it
ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
