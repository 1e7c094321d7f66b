"""No reader of an age file releases a byte that isn't authenticated: a file damaged, cut, lengthened, in another order.

What comes out of the stream is the plaintext's beginning, in whole segments up to the damage; of ranges,
those that touch no damaged segment.
"""

import io
from functools import partial

import pytest

from vaultik.core.age import NONCE, SEGMENT, TAG
from vaultik.core.age_seal import seal
from vaultik.core.age_stream import RangeOpener, SegmentStream, open_stream
from vaultik.core.identity import generate, parse_identities
from vaultik.errors import AuthenticationError

STORED = SEGMENT + TAG
SIZE = 18 * SEGMENT + 1000
"""More than are opened at a time, and a last one that isn't full."""
COUNT = 19
IDENTITY, RECIPIENT = generate()
IDENTITIES = parse_identities(IDENTITY)
PLAIN = b"".join(bytes([65 + number]) * SEGMENT for number in range(COUNT))[:SIZE]
READS = (-1, 1000, SEGMENT, SEGMENT + 1)


def sealed():
    out = io.BytesIO()
    facts = seal([PLAIN], out, [RECIPIENT])
    payload = out.getvalue()[facts.header_length + NONCE :]
    return out.getvalue()[: facts.header_length + NONCE], [
        payload[at : at + STORED] for at in range(0, len(payload), STORED)
    ]


START, SEGMENTS = sealed()


def flipped(segment, at):
    return segment[:at] + bytes([segment[at] ^ 1]) + segment[at + 1 :]


def streamed(segments, size):
    """What the stream releases, and whether it says that this is all."""
    stream, parts = open_stream(io.BytesIO(START + b"".join(segments)), IDENTITIES), []
    try:
        while part := stream.read(size):
            parts.append(part)
    except AuthenticationError:
        # Nor does anything come after it has failed.
        with pytest.raises(AuthenticationError):
            stream.read(size)
        return b"".join(parts), False
    return b"".join(parts), True


def ranges(segments, damaged):
    """Ask both readers of ranges for each segment by itself, and for each with the one before."""
    stored = START + b"".join(segments)
    opener = RangeOpener(START, IDENTITIES)
    for first, last in [*((n, n) for n in range(COUNT)), *((n - 1, n) for n in range(1, COUNT))]:
        begin, length = first * SEGMENT, min((last + 1) * SEGMENT, SIZE) - first * SEGMENT
        at, count = opener.ciphertext_range(begin, length, SIZE)
        stream = SegmentStream(io.BytesIO(stored), IDENTITIES, SIZE)
        for take in (
            partial(opener.open, stored[at : at + count], begin, length, SIZE),
            partial(stream.take, begin, length),
        ):
            if damaged & {first, last}:
                with pytest.raises(AuthenticationError):
                    take()
            else:
                assert take() == PLAIN[begin : begin + length]


def released(segments, whole):
    """Check that the stream releases so many segments and then fails, however it is read."""
    for size in READS:
        assert streamed(segments, size) == (PLAIN[: whole * SEGMENT], False), size


def test_what_nobody_touched_is_released_whole():
    for size in READS:
        assert streamed(SEGMENTS, size) == (PLAIN, True)
    ranges(SEGMENTS, set())


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("at", [0, 500, -TAG - 1, -TAG, -1])
def test_a_flipped_bit(number, at):
    broken = [*SEGMENTS]
    broken[number] = flipped(broken[number], at % len(broken[number]))
    released(broken, number)
    ranges(broken, {number})


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("kept", [0, 1, TAG - 1, TAG, 500, -1])
def test_a_file_cut_off(number, kept):
    """Where a segment ends as well: the last one that is left lacks the final flag, and yet its bytes are the file's."""
    cut = [*SEGMENTS[:number], SEGMENTS[number][:kept]]
    released(cut, number)
    ranges(cut, set(range(number, COUNT)))


@pytest.mark.parametrize("number", range(COUNT))
def test_a_segment_left_out(number):
    broken = SEGMENTS[:number] + SEGMENTS[number + 1 :]
    released(broken, number)
    ranges(broken, set(range(number, COUNT)))


@pytest.mark.parametrize("number", range(COUNT))
def test_a_segment_twice(number):
    broken = SEGMENTS[: number + 1] + SEGMENTS[number:]
    if number < COUNT - 1:
        released(broken, number + 1)
        ranges(broken, set(range(number + 1, COUNT)))
    else:
        # The last isn't full: what follows joins it.
        released(broken, number)


@pytest.mark.parametrize("one", range(COUNT - 1))
@pytest.mark.parametrize("away", [1, 2, 17])
def test_two_segments_changed_with_each_other(one, away):
    other = min(one + away, COUNT - 1)
    broken = [*SEGMENTS]
    broken[one], broken[other] = broken[other], broken[one]
    released(broken, one)
    ranges(broken, set(range(one, COUNT)) if other == COUNT - 1 else {one, other})


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("more", [1, TAG, SEGMENT])
def test_a_segment_lengthened(number, more):
    """Bytes put in move all that comes after them."""
    broken = [*SEGMENTS]
    broken[number] += bytes(more)
    if number < COUNT - 1:
        released(broken, number + 1)
        ranges(broken, set(range(number + 1, COUNT)))
    else:
        released(broken, number)


@pytest.mark.parametrize("more", [1, TAG, STORED, STORED + 1])
@pytest.mark.parametrize("count", [1, 16, 17])
def test_bytes_after_a_last_segment_that_is_full(more, count):
    """All of it is genuine, and yet the file isn't what was sealed."""
    out = io.BytesIO()
    plain = PLAIN[: count * SEGMENT]
    seal([plain], out, [RECIPIENT])
    stream, parts = open_stream(io.BytesIO(out.getvalue() + bytes(more)), IDENTITIES), []
    with pytest.raises(AuthenticationError):
        while part := stream.read():
            parts.append(part)
    assert b"".join(parts) == plain


@pytest.mark.parametrize("number", range(COUNT))
def test_the_segments_of_another_file_of_the_same_recipient(number):
    _, others = sealed()
    broken = SEGMENTS[:number] + others[number:]
    released(broken, number)
    ranges(broken, set(range(number, COUNT)))
