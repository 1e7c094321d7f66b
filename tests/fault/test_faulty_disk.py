"""Disks that fail at a write, a sync or a rename, as the kernel would have it: strace makes system calls of real runs fail.

In the suite some of the calls of each kind, spread over the run; VAULTIK_EVERY_WRITE=1 takes every single one.
"""

import itertools
import os
import re
import shutil
import subprocess

import pytest

from tests.support.site import Site
from tests.support.tree import describe
from vaultik.core.ids import source8

EVERY = bool(os.environ.get("VAULTIK_EVERY_WRITE"))
MEANWHILE = 2 if not EVERY else 10**6
"""How many calls of a kind are made to fail, each in a run of its own."""


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (site.source / "deep").mkdir(parents=True)
    for name in ("one", "two", "deep/three"):
        (site.source / name).write_bytes(os.urandom(30_000))
    site.backup()
    return site


def fail(site, calls, error, nth, *command, paths=()):
    """Run the command line with the nth of some system calls failing in each process; returns it, and how many failed."""
    log = site.tmp / "strace.log"
    only = itertools.chain.from_iterable(("-P", str(path)) for path in paths)
    traced = [
        "strace",
        "-f",
        "-qq",
        "-o",
        log,
        *only,
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:error={error}:when={nth}",
    ]
    done = subprocess.run(
        [*map(str, traced), *site.command(*command)],
        env=site.environment(PYTHONWARNINGS="ignore"),
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text().count("INJECTED")


def places(most):
    """Which calls of so many are made to fail: the first few, and others evenly over the rest."""
    step = max(1, most // MEANWHILE)
    return sorted({*range(1, min(3, most) + 1), *range(1, most + 1, step)}) if most else []


def count(site, calls, *command, paths=()):
    """How many of the calls there are in a run in which none fails, in the process that makes the most of them."""
    done, injected = fail(site, calls, "EIO", 60_000, *command, paths=paths)
    assert (done.returncode, injected) == (0, 0), done.stderr
    made = re.findall(r"^(\d+) ", (site.tmp / "strace.log").read_text(), re.MULTILINE)
    return max((made.count(process) for process in set(made)), default=0)


def check_said(done):
    """It ended right, or with what a person can use: a line that says what, and a hint."""
    assert done.returncode in (0, 1), (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "this is a bug" not in done.stderr
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("  hint: ")]
        assert lines
        assert all(line.startswith("vaultik: ") for line in lines), done.stderr


def change(site):
    (site.source / "changing").write_bytes(os.urandom(20_000))


def check_restores(site):
    out = site.tmp / "out"
    shutil.rmtree(out, ignore_errors=True)
    site.restore(out)
    assert describe(site.restored(out)) == describe(site.source)


class TestBackup:
    @pytest.mark.parametrize(
        ("calls", "error"),
        [
            ("pwrite64", "EIO"),
            ("pwrite64", "ENOSPC"),
            ("fsync,fdatasync", "EIO"),
            ("ftruncate", "EROFS"),
            ("link,linkat,rename,renameat,renameat2", "EROFS"),
            ("unlink,unlinkat", "EROFS"),
            ("mkdir", "ENOSPC"),
        ],
    )
    def test_beside_the_index_the_spool_and_a_directory_store(self, site, calls, error):
        command = ["backup", site.config, "--workers", "1"]
        change(site)
        failed = 0
        for nth in places(count(site, calls, *command)):
            change(site)
            done, injected = fail(site, calls, error, nth, *command)
            check_said(done)
            failed += injected
            site.backup()
        assert failed
        check_restores(site)
        site.run("verify", *site.where, "--deep", "--state", site.tmp / "verify.sqlite")

    @pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EROFS"])
    def test_at_each_write_of_the_spool(self, site, error):
        command = ["backup", site.config, "--workers", "1"]
        folder = site.spool / source8((site.state / "index.sqlite.source").read_text().strip())
        paths = [folder / f"{number}.part" for number in range(200)]
        change(site)
        failed = 0
        for nth in places(count(site, "write", *command, paths=paths)):
            change(site)
            done, injected = fail(site, "write", error, nth, *command, paths=paths)
            check_said(done)
            assert not injected or done.returncode == 1
            failed += injected
            site.backup()
        assert failed
        check_restores(site)


class TestRestore:
    @pytest.mark.parametrize(
        ("calls", "error"),
        [
            ("pwrite64", "EIO"),
            ("pwrite64", "ENOSPC"),
            ("fsync,fdatasync,syncfs", "EIO"),
            ("link,linkat,rename,renameat,renameat2", "EROFS"),
            ("unlink,unlinkat", "EROFS"),
            ("mkdir,mkdirat", "ENOSPC"),
            ("fchown,fchmod,utimensat", "EROFS"),
        ],
    )
    def test_into_the_target(self, site, calls, error):
        out = site.tmp / "out"
        command = ["restore", *site.where, "latest", out, "--workers", "1"]
        failed = 0
        for nth in places(count(site, calls, *command)):
            shutil.rmtree(out)
            done, injected = fail(site, calls, error, nth, *command)
            check_said(done)
            failed += injected
            # The same command goes on; a target that was never begun is as good as none.
            site.run(*command, *(["--force"] if done.returncode == 0 else []))
            assert describe(site.restored(out)) == describe(site.source)
        assert failed

    @pytest.mark.parametrize("size", [4096, 29_999, 30_000, 70_000])
    def test_short_writes_at_a_limit_of_size(self, site, size):
        """RLIMIT_FSIZE has the kernel take a part of a write, and refuse the rest."""
        out = site.tmp / "out"
        command = site.command("restore", *site.where, "latest", out)
        limited = ["prlimit", f"--fsize={size}", *command]
        done = subprocess.run(limited, env=site.environment(), capture_output=True, text=True, check=False)
        check_said(done)
        assert done.returncode == 1
        site.restore(out)
        assert describe(site.restored(out)) == describe(site.source)


class TestLookingAfter:
    @pytest.mark.parametrize("calls", ["pwrite64", "fsync,fdatasync", "unlink,unlinkat", "mkdir"])
    @pytest.mark.parametrize("what", ["verify", "prune"])
    def test_the_working_state(self, site, what, calls):
        change(site)
        site.backup()
        command = {
            "verify": ["verify", *site.where, "--deep", "--state", site.tmp / "verify.sqlite"],
            "prune": ["prune", *site.where, "--yes", "--keep-last", "9"],
        }[what]
        before = site.objects()
        for nth in places(count(site, calls, *command)):
            done, _ = fail(site, calls, "ENOSPC", nth, *command)
            check_said(done)
            assert site.objects() == before
            site.run(*command)
        check_restores(site)
