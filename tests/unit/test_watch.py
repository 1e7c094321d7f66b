"""The watcher on a real file system: what it sees, what it can't tell, and what it says of that."""

import mmap
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.support.site import NO_RIGHTS, Site
from vaultik import linux
from vaultik.backup.changes import Changes
from vaultik.config import load_config
from vaultik.daemon import limits
from vaultik.daemon.mounted import parse_mount_points
from vaultik.daemon.watch import Watcher

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
RENAME_EXCHANGE = 2
LIMITS = Path("/proc/sys/fs/inotify")


class Watched:
    """A source with a watcher whose first full scan is done with."""

    def __init__(self, tmp, **settings):
        self.tmp = tmp
        self.site = Site(tmp, **settings)
        self.site.source.mkdir(exist_ok=True)
        self.notes = []

    @property
    def source(self):
        return self.site.source

    @contextmanager
    def watching(self):
        with closing(Watcher(load_config(self.site.config), note=self.notes.append)) as watcher:
            watcher.start()
            assert watcher.take() is None
            assert watcher.doubt is None
            yield watcher

    def taken(self, watcher):
        """What is dirty, as names below the source."""
        changes = watcher.take()
        assert changes is not None, self.notes
        return self._names(changes.directories), self._names(changes.trees)

    def _names(self, paths):
        return {os.path.relpath(os.fsdecode(path), self.source) for path in paths}


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def is_readable(watcher):
    poll = select.poll()
    poll.register(watcher.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def test_nothing_happens_and_nothing_is_dirty(watched):
    fill(watched.source, "a/1")
    with watched.watching() as watcher:
        assert not is_readable(watcher)
        assert watcher.dirty == 0
        assert watched.taken(watcher) == (set(), set())
        assert not watcher.take()
        # Reading is no change.
        (watched.source / "a/1").read_text()
        list(watched.source.iterdir())
        assert not is_readable(watcher)
    assert watched.notes == []


def test_before_the_first_full_scan_there_is_doubt(watched):
    with closing(Watcher(load_config(watched.site.config), note=watched.notes.append)) as watcher:
        assert watcher.doubt == "nothing is watched yet"
        assert not is_readable(watcher)
        watcher.start()
        assert watcher.doubt == "watching has only just begun"
        fill(watched.source, "a/1")
        assert watcher.take() is None
        # What was seen before the full scan begins is in it.
        assert watched.taken(watcher) == (set(), set())
    assert watched.notes == []


CHANGES = {
    "create": (lambda at: (at / "new").touch(), "a"),
    "write": (lambda at: (at / "1").write_text("x"), "a"),
    "truncate": (lambda at: os.truncate(at / "1", 0), "a"),
    "delete": (lambda at: (at / "1").unlink(), "a"),
    "rename": (lambda at: (at / "1").rename(at / "2"), "a"),
    "chmod": (lambda at: (at / "1").chmod(0o600), "a"),
    "times": (lambda at: os.utime(at / "1", (1, 1)), "a"),
    "xattr": (lambda at: os.setxattr(at / "1", "user.x", b"y"), "a"),
    "symlink": (lambda at: (at / "s").symlink_to("1"), "a"),
    "pipe": (lambda at: os.mkfifo(at / "p"), "a"),
    "link": (lambda at: os.link(at / "1", at / "b/l"), "a/b"),
    "odd name": (lambda at: open(os.fsencode(at) + b"/\xff\n", "w").close(), "a"),
    "own mode": (lambda at: (at / "b").chmod(0o700), "a/b"),
    "own xattr": (lambda at: os.setxattr(at / "b", "user.x", b"y"), "a/b"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_seen_at_once(watched, change):
    fill(watched.source, "a/1", "a/b/2")
    act, where = CHANGES[change]
    with watched.watching() as watcher:
        act(watched.source / "a")
        assert is_readable(watcher)
        watcher.read()
        assert not is_readable(watcher)
        assert watcher.dirty >= 1
        directories, trees = watched.taken(watcher)
        assert where in directories
        assert directories <= {"a", "a/b"}
        assert not trees
        assert watcher.dirty == 0


def test_a_write_through_mmap_is_seen_when_the_file_is_closed(watched):
    fill(watched.source, "a/1")
    with watched.watching() as watcher:
        with (watched.source / "a/1").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[0:1] = b"X"
            assert watched.taken(watcher) == (set(), set())
        assert watched.taken(watcher) == ({"a"}, set())


def test_an_open_file_that_is_written_is_seen_while_it_is_open(watched):
    fill(watched.source, "a/log")
    with watched.watching() as watcher, (watched.source / "a/log").open("a") as file:
        for line in ("one\n", "two\n"):
            file.write(line)
            file.flush()
            assert watched.taken(watcher) == ({"a"}, set())


class TestTrees:
    def test_a_directory_that_appears_is_a_tree_and_watched_with_all_in_it(self, watched):
        with watched.watching() as watcher:
            # Most of it is there before anybody reads of it.
            fill(watched.source, "new/deep/down/1", "new/2")
            assert watched.taken(watcher) == ({"."}, {"new"})
            fill(watched.source, "new/deep/down/3")
            assert watched.taken(watcher) == ({"new/deep/down"}, set())

    def test_a_tree_that_is_moved_in_out_and_about(self, watched):
        fill(watched.source, "a/b/c/1", "d/2")
        fill(watched.tmp, "outside/x/y/3")
        with watched.watching() as watcher:
            before = watcher.watching
            (watched.source / "a/b").rename(watched.source / "d/moved")
            assert watched.taken(watcher) == ({"a", "d"}, {"d/moved"})
            assert watcher.watching == before
            fill(watched.source, "d/moved/c/4")
            assert watched.taken(watcher) == ({"d/moved/c"}, set())
            (watched.source / "d/moved").rename(watched.tmp / "outside/gone")
            assert watched.taken(watcher) == ({"d"}, set())
            assert watcher.watching == before - 2
            watcher.read()
            # What happens there is nobody's business any more.
            fill(watched.tmp, "outside/gone/c/5")
            assert not is_readable(watcher)
            (watched.tmp / "outside/x").rename(watched.source / "a/x")
            assert watched.taken(watcher) == ({"a"}, {"a/x"})
            fill(watched.source, "a/x/y/6")
            assert watched.taken(watcher) == ({"a/x/y"}, set())

    def test_a_tree_that_is_deleted_is_followed(self, watched):
        fill(watched.source, "a/b/c/1", "a/b/d/2")
        with watched.watching() as watcher:
            before = watcher.watching
            shutil.rmtree(watched.source / "a/b")
            assert watched.taken(watcher) == ({"a"}, set())
            assert watcher.watching == before - 3
            fill(watched.source, "a/b/c/1")
            assert watched.taken(watcher)[0] == {"a"}
            assert watcher.watching == before - 1

    def test_a_directory_changes_place_with_a_file_and_another(self, watched):
        fill(watched.source, "a/1", "b/x/2", "c")
        with watched.watching() as watcher:
            (watched.source / "a").rename(watched.source / "t")
            (watched.source / "b").rename(watched.source / "a")
            (watched.source / "t").rename(watched.source / "b")
            assert watched.taken(watcher) == ({"."}, {"a", "b"})
            fill(watched.source, "a/x/3")
            assert watched.taken(watcher) == ({"a/x"}, set())
            shutil.rmtree(watched.source / "b")
            (watched.source / "c").rename(watched.source / "b")
            assert watched.taken(watcher) == ({"."}, set())

    def test_two_directories_that_are_exchanged_at_once(self, watched):
        fill(watched.source, "a/x/1", "b/y/2")
        with watched.watching() as watcher:
            before = watcher.watching
            one, two = (os.fsencode(watched.source / name) for name in ("a", "b"))
            assert linux._libc.renameat2(linux.AT_FDCWD, one, linux.AT_FDCWD, two, RENAME_EXCHANGE) == 0
            assert watched.taken(watcher) == ({"."}, {"a", "b"})
            assert watcher.watching == before
            for place in ("a/y", "b/x"):
                fill(watched.source, f"{place}/3")
                assert watched.taken(watcher) == ({place}, set())

    def test_renames_that_are_read_of_late(self, watched):
        """Each event tells of a place that is another one by the time it is read."""
        fill(watched.source, "a/b/1")
        with watched.watching() as watcher:
            fill(watched.source, "a/b/new/2")
            (watched.source / "a").rename(watched.source / "x")
            fill(watched.source, "a/b/other/3")
            (watched.source / "x/b/new").rename(watched.source / "a/b/new")
            (watched.source / "a").rename(watched.source / "y")
            (watched.source / "x").rename(watched.source / "a")
            directories, trees = watched.taken(watcher)
            # What was called a is so again, and was watched all the time.
            assert {".", "a/b"} <= directories
            assert trees == {"y"}
            for place in ("y/b/new", "y/b/other", "a/b"):
                fill(watched.source, f"{place}/4")
                assert watched.taken(watcher) == ({place}, set())

    def test_a_directory_that_is_away_just_while_it_is_looked_for(self, watched):
        fill(watched.source, "a/1", "b/x/2")
        with watched.watching() as watcher:
            (watched.source / "a/x").mkdir()
            (watched.source / "a").rename(watched.source / "t")
            (watched.source / "b").rename(watched.source / "a")
            appeared, *moved = watcher._inotify.read()
            # Where a stood there is another, with an x of its own.
            watcher._event(watcher._placer, *appeared)
            (watched.source / "a").rename(watched.source / "b")
            (watched.source / "t").rename(watched.source / "a")
            for event in moved:
                watcher._event(watcher._placer, *event)
            directories, trees = watched.taken(watcher)
            assert "a" in directories | trees
            for place in ("a/x", "b/x"):
                fill(watched.source, f"{place}/3")
                assert watched.taken(watcher) == ({place}, set())

    def test_deeper_than_a_path_may_be_long(self, watched):
        fd = os.open(watched.source, os.O_RDONLY)
        for _ in range(40):
            os.mkdir("d" * 150, dir_fd=fd)
            below = os.open("d" * 150, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        try:
            with watched.watching() as watcher:
                os.close(os.open("at the bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
                (path,) = watcher.take().directories
                assert path == os.fsencode(watched.source) + b"/" + b"/".join([b"d" * 150] * 40)
                # Some of it has to be reached anew.
                os.mkdir("and below", dir_fd=fd)
                assert len(watcher.take().trees) == 1
        finally:
            os.close(fd)

    def test_a_directory_that_becomes_readable(self, watched, tmp_path):
        fill(watched.source, "shut/in/1")
        (watched.source / "shut").chmod(0)
        script = tmp_path / "script.py"
        script.write_text(
            "import os, sys; from pathlib import Path\n"
            "from vaultik.config import load_config; from vaultik.daemon.watch import Watcher\n"
            "source = Path(sys.argv[2]); watcher = Watcher(load_config(Path(sys.argv[1])), note=print)\n"
            "watcher.start(); assert watcher.take() is None; before = watcher.watching\n"
            "(source / 'shut').chmod(0o700)\n"
            "changes = watcher.take(); assert os.fsencode(source / 'shut') in changes.trees, changes\n"
            "assert watcher.watching == before + 2\n"
            "(source / 'shut/in/1').write_text('x')\n"
            "assert watcher.take().directories == {os.fsencode(source / 'shut/in')}\n"
            "print('done')\n"
        )
        done = subprocess.run(
            [*NO_RIGHTS, sys.executable, "-W", "error", script, watched.site.config, watched.source],
            env=watched.site.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "done\n", done.stderr


class TestLeftOut:
    def test_excluded_directories_are_not_watched(self, tmp_path):
        watched = Watched(tmp_path, exclude=["cache/", "*.tmp"])
        fill(watched.source, "a/1", "a/cache/deep/2", "a/x.tmp")
        with watched.watching() as watcher:
            fill(watched.source, "a/cache/deep/3")
            assert not is_readable(watcher)
            (watched.source / "a/x.tmp").write_text("more")
            assert watched.taken(watcher) == (set(), set())
            # The directory's own time changes by these.
            fill(watched.source, "a/y.tmp")
            assert watched.taken(watcher) == ({"a"}, set())
            (watched.source / "a/cache").rename(watched.source / "a/kept")
            assert watched.taken(watcher) == ({"a"}, {"a/kept"})
            fill(watched.source, "a/kept/deep/4")
            assert watched.taken(watcher) == ({"a/kept/deep"}, set())
            (watched.source / "a/kept").rename(watched.source / "a/cache")
            watched.taken(watcher)
            watcher.read()
            fill(watched.source, "a/cache/deep/5")
            assert not is_readable(watcher)

    def test_markers_that_come_and_go(self, tmp_path):
        watched = Watched(tmp_path, exclude_caches=True, exclude_if_present=[".nobackup"])
        fill(watched.source, "a/b/1", "a/2")
        with watched.watching() as watcher:
            before = watcher.watching
            fill(watched.source, "a/.nobackup")
            assert watched.taken(watcher) == (set(), {"a"})
            assert watcher.watching == before - 1
            fill(watched.source, "a/b/3", "a/2")
            assert watched.taken(watcher) == (set(), set())
            (watched.source / "a/.nobackup").unlink()
            assert watched.taken(watcher) == (set(), {"a"})
            assert watcher.watching == before
            (watched.source / "a/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
            assert watched.taken(watcher) == (set(), {"a"})
            assert watcher.watching == before - 1
            fill(watched.source, "a/new/4")
            assert watched.taken(watcher) == ({"a"}, set())
            (watched.source / "a/CACHEDIR.TAG").write_text("nothing")
            assert watched.taken(watcher) == (set(), {"a"})
            assert watcher.watching == before + 1

    def test_its_own_files_don_t_make_a_source_dirty(self, tmp_path):
        watched = Watched(tmp_path)
        watched.site.configure(source_dirs=[str(tmp_path)])
        watched.site.backup()
        with watched.watching() as watcher:
            watched.site.backup()
            assert watched.taken(watcher) == (set(), set())
            # Not even when they are made for the first time.
            watched.site.forget_state()
            watched.site.state.mkdir()
            watched.taken(watcher)
            watched.site.backup()
            assert [path for path in watcher.take().directories if b"spool" in path or b"store" in path] == []


class TestFilesAsSources:
    def test_they_are_dirty_however_they_change(self, tmp_path):
        watched = Watched(tmp_path)
        fill(tmp_path, "etc/fstab", "etc/hosts", "etc/other", "etc/sub/x")
        watched.site.configure(source_dirs=[str(tmp_path / f"etc/{name}") for name in ("fstab", "hosts", "sub")])
        with watched.watching() as watcher:
            fill(tmp_path, "etc/other", "etc/new")
            assert not watcher.take()
            fstab = os.fsencode(tmp_path / "etc/fstab")
            (tmp_path / "etc/fstab").write_text("more")
            assert watcher.take() == Changes(frozenset([fstab]))
            fill(tmp_path, "etc/fstab.new")
            (tmp_path / "etc/fstab.new").rename(tmp_path / "etc/fstab")
            watcher.read()
            assert watcher.dirty == 1
            watcher.take()
            (tmp_path / "etc/fstab").chmod(0o600)
            fill(tmp_path, "etc/sub/y")
            assert watcher.take().directories == {fstab, os.fsencode(tmp_path / "etc/sub")}


def test_the_whole_machine_as_source(tmp_path):
    watched = Watched(tmp_path)
    fill(watched.source, "a/1")
    way = [*reversed(watched.source.parents)][1:]
    excludes = [pattern for at in way for pattern in (f"{at.parent}/*".replace("//", "/"), f"!{at}")]
    watched.site.configure(source_dirs=["/"], exclude=[*excludes, f"{tmp_path}/*", f"!{watched.source}"])
    with watched.watching() as watcher:
        fill(watched.source, "a/2", "b/3")
        changes = watcher.take()
        assert {os.fsencode(watched.source / "a"), os.fsencode(watched.source)} <= changes.directories
        assert changes.trees == {os.fsencode(watched.source / "b")}
        assert watcher.watching < 20


class TestGivenBack:
    def test_what_a_failed_run_should_have_seen_is_dirty_still(self, watched):
        fill(watched.source, "a/1", "b/2")
        with watched.watching() as watcher:
            fill(watched.source, "a/2", "t/1")
            changes = watcher.take()
            fill(watched.source, "b/3")
            watcher.give_back(changes)
            watcher.read()
            assert watcher.dirty == 4
            assert watched.taken(watcher) == ({".", "a", "b"}, {"t"})
            assert watched.taken(watcher) == (set(), set())

    def test_a_full_scan_that_failed_is_needed_still(self, watched):
        with watched.watching() as watcher:
            watcher.give_back(None)
            assert watcher.doubt is not None
            assert watcher.take() is None
            assert watched.taken(watcher) == (set(), set())
        assert watched.notes == []


def run_with_own_limits(watched, script):
    """Run a script in a user namespace, whose limits are its own to set; the machine's stay what they are."""
    begin = (
        "import os, sys; from pathlib import Path\n"
        "from tests.unit.test_watch import Watched, fill, is_readable\n"
        "from vaultik.config import load_config; from vaultik.daemon.watch import Watcher\n"
        "limits = Path('/proc/sys/user'); watched = Watched(Path(sys.argv[1]))\n"
        "config = load_config(watched.site.config)\n"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-W", "error", "-c", begin + script, watched.tmp],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


class TestDoubt:
    def _expect(self, watched, watcher, *words):
        """It says so once, everything is scanned, and then it knows again."""
        assert watcher.doubt is not None
        assert watcher.take() is None
        (note,) = watched.notes
        for word in ("everything will be scanned", *words):
            assert word in note
        fill(watched.source, "after/it/1")
        assert "after" in watched.taken(watcher)[1]
        fill(watched.source, "after/it/2")
        assert watched.taken(watcher) == ({"after/it"}, set())
        assert len(watched.notes) == 1

    def test_more_events_than_the_kernel_holds(self, watched):
        fill(watched.source, "a/1", "b/2")
        queue = int((LIMITS / "max_queued_events").read_text())
        with watched.watching() as watcher:
            one, two = (os.open(watched.source / name, os.O_WRONLY) for name in ("a/1", "b/2"))
            for _ in range(queue // 2 + 100):
                os.pwrite(one, b"x", 0)
                os.pwrite(two, b"x", 0)
            os.close(one)
            os.close(two)
            # Not seen by anybody.
            fill(watched.source, "missed/it/1")
            watcher.read()
            self._expect(watched, watcher, f"sysctl fs.inotify.max_queued_events={4 * queue}")
            fill(watched.source, "missed/it/2")
            assert watched.taken(watcher) == ({"missed/it"}, set())

    def test_too_few_watches(self, watched):
        fill(watched.source, *(f"{number}/x/1" for number in range(40)))
        run_with_own_limits(
            watched,
            "allowed = limits / 'max_inotify_watches'; allowed.write_text('30')\n"
            "needed = 81 + len(watched.source.parents)\n"
            "watcher = Watcher(config, note=watched.notes.append); watcher.start()\n"
            "(note,) = watched.notes\n"
            "assert f'the {needed} directories can\\'t all be watched, all programs of this user may watch 30' in note, note\n"
            "assert 'sysctl user.max_inotify_watches=256' in note, note\n"
            # What it can't use is left to others.
            "assert watcher.watching == 0\n"
            "for _ in range(3):\n"
            "    assert watcher.take() is None and watcher.doubt is not None\n"
            "assert not is_readable(watcher) and len(watched.notes) == 1\n"
            "allowed.write_text('256')\n"
            "assert watcher.take() is None and watcher.watching == needed\n"
            "fill(watched.source, '7/x/2')\n"
            "assert watched.taken(watcher) == ({'7/x'}, set())\n"
            # And once more, by what appears.
            "allowed.write_text('30')\n"
            "fill(watched.source, 'new/1')\n"
            "assert watcher.take() is None and len(watched.notes) == 2, watched.notes\n"
            "watcher.close(); print('done')\n",
        )

    def test_too_many_instances(self, watched):
        run_with_own_limits(
            watched,
            "allowed = limits / 'max_inotify_instances'; allowed.write_text('0')\n"
            "watcher = Watcher(config, note=watched.notes.append); watcher.start()\n"
            "assert watcher.take() is None\n"
            "watcher.read()\n"
            "assert not is_readable(watcher) and watcher.watching == 0\n"
            "(note,) = watched.notes\n"
            "assert 'sysctl user.max_inotify_instances=128' in note, note\n"
            "allowed.write_text('128')\n"
            "assert watcher.take() is None\n"
            "fill(watched.source, 'a/1')\n"
            "assert watched.taken(watcher) == ({'.'}, {'a'})\n"
            "assert not is_readable(watcher)\n"
            "watcher.close(); print('done')\n",
        )

    @pytest.mark.parametrize("how", ["renamed", "removed", "parent renamed"])
    def test_a_source_that_is_replaced(self, tmp_path, how):
        watched = Watched(tmp_path)
        source = tmp_path / "srv/data"
        watched.site.source = source
        watched.site.configure(source_dirs=[str(source)])
        fill(source, "a/1")
        with watched.watching() as watcher:
            if how == "renamed":
                source.rename(tmp_path / "old")
            elif how == "removed":
                shutil.rmtree(source)
            else:
                source.parent.rename(tmp_path / "old")
            fill(source, "a/1", "b/2")
            watcher.read()
            self._expect(watched, watcher, "srv")

    def test_a_source_that_is_not_there_yet(self, watched):
        watched.source.rmdir()
        with closing(Watcher(load_config(watched.site.config), note=watched.notes.append)) as watcher:
            watcher.start()
            for _ in range(3):
                assert watcher.take() is None
                watcher.give_back(None)
            fill(watched.source, "a/1")
            self._expect(watched, watcher, "No such file or directory", str(watched.source))

    def test_a_source_that_is_a_symlink(self, watched):
        watched.source.rename(watched.tmp / "real")
        watched.source.symlink_to("real")
        with closing(Watcher(load_config(watched.site.config), note=watched.notes.append)) as watcher:
            watcher.start()
            assert watcher.take() is None
            assert watcher.doubt is not None
            assert "symbolic link" in watched.notes[0]


@ROOT_ONLY
class TestMounts:
    @contextmanager
    def _mounted(self, where, *options):
        subprocess.run(["mount", *(options or ("-t", "tmpfs", "none")), where], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", where], check=False, stderr=subprocess.DEVNULL)

    def test_one_that_comes_and_goes_below_a_source_is_a_tree(self, watched):
        fill(watched.source, "a/m/hidden/1", "b/2")
        with watched.watching() as watcher:
            with self._mounted(watched.source / "a/m"):
                fill(watched.source, "a/m/x/1")
                assert watched.taken(watcher) == ({"a"}, {"a/m"})
                fill(watched.source, "a/m/x/2")
                assert watched.taken(watcher) == ({"a/m/x"}, set())
                # An open directory of ours would not let it go.
                subprocess.run(["umount", watched.source / "a/m"], check=True)
                assert watched.taken(watcher) == ({"a"}, {"a/m"})
            fill(watched.source, "a/m/hidden/3")
            assert watched.taken(watcher) == ({"a/m/hidden"}, set())

    def test_another_file_system_is_not_watched_where_it_is_not_backed_up(self, tmp_path):
        watched = Watched(tmp_path, one_file_system=True)
        fill(watched.source, "m/1")
        with watched.watching() as watcher, self._mounted(watched.source / "m"):
            assert watched.taken(watcher) == ({"."}, set())
            watcher.read()
            fill(watched.source, "m/x/1")
            assert not is_readable(watcher)

    def test_the_kernels_own_are_not_watched(self, watched):
        (watched.source / "proc").mkdir()
        with self._mounted(watched.source / "proc", "-t", "proc", "none"), watched.watching() as watcher:
            assert watcher.watching == 1 + len(watched.source.parents)

    def test_nor_are_those_that_are_mounted_later(self, watched):
        (watched.source / "proc").mkdir()
        with watched.watching() as watcher, self._mounted(watched.source / "proc", "-t", "proc", "none"):
            assert watched.taken(watcher) == ({"."}, set())
            assert watcher.watching == 1 + len(watched.source.parents)

    def test_nor_are_those_that_get_the_number_of_a_device_that_went(self, watched):
        (watched.source / "proc").mkdir()
        (watched.tmp / "other").mkdir()
        with ExitStack() as stack:
            with self._mounted(watched.tmp / "other"):
                watcher = stack.enter_context(watched.watching())
            stack.enter_context(self._mounted(watched.source / "proc", "-t", "proc", "none"))
            assert watched.taken(watcher) == ({"."}, set())

    @pytest.mark.parametrize("after", [False, True])
    def test_a_source_that_is_mounted_over_or_unmounted(self, watched, after):
        fill(watched.source, "a/1")
        with self._mounted(watched.source) if not after else closing(self._nothing()):
            fill(watched.source, "b/2")
            with watched.watching() as watcher:
                if after:
                    subprocess.run(["mount", "-t", "tmpfs", "none", watched.source], check=True)
                else:
                    subprocess.run(["umount", watched.source], check=True)
                try:
                    assert watcher.take() is None
                    (note,) = watched.notes
                    assert str(watched.source) in note
                    fill(watched.source, "c/3")
                    assert watched.taken(watcher) == ({"."}, {"c"})
                finally:
                    if after:
                        subprocess.run(["umount", watched.source], check=True)

    def _nothing(self):
        return type("Nothing", (), {"close": lambda _self: None})()

    def test_a_bind_mount_of_what_it_lies_in_is_no_endless_tree(self, watched):
        fill(watched.source, "a/b/1")
        with self._mounted(watched.source / "a/b", "--bind", watched.source), watched.watching() as watcher:
            assert watcher.watching == 2 + len(watched.source.parents)


def test_mount_points_are_read_with_their_escapes():
    text = (
        b"22 1 0:20 / / rw - ext4 /dev/a rw\n"
        b"23 22 0:21 /x /with\\040space\\012line rw - tmpfs none rw\n"
        b"24 23 0:22 / /with\\040space\\012line rw - tmpfs none rw\n"
    )
    assert parse_mount_points(text) == {
        b"/": (b"22 0:20 /",),
        b"/with space\nline": (b"23 0:21 /x", b"24 0:22 /"),
    }


def test_what_a_limit_is_raised_to_leaves_room():
    allowed = int((LIMITS / "max_user_watches").read_text())
    for needed in (10, 1_000_000):
        fitting = int(limits.too_few_watches(needed).rpartition("=")[2])
        assert fitting > 1.5 * max(needed, allowed)
        assert fitting & (fitting - 1) == 0


def test_a_closed_watcher_leaves_nothing_open(watched):
    fill(watched.source, "a/1")
    with watched.watching():
        pass
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with watched.watching() as watcher:
            fill(watched.source, "a/b/2")
            watcher.start()
    assert set(os.listdir("/proc/self/fd")) == before


def test_it_costs_nothing_while_nothing_happens(watched):
    """A process that waits for it is not woken."""
    fill(watched.source, *(f"{number}/1" for number in range(50)))
    with watched.watching() as watcher:
        before = time.process_time()
        poll = select.poll()
        poll.register(watcher.fileno(), select.POLLIN)
        assert poll.poll(300) == []
        assert time.process_time() - before < 0.1
