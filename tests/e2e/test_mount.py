"""Snapshots as directories, really mounted: with the tools that people use, several at once, and every way to end it."""

import concurrent.futures
import contextlib
import copy
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.mounts import NEEDS_FUSE, Mounted, is_mounted, mounted
from tests.support.site import Site, other_host
from tests.support.tree import compare, describe, edit_tree, itemized, make_tree

pytestmark = [NEEDS_FUSE, pytest.mark.xdist_group("mount")]
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


class Twice:
    """A site with two snapshots, and a mount of both."""

    def __init__(self, tmp):
        self.site = Site(tmp, chunk_size="64KiB", blob_size_limit="4MiB")
        make_tree(self.site.source)
        (self.site.source / "words").mkdir()
        for n in range(40):
            (self.site.source / f"words/{n}").write_text(f"line of {n}\nneedle {n}\n" if n % 8 == 0 else "hay\n")
        self.before = describe(self.site.source)
        self.old = self.site.backup()["snapshot"]
        edit_tree(self.site.source)
        self.new = self.site.backup()["snapshot"]


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    twice = Twice(tmp_path_factory.mktemp("twice"))
    with mounted(twice.site, twice.site.tmp / "mnt") as mount:
        twice.mount, twice.at = mount, mount.at
        yield twice


def source_in(twice, snapshot):
    return Path(f"{twice.at}/{snapshot}{twice.site.source}")


def run(*command, **kwargs):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **kwargs)
    return done.returncode, done.stdout, done.stderr


class TestLooking:
    def test_snapshots_stand_by_host_and_by_date(self, twice):
        (host,) = os.listdir(twice.at / "hosts")
        assert sorted(os.listdir(twice.at)) == ["by-date", "hosts", "latest"]
        assert sorted(os.listdir(twice.at / "hosts" / host)) == [twice.old, twice.new, "latest"]
        assert os.readlink(twice.at / "hosts" / host / "latest") == twice.new
        assert (twice.at / "latest").samefile(twice.at / "hosts" / host / twice.new)
        day = twice.at / "by-date" / twice.new[:4] / twice.new[4:6] / twice.new[6:8]
        assert (day / f"{twice.new[9:16]}-{host}-{twice.new[17:]}").samefile(twice.at / "latest")
        assert twice.mount.announced.startswith(f"2 snapshots of {host} at {twice.at}")

    def test_a_listing_is_dated(self, twice):
        (host,) = os.listdir(twice.at / "hosts")
        found = os.stat(twice.at / "hosts" / host / twice.old)
        assert stat.S_ISDIR(found.st_mode)
        assert abs(found.st_mtime - time.time()) < 3600

    def test_everything_of_both_snapshots_is_as_it_was(self, twice):
        assert compare(twice.site.source, source_in(twice, "latest")) == []
        (host,) = os.listdir(twice.at / "hosts")
        assert describe(source_in(twice, f"hosts/{host}/{twice.old}")) == twice.before

    def test_rsync_finds_nothing_to_do(self, twice):
        assert itemized(twice.site.source, source_in(twice, "latest")) == ""
        assert itemized(source_in(twice, "latest"), twice.site.source) == ""

    def test_names_of_one_file_share_their_inode_and_no_others_do(self, twice):
        at = source_in(twice, "latest")
        one, other = os.stat(at / "big"), os.stat(at / "many/hard link to big")
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)
        inodes = [os.lstat(os.path.join(d, n)).st_ino for d, _, names in os.walk(at / "words") for n in names]
        assert len(set(inodes)) == 40
        (host,) = os.listdir(twice.at / "hosts")
        assert os.stat(source_in(twice, f"hosts/{host}/{twice.old}") / "words/1").st_ino not in inodes

    def test_nothing_can_be_written(self, twice):
        for path in (source_in(twice, "latest") / "new", twice.at / "new"):
            with pytest.raises(OSError) as caught:
                path.write_text("x")
            assert caught.value.errno == errno.EROFS

    def test_devices_are_shown_and_open_nothing(self, twice):
        if os.geteuid():
            return
        with pytest.raises(PermissionError):
            os.open(source_in(twice, "latest") / "null", os.O_RDONLY)

    def test_trusted_names_are_for_root(self, twice):
        if os.geteuid():
            return
        assert "trusted.note" in os.listxattr(source_in(twice, "latest") / "small")

    def test_df_knows_how_much_there_is(self, twice):
        os.stat(source_in(twice, "latest"))
        found = os.statvfs(twice.at)
        assert found.f_blocks * found.f_frsize > 7_000_000
        assert (found.f_bavail, found.f_namemax) == (0, 255)
        assert found.f_flag & os.ST_RDONLY


