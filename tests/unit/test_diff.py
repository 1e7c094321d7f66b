"""What two trees differ in: by rows made up for it."""

import sqlite3
from contextlib import ExitStack

import pytest

from tests.support.rows import copy_of
from vaultik.errors import SelectionError
from vaultik.look import snapshots
from vaultik.look.diff import compare_copies

FILES = {f"/d/{name}": name.encode() * 9 for name in ("one", "two", "three", "four")}


@pytest.fixture
def compare(tmp_path):
    with ExitStack() as stack:

        def compare(old, new, *paths):
            for name, tree in (("a", old), ("b", new)):
                with copy_of(tree, tmp_path / name):
                    pass
            difference = stack.enter_context(compare_copies(tmp_path, paths or (b"/",)))
            return [shown(change) for change in difference], difference.totals()

        yield compare


def shown(change):
    sides = [side.path.decode() for side in (change.old, change.new) if side is not None]
    where = sides[0] if len(set(sides)) == 1 else " -> ".join(sides)
    return " ".join([change.kind, where, *change.metadata])


def test_equal_trees_differ_in_nothing(compare):
    changes, totals = compare(FILES, FILES)
    assert changes == []
    assert {kind: tuple(total) for kind, total in totals.items()} == {"unchanged": (6, 135, 135)}


def test_each_kind(compare):
    link = {"type": "l", "link_target": b"there", "size": 5}
    same = {"data": b"same"}
    old = {
        "/gone": b"1234", "/content": b"old", "/longer": b"old", "/mode": same, "/owner": same, "/time": same, "/name": same,
        "/flags": {**same, "inode_flags": 16}, "/no flags": {**same, "inode_flags": None}, "/link": link, "/kind/below": b"x",
        "/device": {"type": "c", "rdev": 259}, "/folder/x": b"x", "/empty": b"",
    }  # fmt: skip
    new = {
        "/came": b"12345", "/content": b"new", "/longer": b"newer", "/mode": {**same, "mode": 0o600}, "/owner": {**same, "uid": 7},
        "/time": {**same, "mtime_ns": 5}, "/name": {**same, "user_name": "me"}, "/flags": {**same, "inode_flags": 0},
        "/no flags": {**same, "inode_flags": 16}, "/link": {**link, "link_target": b"where"}, "/kind": b"y",
        "/device": {"type": "c", "rdev": 260}, "/folder": {"type": "d", "mode": 0o700, "mtime_ns": 9}, "/folder/x": b"x",
        "/other empty": b"",
    }  # fmt: skip
    changes, totals = compare(old, new)
    assert changes == [
        "added /came", "changed /content", "changed /device", "removed /empty", "metadata /flags flags", "metadata /folder mode",
        "removed /gone", "type /kind mode", "removed /kind/below", "changed /link", "changed /longer", "metadata /mode mode",
        "metadata /name owner", "added /other empty", "metadata /owner owner", "metadata /time time",
    ]  # fmt: skip
    assert totals["changed"] == (4, 6, 8)
    assert totals["added"] == (2, 0, 5)
    assert totals["removed"] == (3, 5, 0)
    assert totals["unchanged"].entries == 3


def test_extended_attributes(tmp_path):
    with copy_of({"/f": b"x", "/g": b"x"}, tmp_path / "a") as a, copy_of({"/f": b"x", "/g": b"x"}, tmp_path / "b") as b:
        a.execute("INSERT INTO xattrs VALUES (2, x'61', x'01'), (3, x'61', x'01')")
        b.execute("INSERT INTO xattrs VALUES (2, x'61', x'02'), (3, x'61', x'01'), (3, x'62', x'01')")
    with compare_copies(tmp_path) as difference:
        assert [shown(change) for change in difference] == ["metadata /f xattrs", "metadata /g xattrs"]


