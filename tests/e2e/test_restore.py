"""Restores that are interrupted, refused a part of what they want, or led astray."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.forge import forge
from tests.support.restores import killed_when, leftovers, stopped_when
from tests.support.site import Site
from tests.support.tree import compare, flags_of, make_tree


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def stored(site):
    make_tree(site.source)
    site.backup()
    return site


def test_it_goes_on_after_a_kill_anywhere(site, tmp_path):
    site.configure(blob_size_limit="16MiB")
    make_tree(site.source)
    for n in range(6):
        (site.source / f"random {n}").write_bytes(os.urandom(7_000_000))
    site.backup()
    target = tmp_path / "out"
    at = site.restored(target)
    for ready in (
        (target / ".vaultik-restore/plan.sqlite").exists,
        at.exists,
        (at / "random 0").exists,
        (at / "random 4").exists,
        (at / "fifo").exists,
    ):
        killed_when(site, target, ready)
        assert target.exists()
    site.restore(target)
    assert leftovers(target) == []
    assert compare(site.source, at) == []


def test_latest_stays_what_it_was_when_the_restore_began(stored, tmp_path):
    """cron makes a new snapshot while a restore is interrupted: the same command finishes what it began."""
    target = tmp_path / "out"
    killed_when(stored, target, (target / ".vaultik-restore/plan.sqlite-wal").exists)
    (first,) = json.loads(stored.run("snapshots", *stored.where, "--json").stdout)
    (stored.source / "later").write_text("later")
    stored.backup()
    done = stored.restore(target, "--include", "/other", code=1)
    assert first["snapshot"] in done.stderr
    assert "unfinished" in done.stderr
    assert first["snapshot"] in stored.restore(target).stdout
    assert not (stored.restored(target) / "later").exists()


def test_another_store_is_another_restore(stored, tmp_path):
    target = tmp_path / "out"
    killed_when(stored, target, (target / ".vaultik-restore/plan.sqlite-wal").exists)
    shutil.copytree(stored.store / "vault", stored.store / "copy")
    where = [*stored.where[:2], "copy", stored.where[3]]
    done = stored.run("restore", *where, "latest", target, code=1)
    assert "unfinished" in done.stderr


def test_a_plan_that_is_damaged_is_made_anew(stored, tmp_path):
    target = tmp_path / "out"
    killed_when(stored, target, lambda: stored.restored(target).exists())
    for path in (target / ".vaultik-restore").glob("plan.sqlite*"):
        path.write_bytes(os.urandom(5000))
    stored.restore(target)
    assert compare(stored.source, stored.restored(target)) == []


def test_another_boot_believes_bytes_only(stored, tmp_path):
    """What was not synced before a power cut may be gone or zeros, whatever its size and time and the plan say of it."""
    target = tmp_path / "out"
    at = stored.restored(target)
    killed_when(stored, target, (at / "fifo").exists)
    begun = target / ".vaultik-restore/begun.json"
    assert begun.exists()
    begun.write_text(begun.read_text().replace(json.loads(begun.read_text())["boot"], "another"))
    spoiled = {at / "small": 0, at / "setuid": 10, at / "same as small": 12}
    for path, size in spoiled.items():
        before = path.stat()
        with path.open("r+b") as file:
            file.truncate(0)
            file.truncate(size)
        os.utime(path, ns=(1, before.st_mtime_ns))
    whole = {path: path.stat().st_ino for path in (at / "many/0").iterdir()}
    (stored.store / "vault").rename(stored.store / "away")
    stored.restore(target, code=1)
    (stored.store / "away").rename(stored.store / "vault")
    stored.restore(target)
    assert compare(stored.source, at) == []
    assert {path: path.stat().st_ino for path in whole} == whole


def test_state_that_somebody_else_left_is_not_trusted(stored, tmp_path):
    planted = tmp_path / "out/.vaultik-restore"
    planted.mkdir(parents=True)
    planted.chmod(0o755)
    done = stored.restore(tmp_path / "out", code=1)
    assert "not this user's" in done.stderr
    planted.rmdir()
    planted.symlink_to(tmp_path)
    stored.restore(tmp_path / "out", code=1)


def test_two_at_once_into_one_target(stored, tmp_path):
    """The second says so; it doesn't write over the first one's files."""
    target = tmp_path / "out"
    with stopped_when(stored, target, (target / ".vaultik-restore/begun.json").exists) as first:
        done = stored.restore(target, code=1)
        assert "a restore into it is going on" in done.stderr
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait() == 0
    assert compare(stored.source, stored.restored(target)) == []


def test_an_entry_named_like_the_state_stays_out_of_it(site, tmp_path):
    (site.source / "a").mkdir(parents=True)
    (site.source / "a/plan.sqlite").write_text("planted")
    site.backup()
    top = str(tmp_path).split("/")[1]
    forge(
        site,
        f"UPDATE entries SET name = CAST('.vaultik-restore' AS BLOB) WHERE name = CAST('{top}' AS BLOB) AND parent = 1",
    )
    done = site.restore(tmp_path / "out")
    assert "/.vaultik-restore" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_names_like_its_temporary_ones_come_back(site, tmp_path):
    """A half-restored tree that was backed up: its leftovers are files like others."""
    site.configure(blob_size_limit="16MiB")
    site.source.mkdir(parents=True)
    for n in range(12):
        (site.source / f".vaultik-{n}").write_text(f"left over {n}")
        (site.source / f"large {n}").write_bytes(os.urandom(5_000_000))
    (site.source / ".vaultik-20").mkdir()
    site.backup()
    site.restore(tmp_path / "out")
    assert compare(site.source, site.restored(tmp_path / "out")) == []


def test_without_rights_it_does_what_it_can_and_counts_the_rest(stored, tmp_path):
    if os.geteuid() == 0:
        os.chown(stored.source / "read only", 1, 1)
    done = stored.restore(tmp_path / "out", no_rights=True)
    restored = stored.restored(tmp_path / "out")
    assert (restored / "big").read_bytes() == (stored.source / "big").read_bytes()
    assert (restored / "link").readlink() == (stored.source / "link").readlink()
    if os.geteuid() == 0:
        assert "owner: could not be set" in done.stderr
        assert "special file" in done.stderr
        assert (restored / "setuid").stat().st_mode & 0o6000 == 0, "a program must not run as whoever restored it"


def test_closed_directories_are_no_obstacle_without_rights(site, tmp_path):
    """0555, 0000 and a file with a flag inside: finished deepest first, also by a second try."""
    for mode in (0o555, 0o000):
        inner = site.source / f"{mode:o}/inner"
        inner.mkdir(parents=True)
        (inner / "file").write_text("x")
        subprocess.run(["chattr", "+d", inner / "file"], check=False, capture_output=True)
        inner.chmod(mode)
        inner.parent.chmod(mode)
    site.backup()
    site.restore(tmp_path / "out", no_rights=True)
    at = site.restored(tmp_path / "out")
    for mode in ("555", "0"):
        (at / mode).chmod(0o755)
        (at / mode / "inner").chmod(0o755)
        assert (at / mode / "inner/file").read_text() == "x"
        (site.source / mode).chmod(0o755)
        (site.source / mode / "inner").chmod(0o755)


def test_trouble_at_one_name_costs_that_name(stored, tmp_path):
    """A directory stands where a file goes: it and its hard link are named, all the rest comes, and a second try mends it."""
    target = tmp_path / "out"
    at = stored.restored(target)
    (at / "small/in the way").mkdir(parents=True)
    done = stored.restore(target, "--force", code=1)
    assert f"{stored.source}/small: a directory that isn't empty stands there; --delete" in done.stderr
    assert "2 entries could not be written" in done.stderr
    assert (at / "big").read_bytes() == (stored.source / "big").read_bytes()
    (at / "small/in the way").rmdir()
    (at / "small").rmdir()
    stored.restore(target, "--force")
    assert compare(stored.source, at) == []
    assert leftovers(target) == []


def test_a_second_try_touches_only_what_is_not_done(site, tmp_path):
    """Large files share blobs with the ones that fail: they are whole, and stay the very files that they were."""
    site.configure(chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir(parents=True)
    for name, size in (("a", 300_000), ("big", 5_000_000), ("medium", 800_000), ("z", 300_000)):
        (site.source / name).write_bytes(os.urandom(size))
    site.backup()
    for name in ("big", "medium"):
        with (site.source / name).open("r+b") as file:
            file.seek(400_000)
            file.write(b"edited")
    (site.source / "a").write_text("new")
    site.backup()
    target = tmp_path / "out"
    at = site.restored(target)
    for name in ("a", "z"):
        (at / name / "in the way").mkdir(parents=True)
    site.restore(target, "--force", code=1)
    before = {name: (at / name).stat() for name in ("big", "medium")}
    for name in ("a", "z"):
        shutil.rmtree(at / name)
    site.restore(target, "--force")
    assert compare(site.source, at) == []
    assert {name: (at / name).stat().st_ino for name in before} == {n: st.st_ino for n, st in before.items()}
    assert {name: (at / name).stat().st_ctime_ns for name in before} == {n: st.st_ctime_ns for n, st in before.items()}
    assert leftovers(target) == []


def test_a_temporary_that_is_taken_away_is_read_again(site, tmp_path):
    """Of a file in several blobs: what was written is gone, whatever the plan says of it."""
    site.configure(blob_size_limit="16MiB")
    site.source.mkdir(parents=True)
    (site.source / "several blobs").write_bytes(os.urandom(60_000_000))
    site.backup()
    target = tmp_path / "out"
    at = site.restored(target)
    killed_when(site, target, lambda: any(p.stat().st_size > 20_000_000 for p in at.glob(".vaultik-*")))
    for left in at.glob(".vaultik-*"):
        left.unlink()
    site.restore(target)
    assert compare(site.source, at) == []
    assert leftovers(target) == []


def test_a_second_try_counts_what_could_not_be_set_once(stored, tmp_path):
    if os.geteuid() == 0:
        os.chown(stored.source / "big", 1, 1)
        os.setxattr(stored.source / "big", "trusted.note", b"1")
        stored.backup()
    target = tmp_path / "out"
    (stored.restored(target) / "small/in the way").mkdir(parents=True)
    first = json.loads(stored.restore(target, "--force", "--json", code=1, no_rights=True).stdout)
    again = json.loads(stored.restore(target, "--force", "--json", code=1, no_rights=True).stdout)
    assert again["refused"] == first["refused"]
    shutil.rmtree(stored.restored(target) / "small")
    last = json.loads(stored.restore(target, "--force", "--json", no_rights=True).stdout)
    assert {what: n for what, n in last["refused"].items() if what != "extended attribute"} == {
        what: n for what, n in first["refused"].items() if what != "extended attribute"
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets these flags")
def test_files_that_may_not_be_changed_are_no_obstacle(site, tmp_path):
    """Immutable and append-only ones, and links to them: finished once, kept by a second try, replaced by a forced restore."""
    site.source.mkdir()
    for name in ("immutable", "append only", "no dump", "fails"):
        (site.source / name).write_text(name)
    (site.source / "empty").write_bytes(b"")
    (site.source / "dir").mkdir()
    os.link(site.source / "immutable", site.source / "linked")
    target = tmp_path / "out"
    flags = {"immutable": "+i", "empty": "+i", "append only": "+a", "no dump": "+dA", "dir": "+DT"}
    at = site.restored(target)
    try:
        for name, flag in flags.items():
            if subprocess.run(["chattr", flag, site.source / name], check=False, capture_output=True).returncode:
                pytest.skip("this file system has no flags")
        site.backup()
        for name in ("fails", "linked"):
            (at / name / "in the way").mkdir(parents=True)
        site.restore(target, "--force", code=1)
        for name in ("fails", "linked"):
            shutil.rmtree(at / name)
        for _ in range(2):
            done = site.restore(target, "--force")
            assert "could not be set" not in done.stderr
            assert compare(site.source, at) == []
            assert [flags_of(at / name) for name in flags] == [flags_of(site.source / name) for name in flags]
            assert leftovers(target) == []
    finally:
        subprocess.run(["chattr", "-R", "-ia", site.source, target], check=False, capture_output=True)


def test_flags_that_the_file_system_does_not_take_are_counted(site, tmp_path):
    site.source.mkdir()
    (site.source / "file").write_text("x")
    site.backup()
    forge(site, "UPDATE entries SET inode_flags = coalesce(inode_flags, 0) | 0x40 | 0x400 WHERE name = x'66696c65'")
    done = site.restore(tmp_path / "out")
    where = site.restored(tmp_path / "out") / "file"
    if subprocess.run(["lsattr", "-d", where], check=False, capture_output=True).returncode == 0:
        flags = flags_of(where)
        assert "m" in flags or "inode flags: could not be set 1 time" in done.stderr
        assert "d" in flags


def test_user_attributes_of_what_is_read_only_come_back_without_rights(site, tmp_path):
    site.source.mkdir()
    (site.source / "file").write_text("x")
    (site.source / "dir").mkdir()
    for path in (site.source / "file", site.source / "dir"):
        os.setxattr(path, "user.note", b"kept")
        subprocess.run(["setfacl", "-m", "u:1:r", path], check=True)
        path.chmod(0o555)
    site.backup()
    done = site.restore(tmp_path / "out", no_rights=True)
    assert "could not be set" not in done.stderr
    assert compare(site.source, site.restored(tmp_path / "out")) == []


def test_links_and_special_files_of_several_names_stay_one(site, tmp_path):
    site.source.mkdir()
    (site.source / "a link").symlink_to("nowhere")
    os.mkfifo(site.source / "b fifo")
    for name in ("a link", "b fifo"):
        os.link(site.source / name, site.source / f"{name} too", follow_symlinks=False)
    site.backup()
    site.restore(tmp_path / "out")
    at = site.restored(tmp_path / "out")
    assert compare(site.source, at) == []
    for name in ("a link", "b fifo"):
        assert (at / name).lstat().st_ino == (at / f"{name} too").lstat().st_ino
    site.restore(tmp_path / "part", "--include", "* too")
    assert (site.restored(tmp_path / "part") / "a link too").readlink() == Path("nowhere")


def test_a_few_damaged_bytes_cost_only_the_files_that_touch_them(site, tmp_path):
    site.source.mkdir()
    for n in range(60):
        (site.source / f"{n:02}").write_bytes(os.urandom(100_000))
    site.backup()
    (blob,) = site.blobs()
    with blob.open("r+b") as file:
        file.seek(70_000)
        file.write(b"XYZ")
    report = json.loads(site.restore(tmp_path / "whole", "--json", code=4).stdout)
    assert 0 < len(report["damaged"]) <= 11
    assert report["files"] == 60 - len(report["damaged"])
    lost = {entry["path"] for entry in report["damaged"]}
    for path in site.source.iterdir():
        back = site.restored(tmp_path / "whole") / path.name
        assert back.exists() != (str(path) in lost)
        assert not back.exists() or back.read_bytes() == path.read_bytes()
    report = json.loads(
        site.restore(tmp_path / "part", "--json", "--include", "0[0-9]", "--include", "5[0-9]", code=4).stdout
    )
    assert report["files"] == 20 - len(report["damaged"]) >= 10
    os.truncate(blob, blob.stat().st_size // 2)
    report = json.loads(site.restore(tmp_path / "half", "--json", code=4).stdout)
    assert 10 <= report["files"] < 30


def test_a_blob_that_the_store_refuses_costs_its_files_until_it_is_given(site, tmp_path):
    site.configure(blob_size_limit="16MiB")
    site.source.mkdir()
    for n in range(10):
        (site.source / str(n)).write_bytes(os.urandom(4_000_000))
    site.backup()
    refused = site.blobs()[0]
    refused.chmod(0)
    target = tmp_path / "out"
    done = site.restore(target, code=4, no_rights=True)
    assert "Permission denied" in done.stderr
    assert "the same command tries those again" in done.stderr
    there = len(list(site.restored(target).iterdir()))
    assert 0 < there < 10
    refused.chmod(0o600)
    site.restore(target, no_rights=True)
    assert len(list(site.restored(target).iterdir())) == 10
    assert leftovers(target) == []
    for path in site.objects():
        path.chmod(0)
    done = site.restore(tmp_path / "none", code=1, no_rights=True)
    assert "Permission denied" in done.stderr


def test_a_restore_that_can_not_begin_leaves_no_directory(stored, tmp_path):
    target = tmp_path / "a/b/c"
    stored.restore(target, snapshot="1999", code=2)
    stored.run("restore", "--endpoint", f"file://{tmp_path}/gone", "b", "h", "latest", target, code=1)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    stored.restore(target, snapshot="1999", code=2)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_dry_run_refuses_what_the_run_would(stored, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "file", tmp_path / "file/below"):
        said = [stored.restore(target, *more, code=1).stderr for more in ((), ("--dry-run",))]
        assert said[0] == said[1]
    stored.restore(tmp_path / "full", "--dry-run", "--force")
    killed_when(stored, tmp_path / "out", (tmp_path / "out/.vaultik-restore/plan.sqlite-wal").exists)
    done = stored.restore(tmp_path / "out", "--dry-run", "--include", "/other", code=1)
    assert "unfinished" in done.stderr
    assert (tmp_path / "out/.vaultik-restore/begun.json").exists()


def test_it_is_done_only_when_that_is_said(stored, tmp_path):
    """Who reads its output is gone before its last word: the state is still there, and the same command tells again."""
    target = tmp_path / "out"
    read, write = os.pipe()
    run = subprocess.Popen(
        stored.command("restore", *stored.where, "latest", target),
        env=stored.environment(PYTHONUNBUFFERED="1"),
        stdout=write,
    )
    os.close(write)
    os.close(read)
    assert run.wait() == 141
    assert (target / ".vaultik-restore").exists()
    assert "restored" in stored.restore(target).stdout
    assert not (target / ".vaultik-restore").exists()


def test_names_that_are_no_text_are_shown_in_any_locale(stored, tmp_path):
    name = os.fsdecode(b"out \xff")
    for command, target in (
        (["restore", *stored.where, "latest"], tmp_path / name),
        (["fetch", *stored.where, "latest", str(stored.source / "small")], tmp_path / f"{name} 2"),
        (["init"], tmp_path / f"{name}.yaml"),
    ):
        done = subprocess.run(
            stored.command(*command, target),
            env=stored.environment(PYTHONIOENCODING="utf-8:strict"),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"out \\xff" in done.stdout


def test_what_the_backup_lacks_is_told(site, tmp_path):
    site.source.mkdir()
    (site.source / "file").write_text("x")
    site.backup()
    forge(
        site,
        "UPDATE entries SET marks = marks | 8 WHERE type = 'f'",
        "UPDATE entries SET marks = marks | 32 WHERE type = 'd' AND id = (SELECT parent FROM entries WHERE type = 'f')",
    )
    done = site.restore(tmp_path / "out")
    assert "1 file had not been read yet when the backup was cut off" in done.stderr
    assert "1 directory could not be looked at in full" in done.stderr
    said = json.loads(site.restore(tmp_path / "again", "--json").stdout)
    assert (said["complete"], said["stale"], said["gaps"]) == (True, 1, 1)


def test_a_path_that_no_system_call_takes_is_told_in_short(site, tmp_path):
    site.source.mkdir()
    at = os.open(site.source, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    with open(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at), "w") as file:
        file.write("x")
    os.close(at)
    site.backup()
    for blob in site.blobs():
        blob.unlink()
    said = json.loads(site.restore(tmp_path / "out", "--json", code=4).stdout)
    (damaged,) = said["damaged"]
    assert len(damaged["path"]) < 4097
    assert damaged["path"].endswith("d/file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a device to back up")
def test_a_device_that_can_not_be_made_is_no_success(stored, tmp_path):
    done = stored.run(
        "fetch", *stored.where, "latest", stored.source / "null", tmp_path / "null", code=1, no_rights=True
    )
    assert "this user may not make a char device" in done.stderr


OWNERS = (1234, 5678) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


class TestLuigi:
    def restore(self, site, target, *more, code):
        where = ["--bucket", site.bucket, "--prefix", site.prefix, "--endpoint", site.endpoint]
        return site.luigi("Restore", "--local-scheduler", "--no-lock", *where, "--target", target, *more, code=code)

    def test_it_says_what_the_command_says(self, site, tmp_path):
        site.source.mkdir()
        (site.source / "evil\x1b[31m\x1b]0;owned\a").write_bytes(b"x" * 5000)
        (site.source / "fine").symlink_to("x")
        site.backup()
        (blob,) = site.blobs()
        os.truncate(blob, blob.stat().st_size // 2)
        said = site.restore(tmp_path / "one", code=4)
        done = self.restore(site, tmp_path / "two", code=4)
        assert "\x1b" not in done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith(("vaultik: ", "  hint: "))] == (
            said.stderr.splitlines()
        )
        assert said.stdout.replace("/one", "/two").strip() in done.stdout

    def test_what_could_not_be_set_and_read_is_told(self, site, tmp_path):
        site.source.mkdir()
        (site.source / "file").write_text("x")
        site.backup()
        forge(
            site,
            "UPDATE entries SET marks = 16 WHERE name = x'66696c65'",
            "INSERT INTO xattrs VALUES (1, CAST('nonsense.a' AS BLOB), x'00'), (2, CAST('nonsense.b' AS BLOB), x'00')",
        )
        done = self.restore(site, tmp_path / "out", code=0)
        assert "vaultik: extended attribute: could not be set 1 time" in done.stderr
        assert "vaultik: 1 entry could not be read when the backup was made" in done.stderr

    def test_it_takes_what_the_command_takes(self, stored, tmp_path):
        at = stored.source
        lists = {
            "include": [f"{at}/many/1", f"{at}/many/2"],
            "exclude": [f"{at}/many/1"],
            "without": ["times,xattrs"],
            "map-owner": [f"*:{OWNERS[0]}"],
            "map-group": [f"*:{OWNERS[1]}"],
        }
        more = [part for name, value in lists.items() for part in (f"--{name}", json.dumps(value))]
        self.restore(stored, tmp_path / "out", *more, code=0)
        many = stored.restored(tmp_path / "out") / "many"
        assert os.listdir(many) == ["2"]
        assert {(file.stat().st_uid, file.stat().st_gid) for file in many.iterdir()} == {OWNERS}
        assert all(file.stat().st_mtime > at.stat().st_mtime for file in many.rglob("*"))
        self.restore(stored, tmp_path / "none", "--no-owner", "--numeric-ids", code=2)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (["--exclude", "['local', '*.x']"], "not a JSON list of texts"),
            (["--exclude", "/home"], "not a JSON list of texts"),
            (["--include", "[1]"], "not a JSON list of texts"),
            (["--include", ""], "--include: empty"),
            (["--Restore-include="], "--include: empty"),
            (["--include", '["/etc", ""]'], "--include: empty"),
            (["--exclude", '["a"]', "--excl", '["b"]'], "given 2 times"),
        ],
    )
    def test_what_is_no_list_removes_nothing(self, stored, tmp_path, given, says):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").write_text("mine")
        done = self.restore(stored, tmp_path / "out", "--force", "--delete", *given, code=2)
        assert says in done.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]

    def test_a_snapshot_that_is_not_there_leaves_nothing(self, stored, tmp_path):
        done = self.restore(stored, tmp_path / "a/b", "--snapshot", "1999", code=2)
        assert "none of that id" in done.stderr
        assert not (tmp_path / "a").exists()


def test_forced_it_replaces_what_stands_there_and_keeps_the_rest(stored, tmp_path):
    target = tmp_path / "out"
    at = stored.restored(target)
    (at / "many").mkdir(parents=True)
    (at / "big").write_text("old")
    os.setxattr(at / "big", "user.old", b"1")
    (at / "link").write_text("a file where a link goes")
    (at / "mine").write_text("not in the snapshot")
    stored.restore(target, "--force")
    assert (at / "mine").read_text() == "not in the snapshot"
    (at / "mine").unlink()
    shutil.copystat(stored.source, at)
    assert compare(stored.source, at) == []


def test_a_part_by_patterns(stored, tmp_path):
    stored.restore(tmp_path / "out", "--include", "**/many/3", "--exclude", "file 1*")
    at = stored.restored(tmp_path / "out")
    assert sorted(p.name for p in at.iterdir()) == ["many"]
    assert {p.name for p in (at / "many/3").iterdir()} == {
        p.name for p in (stored.source / "many/3").iterdir() if not p.name.startswith("file 1")
    }
    done = stored.restore(tmp_path / "none", "--include", "/nothing/like/it", code=2)
    assert "nothing in the snapshot fits" in done.stderr
    done = stored.restore(
        tmp_path / "none", "--include", "**/many/3", "--include", "/mistyped", "--include", "!x", code=2
    )
    assert "--include /mistyped: nothing in the snapshot fits" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_dry_run_writes_nothing_and_says_what_it_would(stored, tmp_path):
    plan = json.loads(stored.restore(tmp_path / "out", "--dry-run", "--json").stdout)
    assert plan["files"] > 200
    assert plan["blobs"] == len(stored.blobs())
    assert not (tmp_path / "out").exists()


class TestFetch:
    def test_a_directory_with_flags_of_its_own(self, site, tmp_path):
        (site.source / "dir").mkdir(parents=True)
        (site.source / "dir/file").write_text("x")
        done = subprocess.run(["chattr", "+d", site.source / "dir"], check=False, capture_output=True)
        site.backup()
        site.run("fetch", *site.where, "latest", site.source / "dir", tmp_path / "got")
        assert (tmp_path / "got/file").read_text() == "x"
        if done.returncode == 0:
            flags = subprocess.run(["lsattr", "-d", tmp_path / "got"], check=True, capture_output=True, text=True)
            assert "d" in flags.stdout.split()[0]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root sets these flags")
    def test_immutable_directories_are_no_obstacle_when_forced(self, site, tmp_path):
        inner = site.source / "inner"
        inner.mkdir(parents=True)
        (tmp_path / "got").mkdir()
        try:
            for text in ("old", "newer"):
                subprocess.run(["chattr", "-R", "-i", site.source], check=False, capture_output=True)
                (inner / "file").write_text(text)
                (inner / "FILE").write_text(text)
                (inner / text).write_text(text)
                done = subprocess.run(["chattr", "-R", "+i", site.source], check=False, capture_output=True)
                if done.returncode:
                    pytest.skip("NO FLAGS: this file system has none")
                site.backup()
                site.run("fetch", *site.where, "latest", site.source, tmp_path / "got", "--force")
                assert compare(site.source, tmp_path / "got/source") == []
        finally:
            subprocess.run(["chattr", "-R", "-i", site.source, tmp_path / "got"], check=False, capture_output=True)

    def test_interrupted_it_leaves_nothing(self, stored, tmp_path):
        for n in range(5):
            (stored.source / f"many/large {n}").write_bytes(os.urandom(20_000_000))
        stored.backup()
        run = subprocess.Popen(
            stored.command("fetch", *stored.where, "latest", stored.source / "many", tmp_path / "got"),
            env=stored.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any(tmp_path.glob(".vaultik-*")) and run.poll() is None:
            time.sleep(0.002)
        run.send_signal(signal.SIGINT)
        assert run.wait() == 130
        assert "goes on" not in run.communicate()[1]
        assert not (tmp_path / "got").exists()
        assert list(tmp_path.glob(".vaultik-*")) == []

    def test_what_stands_there_is_kept_unless_forced(self, stored, tmp_path):
        place = tmp_path / "got"
        place.write_text("mine")
        stored.run("fetch", *stored.where, "latest", stored.source / "small", place, code=1)
        assert place.read_text() == "mine"
        stored.run("fetch", *stored.where, "latest", stored.source / "small", place, "--force")
        assert place.read_text() == "a few words\n"
        done = stored.run("fetch", *stored.where, "latest", stored.source / "many", place, "--force", code=1)
        assert "no directory" in done.stderr

    def test_a_symlink_at_the_place_is_not_written_through(self, stored, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "inside").mkdir()
        (tmp_path / "inside/many").symlink_to(tmp_path / "elsewhere")
        stored.run("fetch", *stored.where, "latest", stored.source / "many", tmp_path / "inside", code=1)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_names_may_be_given_as_ls_shows_them(self, stored, tmp_path):
        (stored.source / "back\\xffslash").write_text("literal")
        stored.backup()
        listing = stored.run("ls", *stored.where, "latest", stored.source).stdout.splitlines()
        shown = [line for line in listing if "\\" in line]
        assert len(shown) == 3
        for number, name in enumerate(shown):
            stored.run("fetch", *stored.where, "latest", name, tmp_path / f"got {number}")

    def test_only_a_file_goes_to_standard_output(self, stored):
        for name, word in (("link", "symbolic link to small"), ("many", "directory"), ("fifo", "fifo")):
            done = stored.run("fetch", *stored.where, "latest", stored.source / name, "-", code=2)
            assert word in done.stderr

    def test_a_full_standard_output_is_one_line(self, stored):
        command = stored.command("fetch", *stored.where, "latest", stored.source / "big", "-")
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, env=stored.environment(), stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert done.stderr == b"vaultik: standard output: No space left on device\n"


def test_a_store_that_is_gone_in_the_middle_keeps_what_is_done(stored, tmp_path):
    """The store's folder is away: exit 1, and the same command finishes."""
    target = tmp_path / "out"
    killed_when(stored, target, (target / ".vaultik-restore/plan.sqlite-wal").exists)
    (stored.store / "vault").rename(stored.store / "away")
    stored.restore(target, code=1)
    (stored.store / "away").rename(stored.store / "vault")
    stored.restore(target)
    assert compare(stored.source, stored.restored(target)) == []