class TestTools:
    def test_cp(self, twice, tmp_path):
        # As far as cp goes: its paths end at PATH_MAX.
        deep = "d" * 150
        source = source_in(twice, "latest")
        code, _, said = run("sh", "-c", 'cd "$1" && cp -a -- [!d]* "$2"', "sh", source, tmp_path)
        assert (code, said) == (0, "")
        assert [line for line in compare(source, tmp_path) if deep not in line and "dangling" not in line] == []

    def test_rsync(self, twice, tmp_path):
        source = source_in(twice, "latest")
        deep = "d" * 150
        code, _, said = run("rsync", "-aHAX", f"--exclude=/{deep}/{deep}", f"{source}/", f"{tmp_path}/")
        assert (code, said) == (0, "")
        assert itemized(twice.site.source, tmp_path) == ""

    def test_grep(self, twice):
        code, out, _ = run("grep", "-rh", "needle", source_in(twice, "latest") / "words")
        assert code == 0
        assert sorted(out.splitlines()) == sorted(f"needle {n}" for n in range(0, 40, 8))

    def test_readers_at_once(self, twice):
        """Both versions of large and small files, by eight programs."""
        (host,) = os.listdir(twice.at / "hosts")
        names = ["/big", "/sparse", *(f"/words/{n}" for n in range(40))]
        now = {name: (twice.site.source / name[1:]).read_bytes() for name in names}
        wanted = {}
        for name in names:
            wanted[source_in(twice, "latest") / name[1:]] = now[name]
            wanted[source_in(twice, f"hosts/{host}/{twice.old}") / name[1:]] = twice.before[name.encode()][7]
        paths = random.Random(4).sample(list(wanted), len(wanted))
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            for path, (code, out, _) in zip(paths, threads.map(lambda p: run("sha256sum", p), paths), strict=True):
                assert (code, out.split()[0]) == (0, hashlib.sha256(wanted[path]).hexdigest())


