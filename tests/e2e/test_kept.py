"""Restores that leave a class of attributes out, or give what they bring back to somebody else."""

import grp
import json
import os
import pwd
import stat
import subprocess

import pytest

from tests.support.forge import forge
from tests.support.run import restore_into
from tests.support.site import NO_RIGHTS, Site
from tests.support.tree import compare, flags_of
from vaultik.restore.asked import Asked
from vaultik.restore.kept import Kept
from vaultik.restore.session import RestoreSession
from vaultik.secrets import load_identities
from vaultik.store.open import open_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

USER, GROUP = 54321, 54322
"""Of nobody on this system."""


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


def owner(path):
    st = path.lstat()
    return st.st_uid, st.st_gid


def write(path, uid=0, gid=0, mode=0o640, text="x"):
    path.write_text(text)
    os.chown(path, uid, gid)
    path.chmod(mode)


def other_names(site, **names):
    """Make the snapshot that of a system on which numbers have other names."""
    for name, (user, group) in names.items():
        query = f"UPDATE entries SET user_name = '{user}', group_name = '{group}' WHERE name = CAST('{name}' AS BLOB)"
        forge(site, query)


class TestOwners:
    def test_a_name_counts_more_than_a_number(self, site, tmp_path):
        """Where the name is known; the number stands in for one that isn't, and 0 is neither found nor left by name."""
        daemon, root = pwd.getpwnam("daemon"), pwd.getpwnam("root")
        users = grp.getgrnam("users")
        for name in ("known", "unknown", "called root", "no name"):
            write(site.source / name, USER, GROUP)
        (site.source / "link").symlink_to("nowhere")
        os.lchown(site.source / "link", USER, GROUP)
        write(site.source / "of root")
        site.backup()
        names = {
            "known": ("daemon", "users"),
            "link": ("daemon", "users"),
            "unknown": ("nobody here", "nor this"),
            "called root": ("root", "root"),
            "no name": ("daemon' || char(0) || '", "' || char(10)|| '"),
            "of root": ("daemon", "users"),
        }
        other_names(site, **names)
        numbers = dict.fromkeys(names, (USER, GROUP)) | {"of root": (root.pw_uid, 0)}
        by_name = numbers | dict.fromkeys(("known", "link"), (daemon.pw_uid, users.gr_gid))
        site.restore(tmp_path / "names")
        assert {name: owner(site.restored(tmp_path / "names") / name) for name in names} == by_name
        site.restore(tmp_path / "names", "--force", "--numeric-ids")
        assert {name: owner(site.restored(tmp_path / "names") / name) for name in names} == numbers
        site.run("fetch", *site.where, "latest", site.source / "known", tmp_path / "one")
        assert owner(tmp_path / "one") == (daemon.pw_uid, users.gr_gid)

    def test_rules_go_first_and_the_first_that_fits_holds(self, site, tmp_path):
        write(site.source / "alice", USER, GROUP)
        write(site.source / "number", USER + 2, GROUP + 2)
        write(site.source / "rest", USER + 3, 0)
        write(site.source / "setuid", USER, GROUP, 0o6755)
        site.backup()
        other_names(site, alice=("alice", "staff"), setuid=("alice", "staff"))
        rules = ["--map-owner", "alice:daemon", "--map-owner", f"{USER + 2}:77", "--map-owner", "*:78"]
        rules += ["--map-group", "staff:users", "--map-group", "0:79"]
        site.restore(tmp_path / "out", *rules)
        at = site.restored(tmp_path / "out")
        assert owner(at / "alice") == (pwd.getpwnam("daemon").pw_uid, grp.getgrnam("users").gr_gid)
        assert owner(at / "number") == (77, GROUP + 2)
        assert owner(at / "rest") == (78, 79)
        assert stat.S_IMODE((at / "setuid").stat().st_mode) == 0o6755
        before = (at / "rest").stat().st_ctime_ns
        site.restore(tmp_path / "out", "--force", *rules)
        assert (at / "rest").stat().st_ctime_ns == before, "what is as the rules have it is left alone"
        site.restore(tmp_path / "out", "--force", "--map-owner", "*:root", "--map-group", "*:root")
        assert owner(at / "setuid") == (0, 0)
        assert stat.S_IMODE((at / "setuid").stat().st_mode) == 0o755, "nobody's program becomes root's by a rule"

    def test_those_that_an_acl_names_follow(self, site, tmp_path):
        write(site.source / "file", USER, GROUP)
        for who in (f"u:{USER}:rwx", "u:1:r", f"g:{GROUP}:rw"):
            subprocess.run(["setfacl", "-m", who, site.source / "file"], check=True)
        subprocess.run(["setfacl", "-d", "-m", f"u:{USER}:rx", site.source], check=True)
        site.backup()
        other_names(site, file=("games", "users"))
        site.restore(tmp_path / "out")
        listed = acl(site.restored(tmp_path / "out") / "file")
        assert f"user:{pwd.getpwnam('games').pw_uid}:rwx" in listed
        assert "user:1:r--" in listed
        assert f"group:{grp.getgrnam('users').gr_gid}:rw-" in listed
        assert f"default:user:{pwd.getpwnam('games').pw_uid}:r-x" in acl(site.restored(tmp_path / "out"))
        site.restore(tmp_path / "out", "--force", "--numeric-ids")
        assert compare(site.source, site.restored(tmp_path / "out")) == []
        site.restore(tmp_path / "out", "--force", "--map-owner", "*:99")
        assert "user:99:r--" in acl(site.restored(tmp_path / "out") / "file"), "no more than either of the two may"

    def test_left_out_all_is_this_users(self, site, tmp_path):
        write(site.source / "file", USER, GROUP, 0o6755)
        site.source.chmod(0o2755)
        site.backup()
        done = site.restore(tmp_path / "out", "--no-owner")
        at = site.restored(tmp_path / "out")
        assert done.stderr == ""
        assert owner(at / "file") == owner(at) == (0, 0)
        assert stat.S_IMODE((at / "file").stat().st_mode) == 0o755, "a program must not run as whoever restored it"
        assert stat.S_IMODE(at.stat().st_mode) == 0o2755
        os.chown(at / "file", 5, 6)
        (at / "file").chmod(0o755)
        before = (at / "file").stat().st_ctime_ns
        site.restore(tmp_path / "out", "--force", "--without", "owner")
        assert (at / "file").stat().st_ctime_ns == before, "what is left out isn't compared"

    def test_a_group_that_this_user_is_in_is_given_alone(self, site, tmp_path):
        write(site.source / "theirs", USER, GROUP)
        write(site.source / "ours", 0, GROUP)
        site.backup()
        command = [*NO_RIGHTS, f"--groups={GROUP}", *site.command("restore", *site.where, "latest", tmp_path / "out")]
        done = subprocess.run(command, env=site.environment(), capture_output=True, text=True, check=True)
        at = site.restored(tmp_path / "out")
        assert owner(at / "theirs") == owner(at / "ours") == (0, GROUP)
        assert done.stderr == "vaultik: owner: could not be set 1 time, no right or not supported here\n"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--map-owner", "alice"], "--map-owner alice: not OLD:NEW"),
            (["--map-owner", "alice:nobody-of-that-name"], "this system has no nobody-of-that-name"),
            (["--map-group", "a:4294967295"], "no number that an owner can have"),
            (["--map-group", "a:b:c"], "not OLD:NEW"),
            (["--without", "colour"], "one of owner, mode, times, xattrs, acls, flags"),
            (["--no-owner", "--numeric-ids"], "leaves nothing to map or number"),
        ],
        ids=["no colon", "unknown", "too large", "two colons", "no class", "both"],
    )
    def test_what_makes_no_sense_is_refused(self, site, tmp_path, arguments, says):
        done = site.restore(tmp_path / "out", *arguments, code=2)
        assert says in done.stderr
        assert not (tmp_path / "out").exists()