def test_blobs_damaged_in_every_way_cost_only_their_files(site, tmp_path):
    """Header, body, length, kind: each a blob of its own; everything else comes back, exit 4, JSON in one piece."""
    site.configure(blob_size_limit="16MiB")
    site.source.mkdir(parents=True)
    for n in range(40):
        (site.source / f"file {n:02}").write_bytes(os.urandom(4_000_000))
    site.backup()
    blobs = site.blobs()
    assert len(blobs) >= 5
    header, body, short, kind, _sound = blobs[:5]
    data = bytearray(header.read_bytes())
    start = data.index(b"\n", data.index(b"-> X25519")) + 1
    data[start] = ord("A") if data[start] != ord("A") else ord("B")
    header.write_bytes(data)
    data = bytearray(body.read_bytes())
    data[len(data) // 2] ^= 1
    body.write_bytes(data)
    os.truncate(short, 1000)
    kind.unlink()
    kind.mkdir()
    report = json.loads(site.restore(tmp_path / "out", "--json", code=4).stdout)
    at = site.restored(tmp_path / "out")
    assert 0 < len(report["damaged"]) < 40
    assert report["files"] == 40 - len(report["damaged"]) == len(list(at.iterdir()))
    for path in at.iterdir():
        assert path.read_bytes() == (site.source / path.name).read_bytes()
    assert leftovers(tmp_path / "out") == []