def test_a_huge_sparse_file_is_copied_by_its_data(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    with (site.source / "huge").open("wb") as file:
        for at in (0, 1 << 39, (1 << 40) - 5):
            file.seek(at)
            file.write(b"words")
    site.backup()
    with mounted(site, tmp_path / "mnt", "--snapshot", "latest") as mount:
        huge = Path(f"{mount.at}{site.source}/huge")
        assert huge.stat().st_size == 1 << 40
        assert huge.stat().st_blocks * 512 < 1 << 20
        code, _, said = run("cp", "-a", huge, tmp_path / "copy")
        assert (code, said) == (0, "")
        copy = tmp_path / "copy"
        assert copy.stat().st_size == 1 << 40
        assert copy.stat().st_blocks * 512 < 1 << 20
        with copy.open("rb") as file:
            for at in (0, 1 << 39, (1 << 40) - 5):
                assert os.pread(file.fileno(), 7, at).startswith(b"words")
        fd = os.open(huge, os.O_RDONLY)
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        assert 5 <= hole < 1 << 20
        assert (1 << 39) - (1 << 20) <= os.lseek(fd, hole, os.SEEK_DATA) <= 1 << 39
        assert os.lseek(fd, (1 << 40) - 1, os.SEEK_HOLE) == 1 << 40
        with pytest.raises(OSError):
            os.lseek(fd, 1 << 40, os.SEEK_DATA)
        os.close(fd)


def back_up_small(tmp):
    """Three blobs and four files."""
    site = Site(tmp, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    (site.source / "small").write_text("small")
    for n in range(3):
        (site.source / f"file {n}").write_bytes(random.Random(n).randbytes(900_000))
    site.backup()
    return site


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return back_up_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def small(stored, tmp_path):
    """A store of one's own, to be damaged; it is not backed up to again."""
    site = copy.copy(stored)
    site.tmp, site.store, site.env = tmp_path, tmp_path / "store", dict(stored.env)
    site.endpoint = f"file://{site.store}"
    shutil.copytree(stored.store, site.store)
    return site


@pytest.fixture
def fresh(tmp_path):
    """A host that goes on."""
    return back_up_small(tmp_path)


class TestDamage:
    def test_a_missing_blob_costs_what_needs_it(self, small):
        lost = small.blobs()[0]
        kept = lost.read_bytes()
        lost.unlink()
        with mounted(small, small.tmp / "mnt", "--snapshot", "latest") as mount:
            at = Path(f"{mount.at}{small.source}")
            broken = [path for path in sorted(small.source.iterdir()) if not reads_right(path, at)]
            said = mount.end()
        assert 1 <= len(broken) < 4
        for path in broken:
            (line,) = [line for line in said.splitlines() if str(path) in line]
            assert line.startswith(f"vaultik: {path} (snapshot ")
            assert f"blob {lost.name[:12]}…: missing" in line
        assert len(said.splitlines()) == len(broken)
        lost.write_bytes(kept)

    def test_a_flipped_bit_is_no_wrong_byte(self, small):
        blob = max(small.blobs(), key=lambda p: p.stat().st_size)
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        with mounted(small, small.tmp / "mnt", "--snapshot", "latest") as mount:
            at = Path(f"{mount.at}{small.source}")
            broken = [path for path in sorted(small.source.iterdir()) if not reads_right(path, at)]
            said = mount.end()
        assert 1 <= len(broken) < 4
        for path in broken:
            assert any(line.startswith(f"vaultik: {path} (") and "is damaged" in line for line in said.splitlines())

    def test_a_snapshot_db_that_is_gone_costs_that_snapshot(self, fresh):
        (fresh.source / "later").write_text("x")
        fresh.backup()
        first, _ = fresh.objects(".sqlite.zst.age")
        with mounted(fresh, fresh.tmp / "mnt") as mount:
            first.unlink()
            (host,) = os.listdir(mount.at / "hosts")
            with pytest.raises(OSError) as caught:
                os.listdir(mount.at / "hosts" / host / first.name.split(".")[0])
            assert caught.value.errno == errno.EIO
            assert os.listdir(mount.at / "latest")
            said = mount.end()
        assert f"snapshot {first.name.split('.')[0]}: its DB is missing" in said


def reads_right(path, at):
    """Whether a file can be read; what is read must be right."""
    try:
        found = (at / path.name).read_bytes()
    except OSError as exc:
        assert exc.errno == errno.EIO
        return False
    assert found == path.read_bytes()
    return True


class TestEnd:
    def test_a_signal_unmounts_although_a_file_is_open(self, small):
        (small.tmp / "scratch").mkdir()
        small.env["TMPDIR"] = str(small.tmp / "scratch")
        mount = Mounted(small, small.tmp / "mnt", "--snapshot", "latest")
        fd = os.open(f"{mount.at}{small.source}/file 0", os.O_RDONLY)
        assert os.read(fd, 10)
        loop = 'while cat "$1"; do :; done'
        command = ["sh", "-c", loop, "sh", f"{mount.at}{small.source}/file 1"]
        reader = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert mount.end(signal.SIGTERM) == ""
        reader.wait(60)
        with pytest.raises(OSError):
            os.pread(fd, 10, 800_000)
        with contextlib.suppress(OSError):
            os.close(fd)
        assert os.listdir(small.tmp / "scratch") == []
        assert os.listdir(mount.at) == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["INT", "HUP"])
    def test_ctrl_c_and_the_terminals_end_unmount(self, small, number):
        mount = Mounted(small, small.tmp / "mnt")
        assert os.listdir(mount.at)
        assert mount.end(number) == ""

    def test_unmounted_lazily_it_lives_until_what_is_open_is_closed(self, small):
        mount = Mounted(small, small.tmp / "mnt", "--snapshot", "latest")
        with open(f"{mount.at}{small.source}/file 1", "rb") as file:
            assert run("umount", mount.at)[0] != 0  # busy, as anywhere
            assert run("umount", "-l", mount.at)[0] == 0
            assert not is_mounted(mount.at)
            assert file.read() == (small.source / "file 1").read_bytes()
        assert mount.ended() == ""

    def test_umount_ends_it(self, small):
        mount = Mounted(small, small.tmp / "mnt")
        assert run("umount", mount.at)[0] == 0
        assert mount.ended() == ""

    def test_in_the_background_it_returns_once_it_is_mounted_and_logs_to_a_file(self, small):
        at, log = small.tmp / "mnt", small.tmp / "log"
        at.mkdir()
        done = small.run("mount", *small.where, at, "--snapshot", "latest", "--background", "--log-file", log, "--json")
        try:
            assert json.loads(done.stdout) == {"mounted": str(at), "snapshots": 1, "hosts": []}
            assert Path(f"{at}{small.source}/small").read_text() == "small"
            for blob in small.blobs():
                blob.unlink()
            broken = [
                path for path in sorted(small.source.iterdir()) if not reads_right(path, Path(f"{at}{small.source}"))
            ]
            text = log.read_text()
            assert broken
            assert all(f"WARNING {path} (snapshot " in text for path in broken)
        finally:
            assert run("umount", at)[0] == 0
        assert oct(log.stat().st_mode & 0o777) == "0o600"


class TestRefused:
    def test_where_it_can_not_be_mounted(self, small):
        (small.tmp / "full").mkdir()
        (small.tmp / "full/x").write_text("x")
        (small.tmp / "file").touch()
        for name, reason in (("none", "no such directory"), ("file", "not a directory"), ("full", "not empty")):
            done = small.run("mount", *small.where, small.tmp / name, code=1)
            assert done.stderr.splitlines()[0] == f"vaultik: mount point {small.tmp / name}: {reason}"
            assert len(done.stderr.splitlines()) == 2

    def test_without_libfuse(self, small):
        small.env["FUSE_LIBRARY_NAME"] = "no-such-library"
        done = small.run("mount", *small.where, small.tmp, code=1)
        assert done.stderr.startswith("vaultik: mount: libfuse 3 is not installed\n  hint: ")

    def test_what_can_not_be_shown(self, small, tmp_path):
        at = small.tmp / "mnt"
        at.mkdir()
        done = small.run("mount", *small.where, at, "--snapshot", "2001", code=2)
        assert "snapshot '2001': there is none of that id" in done.stderr
        done = small.run("mount", *small.where, at, "--host", "nobody", code=2)
        assert "host 'nobody': no snapshot of it" in done.stderr
        done = small.run("mount", *small.where, at, "--cache-size", "much", code=2)
        assert "--cache-size: not a size: 'much'" in done.stderr
        done = small.run("mount", *small.where, at, "--log-file", "x", code=2)
        assert "--log-file goes with --background" in done.stderr
        (tmp_path / "other").mkdir()
        other = Site(tmp_path / "other")
        done = small.run("mount", *small.where, at, "--identity", other.key, code=2)
        assert "mnt" not in done.stderr.splitlines()[-2]
        done = small.run("mount", "--endpoint", small.endpoint, "vault", "elsewhere/", at, "--json", code=2)
        assert "no snapshot in" in json.loads(done.stdout)["error"]
        assert not is_mounted(at)


def test_several_hosts_stand_beside_each_other(small):
    other = other_host(small, "web-2")
    twin = other_host(small, "web-3")
    # Another config of the same host is a source of its own.
    shutil.copytree(twin.tmp, small.tmp / "twin", ignore=lambda *_: ["state"])
    twin.configure(index_path=str(small.tmp / "twin/index.sqlite"))
    twin.backup()
    with mounted(small, small.tmp / "mnt") as mount:
        hosts = sorted(os.listdir(mount.at / "hosts"))
        assert "latest" not in os.listdir(mount.at)
        assert hosts[-3] == "web-2"
        assert [name[:6] for name in hosts[-2:]] == ["web-3-"] * 2
        for host in hosts:
            assert os.listdir(mount.at / "hosts" / host / "latest")
        assert Path(f"{mount.at}/hosts/web-2/latest{other.source}/file").read_text() == "web-2"
    with mounted(small, small.tmp / "mnt", "--host", "web-2", "--json") as mount:
        assert json.loads(mount.announced)["hosts"] == ["web-2"]
        assert os.listdir(mount.at / "hosts") == ["web-2"]
        assert Path(f"{mount.at}/latest{other.source}/file").read_text() == "web-2"
    with mounted(small, small.tmp / "mnt", "--host", "web-2", "--snapshot", "latest") as mount:
        assert Path(f"{mount.at}{other.source}/file").read_text() == "web-2"


def let_in(site):
    """Let others reach what lies in a temporary directory."""
    for folder in (site.tmp, *site.tmp.parents[:3]):
        os.chmod(folder, os.stat(folder).st_mode | 0o055)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
class TestUsers:
    def test_others_are_kept_out_or_held_to_modes_and_acls(self, fresh):
        for name, mode in (("open", 0o644), ("closed", 0o600), ("with acl", 0o600)):
            (fresh.source / name).write_text(name)
            (fresh.source / name).chmod(mode)
        subprocess.run(["setfacl", "-m", "u:65534:r,g::-,m:r", fresh.source / "with acl"], check=True)
        # Its mode says that the group may read it, its ACL that only one user may.
        os.chown(fresh.source / "with acl", 0, 7)
        let_in(fresh)
        fresh.backup()
        with mounted(fresh, fresh.tmp / "mnt", "--snapshot", "latest") as mount:
            assert run(*AS_NOBODY, "ls", mount.at)[0] != 0
        with mounted(fresh, fresh.tmp / "mnt", "--snapshot", "latest", "--allow-other") as mount:
            at = Path(f"{mount.at}{fresh.source}")
            assert run(*AS_NOBODY, "cat", at / "open")[:2] == (0, "open")
            assert run(*AS_NOBODY, "cat", at / "with acl")[:2] == (0, "with acl")
            assert run(*AS_NOBODY, "cat", at / "closed")[0] != 0
            assert run("setpriv", "--reuid=5", "--regid=7", "--clear-groups", "cat", at / "with acl")[0] != 0

    def test_a_plain_user_mounts_by_fusermount(self, small):
        """Everything but what only root may: the library, a mount, its end by a signal."""
        let_in(small)
        at = small.tmp / "theirs"
        at.mkdir()
        small.env["VAULTIK_PRIVATE_KEY"] = shutil.copy(small.key, small.tmp / "their key")
        subprocess.run(["chown", "-R", "65534", at, small.store, small.tmp / "their key"], check=True)
        command = [*AS_NOBODY, *small.command("mount", *small.where, at, "--snapshot", "latest")]
        process = subprocess.Popen(
            command, env=small.environment(HOME="/"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )
        try:
            assert process.stdout.readline(), process.communicate()
            # Root has no way in, as the one who mounted has it.
            done = run(*AS_NOBODY, "sha256sum", f"{at}{small.source}/file 2")
            assert done[1].split()[0] == hashlib.sha256((small.source / "file 2").read_bytes()).hexdigest()
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
            assert not is_mounted(at)
        finally:
            process.kill()
            subprocess.run(["umount", "-l", at], check=False, capture_output=True)
