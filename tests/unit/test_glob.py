"""Which entries fit a path with wildcards, and what somebody looks for."""

import pytest

from tests.support.rows import copy_of
from vaultik.errors import ConfigError, SelectionError
from vaultik.look.find import iter_fitting
from vaultik.look.glob import iter_glob
from vaultik.look.wanted import parse_wanted

TREE = {
    "/etc/fstab": b"first",
    "/etc/.hidden": b"h",
    "/etc/deep/er/app.conf": b"deep",
    "/etc/deep/app.conf": {"data": b"12345678", "mtime_ns": 1_600_000_000_000_000_000},
    "/home/a/photo.JPG": {"data": b"x" * 300_000},
    "/home/a/link": {"type": "l", "link_target": b"notes", "size": 5},
    "/home/a/pictures/sub/three": b"3",
    "/home/a/pictures/two": b"2",
    "/home/a/a/a/a": b"a",
    "/home/[x]": b"brackets",
    "/home/new\nline": b"n",
    b"/home/\xff\xfe": b"bytes",
    "/home/\N{GREEK SMALL LETTER ALPHA}": b"one letter",
}


@pytest.fixture(scope="module")
def copy():
    with copy_of(TREE) as copy:
        yield copy


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/", ["/"]),
        ("/*", ["/etc", "/home"]),
        ("/etc/*", ["/etc/.hidden", "/etc/deep", "/etc/fstab"]),
        ("//etc/./f*/", ["/etc/fstab"]),
        ("etc/[!f]*", ["/etc/.hidden", "/etc/deep"]),
        ("/**/*.conf", ["/etc/deep/app.conf", "/etc/deep/er/app.conf"]),
        ("/etc/**/er", ["/etc/deep/er"]),
        ("/etc/**/deep", ["/etc/deep"]),
        ("/etc/deep/**", ["/etc/deep", "/etc/deep/app.conf", "/etc/deep/er", "/etc/deep/er/app.conf"]),
        ("/etc/*/*/app.conf", ["/etc/deep/er/app.conf"]),
        ("/**/a/**/t*", ["/home/a/pictures/sub/three", "/home/a/pictures/two"]),
        ("/**/a/**/a", ["/home/a/a", "/home/a/a/a", "/home/a/a/a/a"]),
        ("/**/**/three", ["/home/a/pictures/sub/three"]),
        ("/home/[[]x]", ["/home/[x]"]),
        ("/home/new?line", ["/home/new\nline"]),
        (b"/home/?\xfe", [b"/home/\xff\xfe"]),
        ("/home/?", ["/home/a", "/home/\N{GREEK SMALL LETTER ALPHA}"]),
        ("/*/fstab/*", None),
        ("/nowhere/*", None),
        ("/*/photo.jpg", None),
    ],
)
def test_globs(copy, pattern, found):
    pattern = pattern if isinstance(pattern, bytes) else pattern.encode()
    if found is None:
        with pytest.raises(SelectionError, match="nothing in this snapshot fits"):
            list(iter_glob(copy, pattern))
        return
    assert [path for path, _ in iter_glob(copy, pattern)] == [
        path if isinstance(path, bytes) else path.encode() for path in found
    ]


def test_a_deep_tree_takes_little_memory_and_no_recursion():
    with copy_of({"/" + "/".join(["ddd"] * 3000) + "/bottom": b"x"}) as copy:
        ((path, _),) = iter_glob(copy, b"/**/bott*")
        assert len(path) > 12_000


NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("pattern", "options", "found"),
    [
        (b"*.jpg", {}, []),
        (b"*.jpg", {"ignore_case": True}, [b"/home/a/photo.JPG"]),
        (b"two", {}, [b"/home/a/pictures/two"]),
        (b"tw", {}, []),
        (b"^t(w|h)", {"is_regex": True}, [b"/home/a/pictures/sub/three", b"/home/a/pictures/two"]),
        (b"a|three", {"is_regex": True, "types": "l"}, []),
        (b"pictures/.*e$", {"is_regex": True, "whole_path": True}, [b"/home/a/pictures/sub/three"]),
        (b"/etc/*.conf", {}, [b"/etc/deep/app.conf", b"/etc/deep/er/app.conf"]),
        (b"*etc*", {"whole_path": True, "types": "d"}, [b"/etc", b"/etc/deep", b"/etc/deep/er"]),
        (b"/", {}, [b"/"]),
        (b"*", {"types": "l,p"}, [b"/home/a/link"]),
        (b"*", {"sizes": ["+8B"]}, [b"/etc/deep/app.conf", b"/home/[x]", b"/home/a/photo.JPG", b"/home/\xce\xb1"]),
        (b"*", {"sizes": ["+6", "-8B"]}, [b"/etc/deep/app.conf", b"/home/[x]"]),
        (b"*", {"sizes": ["4B"]}, [b"/etc/deep/er/app.conf"]),
        (b"*", {"newer": "2020-09-13T12:26:40"}, [b"/etc/deep/app.conf"]),
        (b"*", {"newer": "2020-09-13T13:26:40+01:00"}, [b"/etc/deep/app.conf"]),
        (b"*", {"newer": "2020-09-13T12:26:41"}, []),
        (b"*.conf", {"older": "2020-09-13T12:26:40"}, [b"/etc/deep/er/app.conf"]),
        (b"*.conf", {"newer": "2000d"}, [b"/etc/deep/app.conf"]),
        (b"*.conf", {"older": "2300-01-01"}, [b"/etc/deep/app.conf", b"/etc/deep/er/app.conf"]),
        (b"*.conf", {"newer": "0001-01-02"}, [b"/etc/deep/app.conf", b"/etc/deep/er/app.conf"]),
        (b"*", {"newer": "2300-01-01"}, []),
        (b"*", {"older": "999999999d"}, []),
        (b"*\xfe", {}, [b"/home/\xff\xfe"]),
    ],
)
def test_what_fits(copy, pattern, options, found):
    wanted = parse_wanted([pattern], now=NOW, **options)
    assert sorted(path for path, _ in iter_fitting(copy, wanted)) == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"is_regex": True}, "pattern '\\('"),
        ({"sizes": ["big"]}, "--size big: not a size"),
        ({"newer": "soon"}, "--newer soon: not a time"),
        ({"older": "2020-13-01"}, "--older 2020-13-01: not a time"),
        ({"types": "z"}, "--type z: not a type"),
        ({"types": ""}, "--type : not a type"),
    ],
)
def test_what_cannot_be_looked_for(options, words):
    with pytest.raises(ConfigError, match=words):
        parse_wanted([b"("], now=NOW, **options)


@pytest.mark.parametrize("pattern", [b"a{99999999999999999999}", b"(" * 3000])
def test_regular_expressions_beyond_what_python_takes(pattern):
    with pytest.raises(ConfigError, match="pattern"):
        parse_wanted([pattern], is_regex=True, now=NOW)