def acl(path):
    done = subprocess.run(["getfacl", "-npc", path], check=True, capture_output=True, text=True)
    return done.stdout.split()


@pytest.fixture
def rich(site):
    """One of everything that can be left out."""
    file = site.source / "file"
    write(file, USER, GROUP, 0o604)
    os.setxattr(file, "user.note", b"1")
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    subprocess.run(["setfacl", "-m", "u:1:rw,g::r,g:5:rwx", file], check=True)
    os.mkfifo(site.source / "fifo", 0o600)
    (site.source / "dir").mkdir(mode=0o700)
    for name in ("file", "fifo", "dir"):
        os.utime(site.source / name, ns=(1, 1_000_000_001))
    subprocess.run(["chattr", "+d", file], check=True)
    site.backup()
    return site


def facts(path):
    """What of a file each class stands for."""
    return {
        "owner": owner(path),
        "mode": stat.S_IMODE(path.stat().st_mode),
        "times": path.stat().st_mtime_ns,
        "xattrs": sorted(name for name in os.listxattr(path) if "acl" not in name),
        "acls": [line for line in acl(path) if "::" not in line],
        "flags": "d" in flags_of(path),
    }


def restore_without(site, target, name, **asked):
    keeps = Kept(without=frozenset([name]))
    return restore_into(
        lambda: open_store(site.endpoint, site.bucket, site.prefix),
        load_identities(site.key),
        Asked(target, "latest", keeps=keeps, **asked),
    )


