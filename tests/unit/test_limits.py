"""The format's limits as the scan holds them, also those that only a foreign file system exceeds."""

import os
import stat

import pytest

from vaultik.backup.limits import check_entry, check_link
from vaultik.snapshot.rules import DEEPEST, LONGEST_LINK, LONGEST_NAME


def stat_of(kind, size=0):
    return os.stat_result((kind | 0o644, 1, 1, 1, 0, 0, size, 0, 0, 0))


@pytest.mark.parametrize(
    ("name", "kind", "size", "depth", "fits"),
    [
        (b"n" * LONGEST_NAME, stat.S_IFREG, (1 << 63) - 1, 5000, True),
        (b"n" * (LONGEST_NAME + 1), stat.S_IFREG, 0, 1, False),
        (b"n", stat.S_IFREG, -1, 1, False),
        (b"n", stat.S_IFDIR, 0, DEEPEST, True),
        (b"n", stat.S_IFDIR, 0, DEEPEST + 1, False),
        (b"n", stat.S_IFLNK, 0, DEEPEST + 1, True),
    ],
)
def test_an_entry_that_no_snapshot_can_hold(name, kind, size, depth, fits):
    if fits:
        check_entry(name, stat_of(kind, size), depth)
    else:
        with pytest.raises(OSError, match=r"."):
            check_entry(name, stat_of(kind, size), depth)


def test_a_link_that_no_snapshot_can_hold():
    check_link(b"t")
    check_link(b"t" * LONGEST_LINK)
    for target in (b"", b"t" * (LONGEST_LINK + 1)):
        with pytest.raises(OSError, match="target"):
            check_link(target)
