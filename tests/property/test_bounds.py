"""What a writer may write a reader takes: the bounds on content, and the padding that keeps them."""

import dataclasses
import io
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultik.core import manifest
from vaultik.core.bounds import DB_BOUND, MANIFEST_BOUND, ContentBound
from vaultik.core.frames import decode_stream, encode_stream
from vaultik.core.padding import iter_padding, padded, padme

few = settings(max_examples=100, deadline=None)
SMALL = ContentBound(free=1000, ratio=200, largest=1 << 22)


def frames_of(pieces):
    """The lengths of skippable frames that pieces hold, and of all of them together."""
    frames, left, total = [], 0, 0
    for piece in pieces:
        total += len(piece)
        if left:
            # One look at each size: they are pieces of the same zeros.
            assert len(piece) == 1 << 20 or not any(piece)
            left -= len(piece)
            continue
        magic, left = struct.unpack("<II", piece)
        assert magic == 0x184D2A5D
        frames.append(8 + left)
    assert left == 0
    return frames, total


@few
@given(st.integers(0, 1 << 22), st.sampled_from([b"\0", b"ab", b"abcdefg"]))
def test_what_compresses_without_end_is_stored_so_that_it_is_taken(size, pattern):
    data = (pattern * size)[:size]
    stored = b"".join(padded(encode_stream(io.BytesIO(data), size, 3), SMALL.least_stored(size)))
    assert padme(len(stored)) == len(stored)
    assert b"".join(decode_stream(io.BytesIO(stored), size_limit=SMALL.most_content(len(stored)))) == data


@few
@given(st.integers(0, 1 << 40), st.sampled_from([DB_BOUND, MANIFEST_BOUND, SMALL]))
def test_the_two_sides_of_a_bound_agree(content, bound):
    content = min(content, bound.largest)
    least = bound.least_stored(content)
    assert bound.most_content(least) >= content
    assert least == 0 or bound.most_content(least - 1) < content
    assert bound.most_content(1 << 60) == bound.largest


@few
@given(st.integers(0, 10**5), st.integers(0, 3 * 10**6))
def test_padding_reaches_a_least_size(length, at_least):
    frames, total = frames_of(iter_padding(length, at_least))
    assert len(frames) <= 1
    assert padme(length + total) == length + total >= at_least


def test_padding_beyond_what_one_frame_holds_takes_several():
    # The target is a Padme size: one is chosen that leaves less than a frame's header behind the first.
    target = 1 << 33
    for gap in ((1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 32) + 7, (1 << 32) + 8):
        frames, total = frames_of(iter_padding(target - gap, target))
        assert total == gap == sum(frames)
        assert min(frames) >= 8


def test_as_many_blobs_as_are_planned_for_fit_whatever_else_there_is():
    name = "index/1a2b3c4d/20261123T081500Z-1f2e3d4c." + "cd" * 32 + ".sqlite.zst.age"
    facts = manifest.Manifest(
        format=1,
        source="s" * 1024,
        host="\U0001f600" * 1024,
        snapshot="20261123T081500Z-1f2e3d4c",
        previous=None,
        previous_manifest=None,
        complete=True,
        started=1.5,
        server_time=2.5,
        entries=(1 << 63) - 1,
        bytes=(1 << 63) - 1,
        dbs=((name, 5),),
        recipients=tuple("a" * 4096 for _ in range(1000)),
        blobs=tuple((f"{n:064x}", 32 * 10**9) for n in range(manifest.MOST_BLOBS)),
    )
    data = manifest.encode(facts)
    assert manifest.decode(data) == facts
    signed = data + (b"QUJD" * 10_000 + b"\n") * 100
    assert len(signed) < manifest.LARGEST
    assert dataclasses.replace(manifest.decode(signed), signatures=()) == facts
