"""What comes back is what there was: every attribute of every kind of entry, seen by rsync and by a survey of our own."""

import contextlib
import fcntl
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support import disks
from tests.support.everything import differences, generate, make_everything, removable, survey
from tests.support.forge import open_db
from tests.support.site import NO_RIGHTS, Site
from tests.support.tree import itemized
from vaultik.model import Mark

ENTRIES = int(os.environ.get("VAULTIK_ENTRIES", "1500"))
DISKS = ["here", *os.environ.get("VAULTIK_FILE_SYSTEMS", "btrfs").split()]
SYSTEM = os.environ.get("VAULTIK_SYSTEM_TREE", "/usr/share/zoneinfo:/usr/lib/git-core").split(":")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts, and makes all kinds of entries")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def comes_back(site, target, **how):
    """Back up, restore, and compare with rsync and the survey."""
    summary = site.backup(**how)
    done = site.restore(target, **how)
    at = site.restored(target)
    assert itemized(site.source, at) == ""
    assert differences(site.source, at) == []
    return summary, done.stderr


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[AS_ROOT] if kind != "here" else []) for kind in DISKS])
def test_everything_comes_back(tmp_path, kind):
    with disks.made(tmp_path / "disk", kind):
        site = Site(tmp_path / "disk")
        target = tmp_path / "disk/out"
        with removable(site.source, target):
            make_everything(site.source)
            assert kind != "btrfs" or {"0x10", "0x20", "0x800000"} <= flags_in(site.source / "flags")
            _, said = comes_back(site, target)
            assert said == ""
            before = changed_at(target)
            site.restore(target, "--force", "--checksum")
            assert differences(site.source, site.restored(target)) == []
            assert changed_at(target) == before, "what is as it should be is left alone"


def flags_in(folder):
    return {facts.get("flags") for facts in survey(folder).values()}


def changed_at(target):
    """When anything was last done to each file."""
    found = subprocess.run(
        ["find", target, "-type", "f", "-printf", "%C@ %p\\0"], check=True, capture_output=True
    ).stdout
    return set(found.split(b"\0"))


def test_without_rights_all_that_is_ones_own_comes_back(site, tmp_path):
    """Made by who has no rights, backed up and restored by the same: nothing is refused. What can't be read is named."""
    script = (
        "from pathlib import Path; from tests.support import everything, tree; everything.ROOT = False;"
        f"tree.os.geteuid = lambda: 1; everything.make_everything(Path({str(site.source)!r}))"
    )
    subprocess.run([*NO_RIGHTS, *site.command()[:1], "-c", script], check=True, cwd=Path(__file__).parents[2])
    _, said = comes_back(site, tmp_path / "out", no_rights=True)
    assert said == ""
    for name in ("closed file", "closed dir"):
        (site.source / name).write_text("x") if "file" in name else (site.source / name / "in").mkdir(parents=True)
        (site.source / name).chmod(0)
    summary = site.backup(code=3, no_rights=True)
    assert sorted(Path(problem["path"]).name for problem in summary["problems"]) == ["closed dir", "closed file"]
    done = site.restore(tmp_path / "again", no_rights=True)
    assert "2 entries could not be read when the backup was made" in done.stderr
    found = differences(site.source, site.restored(tmp_path / "again"))
    assert {line.split("'")[1] for line in found} == {"/closed dir/in", "/closed file"}


@AS_ROOT
def test_without_rights_each_class_is_told_of_once(site, tmp_path):
    with removable(site.source):
        make_everything(site.source)
        site.backup()
        done = site.restore(tmp_path / "out", no_rights=True)
    said = [line.removeprefix("vaultik: ").split(":")[0] for line in done.stderr.splitlines()]
    refused = {"owner", "setuid or setgid", "special file", "extended attribute", "file capability", "inode flags"}
    assert sorted(said) == sorted(refused), done.stderr
    told = json.loads(site.restore(tmp_path / "again", "--json", no_rights=True).stdout)["refused"]
    assert set(told) == refused
    without = "owner,xattrs,flags"
    done = site.restore(tmp_path / "less", "--without", without, no_rights=True)
    assert (
        done.stderr
        == f"vaultik: special file: could not be set {told['special file']} times, no right or not supported here\n"
    )