def test_content_of_equal_size_in_other_chunks(tmp_path):
    """A hole in one is told from content in the other, whichever way round."""
    for name in ("a", "b"):
        with copy_of({"/f": b"12", "/g": b"12", "/h": b"34"}, tmp_path / name) as copy:
            copy.execute("UPDATE entries SET size = 9 WHERE type = 'f'")
            if name == "b":
                copy.execute("INSERT INTO entry_chunks VALUES (2, 5, 2)")
                copy.execute("UPDATE entry_chunks SET offset = 1 WHERE entry = 3")
    with compare_copies(tmp_path) as difference:
        assert [shown(change) for change in difference] == ["changed /f", "changed /g"]
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    (tmp_path / "diff").unlink()
    with compare_copies(tmp_path) as difference:
        assert [shown(change) for change in difference] == ["changed /f", "changed /g"]


class TestMoved:
    def test_a_file(self, compare):
        assert compare({"/a/f": b"data", "/b": None}, {"/a": None, "/b/g": b"data"})[0] == ["moved /a/f -> /b/g"]

    def test_a_file_with_other_metadata(self, compare):
        old, new = {"/f": b"data"}, {"/g": {"data": b"data", "mode": 0o600}}
        assert compare(old, new)[0] == ["moved /f -> /g mode"]

    def test_a_copy_is_no_move(self, compare):
        assert compare({"/f": b"data"}, {"/f": b"data", "/g": b"data"})[0] == ["added /g"]

    def test_empty_files_move_nowhere(self, compare):
        assert compare({"/f": b""}, {"/g": b""})[0] == ["removed /f", "added /g"]

    def test_equal_ones_by_their_names_first(self, compare):
        old = {"/a/x": b"same", "/a/y": b"same"}
        new = {"/a": None, "/b/y": b"same", "/c/z": b"same"}
        assert compare(old, new)[0] == ["added /b", "moved /a/y -> /b/y", "added /c", "moved /a/x -> /c/z"]

    def test_more_than_come_back(self, compare):
        old = {"/a/x": b"same", "/a/y": b"same", "/a/z": b"same"}
        new = {"/a": None, "/b": b"same"}
        assert compare(old, new)[0] == ["removed /a/y", "removed /a/z", "moved /a/x -> /b"]

    def test_directories_that_cannot_be_told_from_each_other(self, compare):
        old, new = {"/a/f": b"same", "/b/f": b"same"}, {"/x/f": b"same", "/y/f": b"same"}
        assert compare(old, new)[0] == [
            "removed /a", "removed /b", "added /x", "moved /a/f -> /x/f", "added /y", "moved /b/f -> /y/f",
        ]  # fmt: skip

    def test_a_directory_below_one_that_is_new(self, compare):
        old = {path.replace("/d/", "/old/x/"): data for path, data in FILES.items()}
        new = {path.replace("/d/", "/new/y/"): data for path, data in FILES.items()}
        assert compare(old, new)[0] == ["added /new", "moved /old/x -> /new/y", "removed /old"]

    def test_a_directory_is_told_once(self, compare):
        changes, totals = compare(FILES, {path.replace("/d/", "/new/"): data for path, data in FILES.items()})
        assert changes == ["moved /d -> /new"]
        assert totals["unchanged"].entries == 5

    def test_a_directory_in_which_something_changed(self, compare):
        new = {path.replace("/d/", "/deep/er/"): data for path, data in FILES.items()}
        del new["/deep/er/one"]
        new |= {
            "/deep/er/two": b"other data",
            "/deep/er/five": b"5",
            "/deep/er/three": {"data": FILES["/d/three"], "mode": 0},
        }
        assert compare(FILES, new)[0] == [
            "removed /d/one", "added /deep", "moved /d -> /deep/er", "added /deep/er/five",
            "metadata /d/three -> /deep/er/three mode", "changed /d/two -> /deep/er/two",
        ]  # fmt: skip

    def test_a_tree_of_directories(self, compare):
        tree = {f"/top/a/{n}/{path[3:]}": data + b"%d" % n for n in range(3) for path, data in FILES.items()}
        changes, _ = compare(tree, {path.replace("/top/", "/other/"): data for path, data in tree.items()})
        assert changes == ["moved /top -> /other"]

    def test_a_directory_that_was_torn_apart_did_not_move(self, compare):
        new = {f"/new{number}/{path[3:]}": data for number, (path, data) in enumerate(FILES.items())}
        changes, _ = compare(FILES, new)
        assert "removed /d" in changes
        assert sum(change.startswith("moved /d/") for change in changes) == 4

    def test_two_that_changed_places(self, compare):
        old = {"/a/x": b"xx", "/a/y": b"yy", "/b/z": b"zz"}
        new = {"/b/x": b"xx", "/b/y": b"yy", "/a/z": b"zz"}
        assert compare(old, new)[0] == ["moved /b/z -> /a/z", "moved /a/x -> /b/x", "moved /a/y -> /b/y"]