class TestWithout:
    def test_each_class_alone(self, rich, tmp_path):
        wanted = facts(rich.source / "file")
        plain = {"owner": (0, 0), "mode": 0o644, "xattrs": [], "acls": [], "flags": False}
        for name in wanted:
            target = tmp_path / name
            restore_without(rich, target, name)
            found = facts(rich.restored(target) / "file")
            touched = {name: plain.get(name, found[name])}
            if name == "mode":
                touched["acls"] = []
            if name == "acls":
                touched["mode"] = 0o644  # the group bits are its own, not those of the mask
            assert found == {**wanted, **touched}, name
            assert found[name] != wanted[name]
            before = {path: path.stat().st_ctime_ns for path in rich.restored(target).iterdir()}
            report = restore_without(rich, target, name, force=True)
            after = {path: path.stat().st_ctime_ns for path in rich.restored(target).iterdir()}
            assert report.unchanged == 1
            assert {path for path in after if after[path] != before[path]} <= {rich.restored(target) / "fifo"}

    def test_modes_are_those_of_anything_new(self, rich, tmp_path):
        rich.restore(tmp_path / "out", "--without", "mode,owner")
        at = rich.restored(tmp_path / "out")
        modes = {name: stat.S_IMODE((at / name).stat().st_mode) for name in ("file", "fifo", "dir")}
        assert modes == {"file": 0o644, "fifo": 0o644, "dir": 0o755}
        (at / "dir").chmod(0o711)
        (at / "file").chmod(0o777)
        rich.restore(tmp_path / "out", "--without", "mode,owner", "--force")
        assert stat.S_IMODE((at / "dir").stat().st_mode) == 0o711
        assert stat.S_IMODE((at / "file").stat().st_mode) == 0o777

    def test_where_times_are_left_out_bytes_decide(self, rich, tmp_path):
        target = tmp_path / "out"
        file = rich.restored(target) / "file"
        rich.restore(target, "--without", "times")
        file.write_text("y")
        report = json.loads(rich.restore(target, "--without", "times", "--force", "--json").stdout)
        assert report["unchanged"] == 0
        assert file.read_text() == "x"
        assert file.stat().st_mtime_ns > 1_000_000_001
        rich.restore(target, "--force")
        assert compare(rich.source, rich.restored(target)) == []

    def test_flags_that_the_snapshots_has_not_go_in_an_update(self, rich, tmp_path):
        """Those that came by inheritance too: a file has its own only."""
        names = ("file", "plain", "plain, too", "dir")
        for name in names[1:3]:
            (rich.source / name).write_text(name)
        rich.backup()
        target = tmp_path / "out"
        target.mkdir()
        subprocess.run(["chattr", "+A", target], check=True)
        rich.restore(target)
        at = rich.restored(target)
        assert [flags_of(at / name) for name in names] == [flags_of(rich.source / name) for name in names]
        try:
            subprocess.run(["chattr", "-d", "+iA", at / "file"], check=True)
            subprocess.run(["chattr", "+a", at / "dir"], check=True)
            rich.restore(target, "--force", "--without", "flags")
            assert "i" in flags_of(at / "file")
            rich.restore(target, "--force")
            assert [flags_of(at / name) for name in ("file", "plain", "dir")] == [
                flags_of(rich.source / name) for name in ("file", "plain", "dir")
            ]
        finally:
            subprocess.run(["chattr", "-R", "-ia", target], check=False, capture_output=True)


