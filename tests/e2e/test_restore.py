"""Restores that are interrupted, refused a part of what they want, or led astray."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.support.forge import forge
from tests.support.site import Site
from tests.support.tree import compare, make_tree


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def stored(site):
    make_tree(site.source)
    site.backup()
    return site


def leftovers(target):
    return [
        name for _, folders, files in os.walk(target) for name in (*folders, *files) if name.startswith(".vaultik-")
    ]


def killed_when(site, target, ready, *arguments):
    """Begin a restore and SIGKILL all of it as soon as `ready` says so."""
    run = subprocess.Popen(
        site.command("restore", *site.where, "latest", target, *arguments),
        env=site.environment(),
        start_new_session=True,
    )
    while run.poll() is None and not ready():
        time.sleep(0.002)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


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


def test_another_boot_writes_everything_again(stored, tmp_path):
    """What was not synced before a power cut may be gone, whatever the plan says of it."""
    target = tmp_path / "out"
    killed_when(stored, target, (stored.restored(target) / "fifo").exists)
    begun = target / ".vaultik-restore/begun.json"
    if begun.exists():
        begun.write_text(begun.read_text().replace(json.loads(begun.read_text())["boot"], "another"))
        for path in stored.restored(target).iterdir():
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
    stored.restore(target)
    assert compare(stored.source, stored.restored(target)) == []


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
    first = subprocess.Popen(stored.command("restore", *stored.where, "latest", target), env=stored.environment())
    while not (target / ".vaultik-restore/begun.json").exists():
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGSTOP)
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
    assert f"{stored.source}/small: Is a directory" in done.stderr
    assert "2 entries could not be written" in done.stderr
    assert (at / "big").read_bytes() == (stored.source / "big").read_bytes()
    (at / "small/in the way").rmdir()
    (at / "small").rmdir()
    stored.restore(target, "--force")
    assert compare(stored.source, at) == []
    assert leftovers(target) == []


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
