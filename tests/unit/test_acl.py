"""ACLs with other ids: bytes that a stranger may have stored."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from vaultik.restore.acl import group_permissions, with_ids

USER, OWN_GROUP, GROUP, MASK = 2, 4, 8, 16


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_only_those_that_are_named_get_other_ids_and_they_stay_in_order():
    value = acl((1, 6, 7), (USER, 7, 7), (USER, 4, 9), (OWN_GROUP, 5, 7), (GROUP, 1, 7), (MASK, 7, 7), (32, 0, 7))
    wanted = acl((1, 6, 7), (USER, 4, 5), (USER, 7, 8), (OWN_GROUP, 5, 7), (GROUP, 1, 70), (MASK, 7, 7), (32, 0, 7))
    assert with_ids(value, {7: 8, 9: 5}.__getitem__, {7: 70}.__getitem__) == wanted
    assert group_permissions(value) == 5


def test_two_that_become_one_may_no_more_than_either():
    value = acl((USER, 6, 1), (USER, 3, 2), (OWN_GROUP, 6, 0), (MASK, 3, 0))
    assert with_ids(value, lambda _: 9, int) == acl((USER, 2, 9), (OWN_GROUP, 6, 0), (MASK, 3, 0))
    assert group_permissions(value) == 2


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_any_bytes_are_taken(value, number):
    for start in (b"", struct.pack("<I", 2)):
        assert with_ids(start + value, int, int) == start + value
        assert len(with_ids(start + value, lambda _: number, lambda _: number)) <= len(start + value)
        assert 0 <= group_permissions(start + value) <= 7