class TestAPath:
    def test_below_it_alone(self, compare):
        old, new = {**FILES, "/e/f": b"1"}, {**FILES, "/e/f": b"2", "/d/one": b"other"}
        assert compare(old, new, b"/e")[0] == ["changed /e/f"]

    def test_a_file(self, compare):
        old, new = {**FILES, "/e/f": b"1"}, {**FILES, "/e/f": b"2"}
        assert compare(old, new, b"/nowhere", b"/e/f")[0] == ["changed /e/f"]

    def test_one_that_only_one_has(self, compare):
        changes, totals = compare(FILES, {**FILES, "/e/f": b"1"}, b"/e")
        assert changes == ["added /e", "added /e/f"]
        assert totals["unchanged"] == (0, 0, 0)

    def test_one_that_none_has(self, compare):
        with pytest.raises(SelectionError, match="in neither snapshot"):
            compare(FILES, FILES, b"/e")


def test_hard_links_have_the_content_of_their_leader(tmp_path):
    for name, content in (("a", b"old"), ("b", b"new")):
        with copy_of({"/f": content, "/g": {"data": b"", "size": 3}}, tmp_path / name) as copy:
            copy.execute("UPDATE entries SET hardlink = 2 WHERE id IN (2, 3)")
    with compare_copies(tmp_path) as difference:
        assert [shown(change) for change in difference] == ["changed /f", "changed /g"]


def test_long_paths_by_the_thousand_fill_no_disk(tmp_path, monkeypatch):
    """Each of a few bytes in the snapshot, and of a megabyte when it is told."""
    deep = "/" + "/".join(["d" * 255] * 200)
    for name in ("a", "b"):
        with copy_of({deep: None}, tmp_path / name) as copy:
            if name == "b":
                (parent,) = copy.execute("SELECT max(id) FROM entries").fetchone()
                copy.execute(
                    "INSERT INTO entries WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
                    " SELECT 1000 + i, ?, CAST(i AS BLOB), 'f', 420, 0, 0, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0 FROM n",
                    (parent,),
                )
    monkeypatch.setattr(snapshots, "_FREE_BYTES", 1 << 20)
    with pytest.raises(sqlite3.OperationalError, match="full"), compare_copies(tmp_path):
        pass
    assert (tmp_path / "diff").stat().st_size < 8 << 20


def test_what_moved_to_where_another_that_moved_had_something_of_its_name(compare):
    kept = {f"g{n}": b"kept %d" % n for n in range(3)}
    cached = {f"s{n}": b"cached %d" % n for n in range(5)}
    old = {f"/project/{name}": data for name, data in kept.items()} | {"/project/build/log": b"of the old build"}
    old |= {f"/cache/{name}": data for name, data in cached.items()}
    new = {f"/rework/{name}": data for name, data in kept.items()} | {
        f"/rework/build/{name}": data for name, data in cached.items()
    }
    changes, _ = compare(old, new)
    assert changes == [
        "removed /project/build", "removed /project/build/log", "moved /project -> /rework", "moved /cache -> /rework/build",
    ]  # fmt: skip


def test_holes_that_are_more_than_a_number_of_sqlites(compare):
    huge = {"data": b"", "size": (1 << 63) - 1}
    _, totals = compare({"/a": huge, "/b": huge, "/c": huge, "/d": huge}, {"/c": huge, "/d": huge})
    assert totals["removed"].old_bytes == totals["unchanged"].new_bytes == 1 << 64
