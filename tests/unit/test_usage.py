"""What takes the space in a snapshot, by rows made up for it."""

from tests.support.rows import DEFAULTS, copy_of
from vaultik.look.usage import usage_of
from vaultik.snapshot.write import FORMAT

META = {"snapshot": "20261123T081500Z-1f2e3d4c", "host": "web", "server_time": 1e9, "complete": 1, "format": FORMAT}


def usage(tmp_path, tree, *statements, most=10):
    with copy_of(tree, tmp_path / "copy") as copy:
        copy.executemany("INSERT INTO meta VALUES (?, ?)", META.items())
        for statement in statements:
            copy.execute(statement)
    return usage_of(tmp_path / "copy", most)


TREE = {
    "/srv/data/big": b"b" * 5000,
    "/srv/data/sub/small": b"s" * 500,
    "/srv/data/sub/same": b"s" * 500,
    "/srv/other/x": b"x" * 1500,
    "/etc/conf": b"c" * 100,
    "/etc/link": {"type": "l", "link_target": b"conf", "size": 4},
    "/empty": None,
}


def test_totals(tmp_path):
    found = usage(tmp_path, TREE)
    assert found.types == {"d": 7, "f": 5, "l": 1}
    assert (found.size, found.content, found.different) == (7600, 7600, 7100)
    # Four frames of 50 bytes each, in a blob of 1,000,000.
    assert (found.frames, found.blobs, found.stored) == (200, 1, 1_000_000)


def test_directories_are_told_with_what_is_below_them_unless_one_below_is_most_of_it(tmp_path):
    found = usage(tmp_path, TREE)
    assert [(one.path, one.size, one.files) for one in found.directories] == [
        ("/srv", 7500, 4), ("/srv/data", 6000, 3), ("/srv/other", 1500, 1), ("/srv/data/sub", 1000, 2), ("/etc", 100, 1),
    ]  # fmt: skip
    # The chunk that two files share counts for each.
    assert {one.path: one.stored for one in found.directories}["/srv/data"] == 150
    assert [one.path for one in usage(tmp_path / "..", {"/a/b/c/d": b"x"}).directories] == ["/a/b/c"]


def test_files(tmp_path):
    found = usage(tmp_path, TREE, most=2)
    assert [(one.path, one.size, one.stored) for one in found.files] == [
        ("/srv/data/big", 5000, 50),
        ("/srv/other/x", 1500, 50),
    ]
    assert len(found.directories) == 2


def test_frames_that_files_share_are_divided(tmp_path):
    found = usage(tmp_path, {"/a": b"a" * 900, "/b": b"b" * 100}, "UPDATE chunks SET frame_offset = 0")
    assert [(one.path, one.stored) for one in found.files] == [("/a", 45), ("/b", 5)]
    assert found.frames == 50


def test_names_of_a_hard_link_count_once_and_holes_are_told(tmp_path):
    columns = {"data": b"", "size": 3000}
    found = usage(
        tmp_path, {"/a": {"data": b"a" * 1000, "size": 3000}, "/b": columns},
        "UPDATE entries SET size = 3000, hardlink = 2 WHERE id IN (2, 3)",
    )  # fmt: skip
    assert (found.size, found.content) == (3000, 1000)
    assert [(one.path, one.files) for one in found.directories] == [("/", 1)]
    assert [one.path for one in found.files] == ["/a"]


def test_an_empty_snapshot(tmp_path):
    found = usage(tmp_path, {})
    assert (found.size, found.content, found.different, found.frames, found.blobs, found.stored) == (0, 0, 0, 0, 0, 0)
    assert found.directories == found.files == []


def test_names_are_safe_to_show(tmp_path):
    assert DEFAULTS["size"] == 0
    (one,) = usage(tmp_path, {b"/\x1b[31m": b"x"}).files
    assert one.path == "/\\x1b[31m"


def test_holes_that_are_more_than_a_number_of_sqlites(tmp_path):
    huge = {"data": b"", "size": (1 << 63) - 1}
    found = usage(tmp_path, {"/d/a": huge, "/d/b": huge})
    assert found.size == 1 << 64