def test_a_terabyte_of_holes(site, tmp_path):
    """With a mebibyte of data in it: what is read, stored, kept in memory and written is the data's."""
    site.source.mkdir()
    size, rng = 1 << 40, random.Random(1)
    with (site.source / "sparse").open("wb") as file:
        for n in range(16):
            file.seek(n * (size // 16) + n * 4096)
            file.write(rng.randbytes(65_536))
        file.truncate(size)
    assert peak_of(site.command("backup", site.config, "--cron"), site) < 250_000
    assert sum(path.stat().st_size for path in site.objects()) < 2 << 20
    assert peak_of(site.command("restore", *site.where, "latest", tmp_path / "out", "--quiet"), site) < 250_000
    assert differences(site.source, site.restored(tmp_path / "out")) == []
    restored = site.restored(tmp_path / "out") / "sparse"
    assert restored.stat().st_blocks * 512 < 2 << 20
    # What is there is found to be equal without reading holes, and is mended by ranges.
    with restored.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"not zero")
    site.restore(tmp_path / "out", "--force", "--checksum")
    assert differences(site.source, site.restored(tmp_path / "out")) == []


def peak_of(command, site):
    """The most memory, in kilobytes, that a process of a command had."""
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [command[0], "-c", script, *command], env=site.environment(), capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def test_hard_links_across_sources_are_one_file_again(site, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for source in (first, second):
        source.mkdir()
    site.configure(source_dirs=[str(first), str(second)])
    (second / "a").write_text("shared")
    os.mkfifo(second / "fifo")
    for name in ("a", "fifo"):
        os.link(second / name, first / name, follow_symlinks=False)
    site.backup()
    site.restore(tmp_path / "out")
    here = {
        name: [Path(f"{tmp_path}/out{source}/{name}").stat() for source in (first, second)] for name in ("a", "fifo")
    }
    for one, other in here.values():
        assert one.st_ino == other.st_ino
        assert one.st_nlink == 2
    # A part of it is complete in itself.
    site.restore(tmp_path / "part", "--include", str(first))
    assert Path(f"{tmp_path}/part{first}/a").read_text() == "shared"


def test_the_time_of_birth_is_in_the_snapshot(site):
    site.source.mkdir()
    (site.source / "file").write_text("x")
    (site.source / "link").symlink_to("x")
    os.mkfifo(site.source / "fifo")
    site.backup()
    (site.tmp / "opened.sqlite").write_bytes(open_db(site))
    with contextlib.closing(sqlite3.connect(site.tmp / "opened.sqlite")) as db:
        found = dict(db.execute("SELECT CAST(name AS TEXT), birth_ns FROM entries"))
    for path in (site.source, *site.source.iterdir()):
        seconds = int(subprocess.check_output(["stat", "-c", "%W", path]))
        assert (found[path.name] or 0) // 10**9 == seconds, path


def test_changed_is_a_warning_unreadable_an_error_vanished_neither(site):
    """In the summary, in the snapshot, and in the exit code: all three in one run, and then without the error."""
    site.source.mkdir()
    (site.source / "grows").write_bytes(random.Random(1).randbytes(8_000_000))
    (site.source / "closed").write_text("x")
    (site.source / "closed").chmod(0)
    for code, unreadable in ((3, {"closed": "unreadable"}), (0, {})):
        with vanishing(site.source / "vanishes"), growing(site.source / "grows"):
            summary = site.backup(code=code, no_rights=True)
        found = {Path(problem["path"]).name: problem["kind"] for problem in summary["problems"]}
        assert found == {"vanishes": "vanished", "grows": "changed", **unreadable}
        counts = {name: summary[name] for name in ("exit_code", "changed_while_read", "vanished", "unreadable")}
        assert counts == {"exit_code": code, "changed_while_read": 1, "vanished": 1, "unreadable": len(unreadable)}
        assert marks_of(site) == {"grows": Mark.CHANGED, **dict.fromkeys(unreadable, Mark.UNREADABLE)}
        (site.source / "closed").unlink(missing_ok=True)
    with growing(site.source / "grows"):
        done = site.run("backup", site.config)
    assert " 0 unreadable, 1 changed while read," in done.stdout
    assert done.stderr == f"vaultik: {site.source}/grows: changed while it was read\n"


def marks_of(site):
    """What the newest snapshot says of the files in the source."""
    site.tmp.joinpath("opened.sqlite").write_bytes(open_db(site))
    with contextlib.closing(sqlite3.connect(site.tmp / "opened.sqlite")) as db:
        return dict(db.execute("SELECT CAST(name AS TEXT), marks FROM entries WHERE type = 'f'"))


@contextlib.contextmanager
def vanishing(path):
    """A file that is gone when it is opened: it is under a lease, so whoever opens it is told of first."""
    path.write_text("x")
    held = os.open(path, os.O_RDWR)

    def told(*_):
        path.unlink()
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    before = signal.signal(signal.SIGUSR2, told)
    try:
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGUSR2)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)
        os.close(held)


@contextlib.contextmanager
def growing(path):
    """A file that somebody appends to all the time."""
    stop = threading.Event()

    def write():
        while not stop.is_set():
            with path.open("ab") as file:
                file.write(b"more" * 100)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def test_a_part_of_this_system(site, tmp_path):
    """VAULTIK_SYSTEM_TREE names more of it, such as /usr."""
    for path in map(Path, SYSTEM):
        at = Path(f"{site.source}{path}")
        at.parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", path, at], check=True)
    _, said = comes_back(site, tmp_path / "out")
    assert said == ""


def test_a_generated_tree(site, tmp_path):
    """VAULTIK_ENTRIES says of how many entries."""
    generate(site.source, ENTRIES)
    _, said = comes_back(site, tmp_path / "out")
    assert said == ""
