"""Random changes under a running watcher: a run that is told of them comes to what a full scan comes to."""

import os
import random
import select
import stat
import threading
from contextlib import closing

import pytest

from tests.support.mutate import Mutator
from tests.support.run import Run
from tests.support.site import Site
from tests.support.snapshots import differences, dump
from vaultik.backup.changes import Changes
from vaultik.backup.exclude import excludes_of
from vaultik.config import load_config
from vaultik.daemon.watch import Watcher
from vaultik.tasks.run import run_backup

MORE = int(os.environ.get("VAULTIK_HISTORIES", "0"))
HISTORIES = range(2 + MORE // 10)
RUNS = 14
LONGEST_BATCH = 25


class Watched:
    """A tree that a watcher watches and a host backs up as told; another host looks at everything each time."""

    def __init__(self, tmp):
        self.root = tmp / "tree/source"
        self.outside = tmp / "tree/outside"
        self.root.mkdir(parents=True)
        self.outside.mkdir()
        settings = {
            "source_dirs": [str(self.root)],
            "exclude": ["*.tmp", "/**/build/"],
            "exclude_caches": True,
            "exclude_if_present": [".nobackup"],
        }
        self.told, self.other = (self._site(tmp / name, settings) for name in ("told", "other"))
        self.notes = []
        self.config = load_config(self.told.config)
        self.watcher = Watcher(self.config, note=self.notes.append)
        self.watcher.start()
        assert self.watcher.take() is None

    def _site(self, home, settings):
        home.mkdir()
        return Site(home, **settings)

    def run(self, changes):
        row = Run(self.told, changes).all()
        assert row.full == (changes is None)

    def compare(self, log):
        Run(self.other).all()
        different = differences(dump(self.told), dump(self.other))
        assert not different, f"{different}\nafter {log}"

    def expected_directories(self):
        """The directories that have to be watched, walked without the watcher."""
        excludes = excludes_of(self.config)
        found, todo = set(), [os.fsencode(self.root)]
        while todo:
            at = todo.pop()
            found.add(at)
            fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
                tag = excludes.tag_of(fd, names)
            finally:
                os.close(fd)
            for name in names if tag is None else [tag]:
                st = os.lstat(at + b"/" + name)
                if stat.S_ISDIR(st.st_mode) and not (tag is None and excludes.excludes(at + b"/" + name, st)):
                    todo.append(at + b"/" + name)
        return found

    def watched_directories(self):
        found, todo = set(), [self.watcher._placer.tree.find_path(os.fsencode(self.root))]
        while todo:
            node = todo.pop()
            found.add(node.path())
            todo.extend(node.children())
        return found


@pytest.mark.parametrize("links", [True, False], ids=["links", "excludes"])
@pytest.mark.parametrize("seed", HISTORIES)
def test_a_told_run_and_a_full_scan_come_to_the_same(tmp_path, seed, links):
    world = Watched(tmp_path)
    mutator = Mutator(world.root, world.outside, seed, links=links)
    with closing(world.watcher):
        for _ in range(100):
            mutator.step()
        world.run(None)
        for _ in range(RUNS):
            mutator.begin()
            for _ in range(mutator.rng.randint(1, LONGEST_BATCH)):
                mutator.step()
                if mutator.rng.random() < 0.2:
                    world.watcher.read()
            changes = world.watcher.take()
            assert changes is not None, world.watcher.doubt
            assert world.watched_directories() == world.expected_directories(), mutator.log
            world.run(changes)
            world.compare(mutator.log)
        assert world.notes == []


@pytest.mark.parametrize("links", [True, False], ids=["links", "excludes"])
def test_what_changes_during_a_run_is_in_the_next(tmp_path, links):
    world = Watched(tmp_path)
    mutator = Mutator(world.root, world.outside, "during", links=links)
    stop = threading.Event()

    def mutate():
        while not stop.is_set():
            mutator.step()
            stop.wait(0.003)

    with closing(world.watcher):
        for _ in range(100):
            mutator.step()
        world.run(None)
        for _ in range(4 + MORE // 50):
            mutator.begin()
            stop.clear()
            thread = threading.Thread(target=mutate)
            thread.start()
            try:
                for _ in range(3):
                    changes = world.watcher.take()
                    assert changes is not None
                    world.run(changes)
            finally:
                stop.set()
                thread.join()
            changes = world.watcher.take()
            assert world.watched_directories() == world.expected_directories(), mutator.log
            world.run(changes)
            world.compare(mutator.log)


def test_real_runs_with_several_processes_leave_the_watcher_alone(tmp_path):
    """Workers are forked beside it; a progress thread takes the events, so that none are lost in a long run."""
    world = Watched(tmp_path)
    for site in (world.told, world.other):
        site.configure(chunk_size="64KiB", blob_size_limit="4MB")
    config = load_config(world.told.config)
    for number in range(3):
        (world.root / f"{number}").mkdir()
        (world.root / f"{number}/big").write_bytes(random.Random(number).randbytes(4_000_000))

    def watch(event):
        world.watcher.read()
        if "planned_bundles" in event:
            (world.root / "0/during").write_text("a run")

    with closing(world.watcher):
        world.watcher.take()
        full = run_backup(config, host="here", workers=2, watch=watch)
        assert full.run.full
        assert full.run.counts["blobs"] > 2
        changes = world.watcher.take()
        assert changes == Changes(frozenset([os.fsencode(world.root / "0")]))
        told = run_backup(config, host="here", changes=changes, workers=2, watch=watch).run
        assert not told.full
        world.watcher.read()
        assert world.watcher.dirty == 1
        run_backup(config, host="here", changes=world.watcher.take())
        world.compare("real runs")
        assert not world.watcher.take()
        # Nobody wakes for the watches of a worker that is gone.
        poll = select.poll()
        poll.register(world.watcher.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        assert world.notes == []
