"""A scan that is told what changed: what it looks at, what it takes from the index, and that both come to the same."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from tests.support.bad_disk import unlookable
from tests.support.older import make_older
from tests.support.run import Run
from tests.support.site import NO_RIGHTS, Site
from tests.support.snapshots import differences, dump
from tests.support.tree import backdate
from vaultik.backup.changes import Changes
from vaultik.config import load_config
from vaultik.errors import SourceError
from vaultik.index import db, entries, runs
from vaultik.tasks.run import run_backup

EVERYTHING = "everything is scanned: "


class Pair:
    """One tree, and two hosts that back it up: one is told what changed, the other looks at everything."""

    def __init__(self, tmp, **settings):
        self.tree = tmp / "tree"
        self.source = self.tree / "source"
        self.source.mkdir(parents=True)
        sources = [str(self.source)]
        for name in ("told", "other"):
            (tmp / name).mkdir()
        self.told = Site(tmp / "told", **{"source_dirs": sources, **settings})
        self.other = Site(tmp / "other", **{"source_dirs": sources, **settings})

    def configure(self, **settings):
        self.told.configure(**settings)
        self.other.configure(**settings)

    def begin(self, *, age=True):
        """The full scan that everything else builds on."""
        if age:
            backdate(self.source)
            time.sleep(0.2)  # beyond the clock's tick, in which another change would not show
        Run(self.told).all()
        Run(self.other).all()

    def changes(self, *directories, trees=()):
        return Changes(
            frozenset(os.fsencode(self.source / name) for name in directories),
            frozenset(os.fsencode(self.source / name) for name in trees),
        )

    def run(self, *directories, trees=()):
        """A run that is told, and the proof that it came to what a full scan comes to. Returns it."""
        run = Run(self.told, self.changes(*directories, trees=trees))
        row = run.all()
        Run(self.other).all()
        assert not differences(dump(self.told), dump(self.other))
        return run, row

    def told_only(self, *directories, trees=()):
        """As `run`, and it did as it was told."""
        run, row = self.run(*directories, trees=trees)
        assert not row.full, run.notices
        return row

    def doubtful(self, *directories, trees=()):
        """As `run`, but it looked at everything. Returns why."""
        run, row = self.run(*directories, trees=trees)
        assert row.full
        (notice,) = [text for text in run.notices if text.startswith(EVERYTHING)]
        return notice.removeprefix(EVERYTHING)


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_it_looks_at_what_it_is_told_and_takes_the_rest_from_the_index(pair):
    fill(pair.source, "a/1", "a/2", "b/1", "b/deep/1", "c/1")
    pair.begin()
    (pair.source / "a/1").write_text("changed")
    (pair.source / "b/deep/1").write_text("changed, and nobody says so")
    run = Run(pair.told, pair.changes("a"))
    row = run.all()
    assert not row.full
    # The way to the source, the source, a; and what is in a.
    assert row.counts["files"] == 2
    assert row.counts["files_read"] == 1
    told = dump(pair.told)
    assert told[os.fsencode(pair.source / "b/deep/1")][6] == len("b/deep/1")
    # The next one that is told of everything above it sees it; a/1 was young and is read again.
    assert pair.told_only(trees=["b"]).counts["files_read"] == 2


def test_nothing_changed_and_nothing_is_looked_at(pair):
    fill(pair.source, "a/1", "b/1")
    pair.begin()
    assert pair.told_only().counts["files"] == 0


def test_changes_of_every_kind_in_a_directory(pair):
    fill(pair.source, "a/gone", "a/written", "a/renamed", "a/mode", "a/becomes directory", "a/dir/x", "a/old/y/z")
    (pair.source / "a/link").symlink_to("one")
    pair.begin()
    at = pair.source / "a"
    (at / "gone").unlink()
    (at / "written").write_text("other")
    (at / "renamed").rename(at / "new name")
    (at / "mode").chmod(0o600)
    os.setxattr(at / "mode", "user.note", b"x")
    (at / "becomes directory").unlink()
    fill(at, "becomes directory/in/it", "new/with/much/below", "fresh")
    shutil.rmtree(at / "dir")
    (at / "dir").write_text("a file now")
    shutil.rmtree(at / "old")
    (at / "link").unlink()
    (at / "link").symlink_to("two")
    pair.told_only("a")


def test_a_directorys_own_attributes_are_looked_at_without_its_parent(pair):
    fill(pair.source, "a/b/1", "a/2")
    pair.begin()
    (pair.source / "a/b").chmod(0o711)
    row = pair.told_only("a/b")
    assert row.counts["files"] == 1
    pair.source.chmod(0o711)
    pair.told_only("")


def test_a_whole_tree_that_went_takes_all_its_entries_with_it(pair):
    fill(pair.source, "a/deep/er/1", "a/deep/2", "keep")
    pair.begin()
    shutil.rmtree(pair.source / "a/deep")
    assert pair.told_only("a").counts["removed"] == 4
    shutil.rmtree(pair.source / "a")
    # What vanished may be named as well, and what was in it.
    fill(pair.source, "b/x")
    pair.told_only("", "a", "a/deep/er", "b")


def test_a_new_directory_is_looked_at_with_all_below_it_named_or_not(pair):
    fill(pair.source, "old")
    pair.begin()
    fill(pair.source, "new/one/two/three", "new/four", "more/five")
    pair.told_only("")
    fill(pair.source, "later/one/two", "again/x")
    # Named alone, it is found in the directory that it appeared in.
    pair.told_only("later/one", trees=["later", "again"])


def test_a_tree_that_came_from_elsewhere_under_a_known_name(pair):
    fill(pair.source, "a/1", "a/b/2", "c/1", "c/b/3")
    pair.begin()
    (pair.source / "a").rename(pair.source / "x")
    (pair.source / "c").rename(pair.source / "a")
    (pair.source / "x").rename(pair.source / "c")
    # The parent alone is enough: it is another directory than the index knows.
    pair.told_only("")
    shutil.rmtree(pair.source / "a")
    fill(pair.source, "a/1", "a/b/2")
    pair.told_only("", trees=["a"])


def test_a_tree_is_compared_with_everything_below(pair):
    fill(pair.source, "a/b/c/1", "a/b/2", "d/1")
    pair.begin()
    fill(pair.source, "a/b/c/1", "a/b/new/3")
    (pair.source / "a/b/2").unlink()
    pair.told_only(trees=["a"])


@pytest.mark.parametrize("where", ["", "marked"])
def test_a_marker_that_appears_or_goes_changes_all_below_it(tmp_path, where):
    pair = Pair(tmp_path, exclude_caches=True, exclude_if_present=[".nobackup"], exclude=["*.TAG", "*.tmp"])
    fill(pair.source, "marked/a/1", "marked/2", "marked/x.tmp", "other/1")
    pair.begin()
    marker = pair.source / "marked/.nobackup"
    marker.write_text("")
    assert pair.told_only(where, "marked").counts["removed"] == 3
    marker.unlink()
    tag = pair.source / "marked/CACHEDIR.TAG"
    tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    pair.told_only("marked")
    # The tag is kept although a pattern leaves it out, and is read again, having been young.
    pair.told_only()
    tag.write_text("no signature")
    pair.told_only("marked", trees=["marked/a"])


def test_a_flag_that_keeps_out_comes_and_goes(tmp_path):
    pair = Pair(tmp_path, exclude_nodump=True)
    fill(pair.source, "a/1", "a/b/2", "a/b/c/3", "d")
    pair.begin()
    for change, path in (("+d", "a/b"), ("+d", "d"), ("-d", "a/b"), ("+d", "a/1"), ("-d", "d"), ("-d", "a/1")):
        if subprocess.run(["chattr", change, pair.source / path], check=False, capture_output=True).returncode:
            pytest.skip("NO FLAGS: this file system has none")
        pair.told_only(os.path.dirname(path))
    subprocess.run(["chattr", "+d", pair.source / "a/b"], check=True)
    pair.told_only("a")
    # No event tells of a flag, so what is in there is watched: it begins no full scan, and once the flag is gone it is found.
    fill(pair.source, "a/b/c/4", "a/b/c/e/5")
    pair.told_only("a/b/c", trees=["a/b/c/e"])
    subprocess.run(["chattr", "-d", pair.source / "a/b"], check=True)
    fill(pair.source, "a/b/c/6")
    pair.told_only("a/b/c")


def test_excluded_names_stay_out(tmp_path):
    pair = Pair(tmp_path, exclude=["*.tmp", "build/"])
    fill(pair.source, "a/1", "a/build", "a/x.tmp")
    pair.begin()
    (pair.source / "a/build").unlink()
    fill(pair.source, "a/build/out", "a/y.tmp", "a/2")
    pair.told_only("a", trees=["a/build"])
    shutil.rmtree(pair.source / "a/build")
    (pair.source / "a/build").write_text("a file")
    pair.told_only("a", "a/build")


class TestLinks:
    def test_a_write_through_one_name_is_a_change_of_all(self, pair):
        fill(pair.source, "a/1", "c/2")
        (pair.source / "b").mkdir()
        os.link(pair.source / "a/1", pair.source / "b/1")
        os.link(pair.source / "a/1", pair.source / "c/1")
        pair.begin()
        (pair.source / "c/1").write_text("through another name")
        assert pair.told_only("c").counts["files_read"] == 1

    def test_a_name_more_or_less_is_a_change_of_all(self, pair):
        fill(pair.source, "a/1", "b/2", "c/3")
        pair.begin()
        os.link(pair.source / "a/1", pair.source / "b/1")
        pair.told_only("b")
        os.link(pair.source / "a/1", pair.source / "c/1")
        pair.told_only("c")
        (pair.source / "a/1").unlink()
        pair.told_only("a")
        (pair.source / "c/3").rename(pair.source / "c/1")
        pair.told_only("c")

    def test_they_follow_through_trees_that_come_and_go(self, pair):
        fill(pair.source, "a/d/1", "a/d/e/2", "b/3")
        pair.begin()
        subprocess.run(["cp", "-al", pair.source / "a/d", pair.source / "b/copy"], check=True)
        pair.told_only("b", trees=["b/copy"])
        (pair.source / "a/d/1").chmod(0o604)
        pair.told_only("a/d")
        shutil.rmtree(pair.source / "b/copy")
        pair.told_only("b")

    def test_a_link_of_any_type(self, pair):
        fill(pair.source, "a/1", "b/2")
        os.mkfifo(pair.source / "a/pipe")
        os.symlink("1", pair.source / "a/link")
        pair.begin()
        os.link(pair.source / "a/pipe", pair.source / "b/pipe")
        os.link(pair.source / "a/link", pair.source / "b/link", follow_symlinks=False)
        pair.told_only("b")
        os.chmod(pair.source / "b/pipe", 0o640)
        os.utime(pair.source / "b/link", ns=(1, 5), follow_symlinks=False)
        pair.told_only("b")
        (pair.source / "a/pipe").unlink()
        pair.told_only("a")

    def test_an_inode_with_a_name_elsewhere(self, pair):
        """A name out of sight counts, and is not looked for in vain for ever."""
        fill(pair.source, "a/1", "b/2")
        pair.begin()
        os.link(pair.source / "a/1", pair.tree / "outside")
        os.link(pair.source / "a/1", pair.source / "b/1")
        pair.told_only("b")
        (pair.tree / "outside").write_text("written out of sight")
        pair.told_only("a")

    def test_a_hard_linked_name_becomes_a_directory(self, pair):
        fill(pair.source, "a/1", "b/2")
        os.link(pair.source / "a/1", pair.source / "b/1")
        pair.begin()
        (pair.source / "b/1").unlink()
        fill(pair.source, "b/1/in it")
        pair.told_only("b")


class TestTriedAgain:
    def _gaps(self, pair):
        with closing(db.open_index(pair.told.index)) as index:
            return [os.path.basename(os.fsdecode(entries.path_of(index, gap))) for gap in entries.gaps(index)]

    def test_a_file_that_could_not_be_read(self, pair):
        fill(pair.source, "a/1", "b/2")
        pair.begin()
        (pair.source / "a/1").chmod(0)
        assert self._backup(pair, "a")["unreadable"] == 1
        assert self._backup(pair, "b")["unreadable"] == 1
        (pair.source / "a/1").chmod(0o600)
        assert self._backup(pair)["unreadable"] == 0
        assert dump(pair.told)[os.fsencode(pair.source / "a/1")][-2]

    def test_a_directory_that_could_not_be_listed(self, pair):
        fill(pair.source, "a/b/1", "a/b/c/2")
        pair.begin()
        (pair.source / "a").chmod(0o300)
        assert self._backup(pair, "a")["unreadable"] == 1
        assert self._backup(pair)["unreadable"] == 1
        (pair.source / "a").chmod(0o700)
        # Something in it changed while the index knows nothing of it.
        assert self._backup(pair, "a/b/c")["unreadable"] == 0
        pair.told_only()

    def test_a_name_that_can_not_be_looked_at_leaves_a_gap_until_it_can(self, pair, monkeypatch):
        fill(pair.source, "a/1", "a/sub/2", "b/3")
        pair.begin()
        for directories in (["a"], ["b"], [], ["a/sub"]):
            (pair.source / "b/3").write_text(str(directories))
            with unlookable(monkeypatch, b"1"):
                assert pair.told_only("b", *directories).exit_code == 3
            assert self._gaps(pair) == ["a"]
        (pair.source / "a").chmod(0o700)
        with unlookable(monkeypatch, b"1"):
            pair.told_only("a")
        assert self._gaps(pair) == ["a"]
        assert pair.told_only().exit_code == 0
        assert self._gaps(pair) == []

    def test_a_name_that_has_no_place_in_a_snapshot(self, pair):
        """With r and without x a directory gives its names, but nothing of what they are."""
        fill(pair.source, "dim/1", "b/2")
        pair.begin()
        (pair.source / "dim").chmod(0o400)
        first = self._backup(pair, "dim")
        assert first["unreadable"] == 1
        assert self._backup(pair, "b")["unreadable"] == 1
        (pair.source / "dim").chmod(0o700)
        assert self._backup(pair)["unreadable"] == 0
        pair.told_only()

    @pytest.mark.skipif(
        os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs root and FUSE to mount"
    )
    def test_a_name_of_which_nothing_can_be_told(self, pair):
        """As of a mount whose server is gone: the index has no row of it, and it is an error every time."""
        fill(pair.source, "a/1", "b/2")
        (pair.source / "a/dead").mkdir()
        pair.begin()
        end = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={end},rootmode=40000,user_id=0,group_id=0"
        mount = ["mount", "-i", "-t", "fuse", "none", pair.source / "a/dead", "-o", options]
        subprocess.run(mount, pass_fds=[end], check=True)
        os.close(end)
        try:
            assert pair.told_only("a").exit_code == 3
            assert pair.told_only("b").exit_code == 3
        finally:
            subprocess.run(["umount", "-l", pair.source / "a/dead"], check=True)
        assert pair.told_only().exit_code == 0

    def _backup(self, pair, *directories):
        """A run without any of root's rights."""
        code = (
            "import json, sys; from pathlib import Path; from vaultik.backup.changes import Changes\n"
            "from vaultik.config import load_config; from vaultik.tasks.run import run_backup\n"
            "paths = frozenset(bytes.fromhex(path) for path in sys.argv[2:])\n"
            "result = run_backup(load_config(Path(sys.argv[1])), host='here', changes=Changes(paths))\n"
            "print(json.dumps({'full': result.run.full, 'exit_code': result.run.exit_code,"
            " 'unreadable': [p.kind for p in result.problems].count('unreadable')}))\n"
        )
        paths = [path.hex() for path in pair.changes(*directories).directories]
        done = subprocess.run(
            [*NO_RIGHTS, *pair.told.command()[:1], "-c", code, pair.told.config, *paths],
            env=pair.told.environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        result = json.loads(done.stdout)
        assert not result["full"]
        assert result["exit_code"] == (3 if result["unreadable"] else 0)
        return result

    def test_a_young_file_is_read_again(self, pair):
        fill(pair.source, "a/1", "b/2")
        pair.begin(age=False)
        assert pair.told_only().counts["files_read"] == 2

    def test_what_an_interrupted_run_had_planned(self, pair):
        fill(pair.source, "a/1", "b/2")
        pair.begin()
        (pair.source / "a/1").write_text("changed")
        killed = Run(pair.told, pair.changes("a"))
        killed.session.scan()
        killed.session.close()
        row = pair.told_only("b")
        assert row.counts["files_read"] == 1


class TestDoubt:
    def test_an_index_without_a_full_scan(self, pair):
        fill(pair.source, "a/1")
        assert pair.doubtful("a") == "no full scan is complete yet"
        pair.told_only("a")

    def test_a_full_scan_that_did_not_end(self, pair):
        fill(pair.source, "a/1")
        pair.begin()
        killed = Run(pair.told)
        killed.session.scan()
        killed.session.close()
        # It was scanned to the end: only its reading is not done.
        pair.told_only("a")
        shutil.rmtree(pair.source)
        failed = Run(pair.told)
        with pytest.raises(SourceError):
            failed.session.scan()
        failed.session.close()
        fill(pair.source, "b/2")
        assert pair.doubtful("b") == "no full scan is complete yet"

    def test_other_settings_than_at_the_last_full_scan(self, pair):
        fill(pair.source, "a/1.tmp", "b/2")
        fill(pair.tree, "second/3")
        pair.begin()
        why = "what belongs into the backup is configured otherwise than at the last one"
        for settings in (
            {"exclude": ["*.tmp"]},
            {"source_dirs": [str(pair.source), str(pair.tree / "second")]},
            {"exclude_caches": True},
            {"exclude_if_present": [".nobackup"]},
            {"one_file_system": True},
            {"exclude_nodump": True},
            {"chunk_size": "64KiB"},
        ):
            pair.configure(**settings)
            assert pair.doubtful("b") == why
            pair.told_only("b")

    def test_a_path_that_is_in_no_source(self, pair):
        fill(pair.source, "a/1")
        pair.begin()
        assert pair.doubtful(pair.tree / "elsewhere") == "what changed does not lie below a source"

    def test_a_place_that_the_index_does_not_know(self, pair):
        fill(pair.source, "a/1")
        pair.begin()
        fill(pair.source, "new/deep/down/2")
        assert pair.doubtful("new/deep/down") == "something changed in a directory that the index does not know"

    def test_a_lost_index(self, pair):
        fill(pair.source, "a/1")
        pair.begin()
        pair.told.forget_state()
        assert pair.doubtful("a") == "no full scan is complete yet"

    def test_a_source_that_was_replaced_is_looked_at_with_all_in_it(self, pair):
        fill(pair.source, "a/1", "b/2")
        pair.begin()
        pair.source.rename(pair.tree / "before")
        fill(pair.source, "a/1", "c/3")
        pair.told_only()

    def test_a_source_that_is_gone_is_an_error(self, pair):
        fill(pair.source, "a/1")
        pair.begin()
        shutil.rmtree(pair.source)
        run = Run(pair.told, pair.changes("a"))
        with pytest.raises(SourceError):
            run.session.scan()
        run.session.close()


def test_vaultiks_own_files_below_a_source(tmp_path):
    """They come and go in directories that are backed up: a told run sees those as a full one does."""
    pair = Pair(tmp_path)
    fill(pair.source, "a/1")
    told, other = pair.source / "told", pair.source / "other"
    for site, home in ((pair.told, told), (pair.other, other)):
        site.state = home / "state"
        site.configure(index_path=str(site.state / "index.sqlite"), exclude=["/**/other/"])
    pair.begin()
    before = dump(pair.told)
    (pair.source / "a/1").write_text("changed")
    run = Run(pair.told, pair.changes("a"))
    assert not run.all().full
    seen = dump(pair.told)
    state = os.fsencode(told / "state")
    assert {path for path in seen if path.startswith(state)} == {state}
    changed = {path for path in seen if seen[path] != before[path]}
    assert changed - {os.fsencode(pair.source)} == {os.fsencode(pair.source / "a/1"), state}
    Run(pair.told).all()
    again = dump(pair.told)
    changed = {path for path in seen if seen[path] != again.get(path)}
    assert changed <= {state}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("stay", [True, False])
def test_what_is_mounted_and_unmounted(tmp_path, stay):
    pair = Pair(tmp_path, one_file_system=stay)
    fill(pair.source, "here/1", "mounted/hidden")
    pair.begin()
    subprocess.run(["mount", "-t", "tmpfs", "none", pair.source / "mounted"], check=True)
    try:
        fill(pair.source, "mounted/b/2")
        pair.told_only(trees=["mounted"])
        fill(pair.source, "mounted/b/3")
        if not stay:
            pair.told_only("mounted/b")
    finally:
        subprocess.run(["umount", pair.source / "mounted"], check=True)
    pair.told_only(trees=["mounted"])


def test_the_whole_machine_as_source(tmp_path):
    """All of it but for one tree is excluded; told of that, a run looks at nothing else."""
    pair = Pair(tmp_path)
    fill(pair.source, "a/1", "b/2")
    way = [*reversed(pair.source.parents)][1:]
    excludes = [pattern for at in way for pattern in (f"{at.parent}/*".replace("//", "/"), f"!{at}")]
    pair.configure(source_dirs=["/"], exclude=[*excludes, f"{pair.tree}/*", f"!{pair.source}"])
    pair.begin()
    (pair.source / "a/1").write_text("changed")
    run = Run(pair.told, pair.changes("a"))
    row = run.all()
    assert not row.full
    assert row.counts["files"] == 1
    Run(pair.other).all()
    ours, theirs = (
        {path: entry for path, entry in dump(site).items() if path.startswith(os.fsencode(pair.source))}
        for site in (pair.told, pair.other)
    )
    assert len(ours) == 5
    assert not differences(ours, theirs)
    assert not Run(pair.told, Changes(frozenset([b"/"]))).all().full


def test_a_file_as_source_is_always_looked_at(tmp_path):
    pair = Pair(tmp_path)
    fill(pair.tree, "alone")
    pair.configure(source_dirs=[str(pair.source), str(pair.tree / "alone")])
    pair.begin()
    (pair.tree / "alone").write_text("written")
    assert pair.told_only().counts["files_read"] == 1
    (pair.tree / "alone").unlink()
    (pair.tree / "alone").write_text("replaced")
    os.link(pair.tree / "alone", pair.source / "linked")
    pair.told_only(pair.tree / "alone", "")


def test_the_last_full_scan_is_remembered(pair):
    fill(pair.source, "a/1")
    config = load_config(pair.told.config)

    def last():
        with closing(db.open_index(config.index_path)) as index:
            return runs.last_full_scan(index)

    assert last() is None
    full = run_backup(config, host="here").run
    assert full.full
    assert last() == full.started
    told = run_backup(config, host="here", changes=pair.changes("a")).run
    assert not told.full
    assert last() == full.started
    with closing(sqlite3.connect(config.index_path)) as index, index:
        index.execute("UPDATE runs SET exit_code = NULL WHERE id = ?", (full.id,))
    assert last() is None


def test_an_index_of_before_tells_of_full_scans(pair):
    """Its runs looked at everything; but nobody knows with which settings."""
    fill(pair.source, "a/1")
    pair.begin()
    make_older(pair.told.index, 3)
    with closing(db.open_index(pair.told.index)) as index:
        assert runs.last_full_scan(index) is not None
    assert pair.doubtful("a") == "no full scan is complete yet"
