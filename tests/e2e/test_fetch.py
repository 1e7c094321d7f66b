"""Fetches into what is there already, and what is left of them however they end."""

import contextlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.disks import made, small_disk
from tests.support.forge import forge
from tests.support.restores import leftovers
from tests.support.site import Site
from tests.support.tree import compare, flags_of


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (site.source / "dir").mkdir(parents=True)
    (site.source / "dir/small").write_text("x")
    return site


@pytest.fixture
def there(tmp_path):
    """What stands where the source goes."""
    there = tmp_path / "there/source"
    (there / "dir").mkdir(parents=True)
    (there / "mine").write_text("mine")
    return there


def fetch(site, path, target, *arguments, **kwargs):
    return site.run("fetch", *site.where, "latest", path, target, "--force", *arguments, **kwargs)


def interrupt(site, there, *arguments):
    """Fetch the source to where something stands, and break that off when it is being written."""
    run = subprocess.Popen(
        site.command("fetch", *site.where, "latest", site.source, there.parent, "--force", *arguments),
        env=site.environment(),
    )
    while not leftovers(there) and run.poll() is None:
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert (there / "mine").read_text() == "mine"


def make_large(site, count=1):
    for number in range(count):
        (site.source / f"dir/large {number}").write_bytes(os.urandom(20_000_000))


class TestNoTemporaryIsLeft:
    def test_when_it_is_interrupted(self, site, there):
        make_large(site, 5)
        site.backup()
        interrupt(site, there)
        assert leftovers(there) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
    def test_when_the_disk_is_full(self, site, there):
        make_large(site)
        site.backup()
        with small_disk(there / "dir", "8m"):
            assert "No space left" in fetch(site, site.source, there.parent, code=1).stderr
            assert leftovers(there) == []

    @pytest.mark.usefixtures("there")
    @pytest.mark.parametrize("target", ["there", "new"])
    def test_of_a_file_that_could_not_be_written(self, site, tmp_path, target):
        make_large(site)
        site.backup()
        limit = (10_000_000, 10_000_000)
        done = fetch(
            site,
            site.source,
            tmp_path / target,
            code=1,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )
        assert "File too large" in done.stderr
        assert leftovers(tmp_path / target) == []


@contextlib.contextmanager
def bound(folder):
    """A directory that is mounted on another of the same file system."""
    for path in (folder, folder.with_name("bound")):
        path.mkdir(parents=True)
    subprocess.run(["mount", "--bind", path, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def subvolume(folder):
    with made(folder.parent, "btrfs"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", folder], check=True)
        yield


MOUNTS = {"another file system": lambda at: small_disk(at, "8m"), "the same one": bound, "a subvolume": subvolume}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS)
def test_an_empty_mount_point_is_gone_into(site, tmp_path, mount):
    """Nothing can be renamed onto it."""
    site.backup()
    at = tmp_path / "disk/source"
    with mount(at):
        site.run("fetch", *site.where, "latest", site.source, at.parent)
        assert compare(site.source, at) == []


def test_a_new_directory_has_the_mode_of_any_new_one_unless_it_gets_its_own(site, tmp_path):
    (site.source / "dir").chmod(0o750)
    site.backup()
    for path, mode, *arguments in (
        ("/", 0o755),
        (site.source / "dir", 0o755, "--without", "mode"),
        (site.source / "dir", 0o750),
    ):
        fetch(site, path, tmp_path / "new", *arguments)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
        shutil.rmtree(tmp_path / "new")


@pytest.fixture
def chattr(there):
    """Sets flags below what stands there; the test is skipped where the file system has none."""

    def chattr(flags, *paths):
        if subprocess.run(["chattr", flags, *paths], check=False, capture_output=True).returncode:
            pytest.skip("NO FLAGS: this file system has none")

    yield chattr
    subprocess.run(["chattr", "-R", "-ia", there], check=False, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets these flags")
class TestFlags:
    @pytest.mark.parametrize("flag", ["+i", "+a"])
    def test_a_file_that_forbids_it_is_replaced(self, site, there, chattr, flag):
        site.backup()
        chattr(flag, there / "mine")
        fetch(site, site.source / "dir/small", there / "mine")
        assert (there / "mine").read_text() == "x"
        assert not set("ia") & set(flags_of(there / "mine"))

    @pytest.mark.parametrize("way", ["left out", "unknown", "root"])
    def test_what_is_taken_off_directories_is_put_back(self, site, there, chattr, way):
        """Where the snapshot's aren't wanted, or it has none, and on a directory that stands for `/`."""
        site.backup()
        if way == "unknown":
            forge(site, "UPDATE entries SET inode_flags = NULL")
        chattr("+i", there / "dir")
        chattr("+a", there)
        path = Path("/") if way == "root" else site.source
        fetch(
            site, path, there if way == "root" else there.parent, *(["--without", "flags"] if way == "left out" else [])
        )
        assert "a" in flags_of(there)
        if way != "root":
            assert "i" in flags_of(there / "dir")
            assert (there / "dir/small").read_text() == "x"

    @pytest.mark.parametrize("keeps", [[], ["--without", "flags"]], ids=["kept", "left out"])
    def test_it_is_also_when_it_is_interrupted(self, site, there, chattr, keeps):
        make_large(site, 5)
        site.backup()
        chattr("+i", there / "dir")
        chattr("+a", there)
        interrupt(site, there, *keeps)
        assert leftovers(there) == []
        assert "i" in flags_of(there / "dir")
        assert "a" in flags_of(there)

    def test_the_snapshots_hold(self, site, there, chattr):
        site.backup()
        chattr("+i", there / "dir")
        chattr("+a", there)
        fetch(site, site.source, there.parent)
        assert [flags_of(there), flags_of(there / "dir")] == [flags_of(site.source), flags_of(site.source / "dir")]