class TestLoosened:
    """Immutable and append-only are no obstacle to an update, and stand again on all that stays: nothing says otherwise."""

    @pytest.fixture
    def out(self, rich, tmp_path):
        (rich.source / "dir/below").write_text("x")
        os.link(rich.source / "dir/below", rich.source / "dir/link")
        rich.backup()
        rich.restore(tmp_path / "out")
        yield tmp_path / "out"
        subprocess.run(["chattr", "-R", "-ia", tmp_path], check=False, capture_output=True)

    @pytest.mark.parametrize("way", ["left out", "unknown"])
    def test_files_and_directories(self, rich, out, way):
        """By an update that leaves flags out, and by a snapshot of a file system that has none."""
        if way == "unknown":
            forge(rich, "UPDATE entries SET inode_flags = NULL")
        at = rich.restored(out)
        (at / "dir/link").unlink()
        (at / "file").chmod(0o600)
        chattr("+i", at / "file", at / "dir/below", at / "dir")
        chattr("+a", at)
        rich.restore(out, "--force", *(["--without", "flags"] if way == "left out" else []))
        assert ["i" in flags_of(at / name) for name in ("file", "dir/below", "dir")] == [True] * 3
        assert "a" in flags_of(at)
        assert (at / "dir/below").samefile(at / "dir/link")
        assert stat.S_IMODE((at / "file").stat().st_mode) == stat.S_IMODE((rich.source / "file").stat().st_mode)

    def test_another_name_of_what_is_replaced(self, rich, out, tmp_path):
        at = rich.restored(out)
        (at / "file").write_text("changed")
        os.link(at / "file", tmp_path / "outside")
        chattr("+i", at / "file")
        rich.restore(out, "--force")
        assert (at / "file").read_text() == "x"
        assert (tmp_path / "outside").read_text() == "changed"
        assert "i" in flags_of(tmp_path / "outside")

    def test_a_directory_of_which_something_is_kept(self, rich, out):
        at = rich.restored(out)
        (at / "local").mkdir()
        for name in ("kept", "gone"):
            (at / "local" / name).write_text("mine")
        chattr("+i", at / "local")
        rich.restore(out, "--force", "--delete", "--exclude", "kept")
        assert os.listdir(at / "local") == ["kept"]
        assert "i" in flags_of(at / "local")

    def test_a_try_that_is_given_up(self, rich, out):
        """Begun without flags, given up for another choice, or by another version: it still knew what it had taken off."""
        at = rich.restored(out)
        for then in (["--include", str(rich.source / "file")], []):
            (at / "dir/below").write_text("changed")
            chattr("+i", at / "dir")
            session = begin(rich, out)
            session.compare()
            assert "i" not in flags_of(at / "dir")
            session.leave()
            if not then:
                begun = out / ".vaultik-restore/begun.json"
                begun.write_text(json.dumps(json.loads(begun.read_text()) | {"shape": "another"}))
            rich.restore(out, "--force", "--without", "flags", *then)
            assert "i" in flags_of(at / "dir")
            chattr("-i", at / "dir")
        assert (at / "dir/below").read_text() == "x"


def chattr(flags, *paths):
    subprocess.run(["chattr", flags, *paths], check=True)


def begin(site, target):
    """Begin an update that leaves flags out, as far as the snapshot's plan."""
    asked = Asked(target, "latest", force=True, keeps=Kept(without=frozenset(["flags"])))
    session = RestoreSession(
        lambda: open_store(site.endpoint, site.bucket, site.prefix), load_identities(site.key), asked
    )
    session.begin()
    session.fetch_snapshot()
    return session


@pytest.mark.parametrize("who", ["uid", "gid"])
def test_whom_nobody_can_be_owns_no_program(site, tmp_path, who):
    """A number that chown(2) takes for "as it is": what is whoever's restores it runs as nobody else."""
    write(site.source / "program", 0, 0, 0o6755)
    site.backup()
    forge(site, f"UPDATE entries SET {who} = 4294967295 WHERE type = 'f'")
    done = site.restore(tmp_path / "out")
    assert "owner: could not be set 1 time" in done.stderr
    assert stat.S_IMODE((site.restored(tmp_path / "out") / "program").stat().st_mode) == 0o755


def test_a_device_is_never_opened_to_others(site, tmp_path):
    os.mknod(site.source / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    (site.source / "disk").chmod(0o660)
    site.backup()
    site.restore(tmp_path / "out", "--without", "mode")
    assert stat.S_IMODE((site.restored(tmp_path / "out") / "disk").lstat().st_mode) == 0o600


def test_a_first_try_without_times_is_no_obstacle(site, tmp_path):
    for name in ("one", "two", "blocked"):
        write(site.source / name, text=name)
        os.utime(site.source / name, (1e9, 1e9))
    site.backup()
    at = site.restored(tmp_path / "out")
    (at / "blocked/mine").mkdir(parents=True)
    site.restore(tmp_path / "out", "--force", "--without", "times", code=1)
    (at / "blocked/mine").rmdir()
    (at / "blocked").rmdir()
    site.restore(tmp_path / "out")
    assert compare(site.source, at) == []
