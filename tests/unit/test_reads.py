"""What is asked of a store for some frames: the rule, and how much is on its way at once."""

import hashlib
import io
import random
import threading
from contextlib import contextmanager

import pytest

from tests.support.memory_store import MemoryStore
from vaultik.core.age_seal import seal
from vaultik.core.frames import FrameEncoder
from vaultik.core.identity import generate, parse_identities
from vaultik.core.names import blob_key
from vaultik.errors import StoreUnavailableError
from vaultik.snapshot import ahead
from vaultik.snapshot.fetch import BlobFetcher, WantedBlob, WantedChunk, all_of, plan_reads
from vaultik.snapshot.reads import RANGE_BYTES, REQUEST_BYTES, Range, Span

SEGMENT, STORED, HEADER = 65536, 65552, 200
START = HEADER + 16
MiB = 1 << 20


def blob_of(segments):
    return WantedBlob(bytes(32), START + segments * STORED, HEADER)


def span(segment, count=1):
    """A frame that fills so many segments."""
    return Span(segment * SEGMENT, count * SEGMENT, count * SEGMENT)


def at(segment):
    return START + segment * STORED


def test_a_frame_costs_the_header_and_the_segments_around_it():
    inside = Span(100 * SEGMENT + 5, SEGMENT, MiB)
    reads = plan_reads(blob_of(4000), [inside])
    assert reads.ranges == [Range(0, START), Range(at(100), at(102))]
    assert (reads.requests, reads.bytes, reads.whole) == (2, START + 2 * STORED, False)


def test_what_is_nearer_than_a_request_counts_is_joined():
    near = REQUEST_BYTES // STORED
    joined = plan_reads(blob_of(4000), [span(1000), span(1001 + near)])
    assert joined.ranges[1:] == [Range(at(1000), at(1002 + near))]
    apart = plan_reads(blob_of(4000), [span(1000), span(1002 + near)])
    assert apart.ranges[1:] == [Range(at(1000), at(1001)), Range(at(1002 + near), at(1003 + near))]
    assert plan_reads(blob_of(4000), [span(near)]).ranges == [Range(0, at(near + 1))]


def test_a_range_ends_at_its_greatest_length():
    reads = plan_reads(blob_of(4000), [span(n) for n in range(500, 900)])
    sizes = [r.end - r.begin for r in reads.ranges[1:]]
    assert sum(sizes) == 400 * STORED
    assert max(sizes) <= RANGE_BYTES < max(sizes) + STORED
    large = Span(500 * SEGMENT, 200 * SEGMENT, 200 * SEGMENT)
    assert plan_reads(blob_of(4000), [large]).ranges[1:] == [Range(at(500), at(700))]


def test_a_blob_is_read_whole_where_that_counts_no_more():
    blob = blob_of(1000)
    assert plan_reads(blob, [span(n) for n in range(1000)]).whole
    assert plan_reads(blob, [span(n) for n in range(1000)]).bytes == blob.size
    for missing in range(1, 40):
        reads = plan_reads(blob, [span(n) for n in range(1000 - missing)])
        counts = reads._replace(whole=False)
        is_less = counts.bytes + counts.requests * REQUEST_BYTES < blob.size + REQUEST_BYTES
        assert reads.whole != is_less
    assert not reads.whole


@pytest.mark.parametrize("seed", range(20))
def test_nothing_counts_less_than_what_is_chosen(seed):
    """Every frame lies in one range, ranges ascend, no two could be joined for less, and the whole is no better."""
    rng = random.Random(seed)
    blob = blob_of(3000)
    frames = [span(n) for n in range(3000) if rng.random() < rng.choice([0.001, 0.05, 0.5, 0.9])]
    reads = plan_reads(blob, frames)
    for frame in frames:
        first = frame.offset // SEGMENT
        assert any(r.begin <= at(first) and at(first + 1) <= r.end for r in reads.ranges)
    for before, after in zip(reads.ranges, reads.ranges[1:], strict=False):
        assert before.end <= after.begin
        assert after.begin - before.end > REQUEST_BYTES or after.begin + STORED - before.begin > RANGE_BYTES
    listed = sum(r.end - r.begin for r in reads.ranges) + len(reads.ranges) * REQUEST_BYTES
    assert reads.whole == (blob.size + REQUEST_BYTES <= listed)


def test_rows_that_can_not_be_true_cost_nothing():
    past = Span(4000 * SEGMENT, SEGMENT, SEGMENT)
    long = Span(0, 100 * SEGMENT, 1)
    assert plan_reads(blob_of(4000), [long, past]).requests == 0
    assert plan_reads(WantedBlob(bytes(32), 5, HEADER), [span(0)]).requests == 0
    assert plan_reads(blob_of(4000), []).bytes == 0


class Large:
    """A blob of 60 MiB, of which every other MiB or so is wanted: some thirty ranges."""

    def __init__(self):
        identity, recipient = generate()
        self.identities = parse_identities(identity)
        rng = random.Random(1)
        plain, self.chunks = b"", []
        for number in range(60):
            piece = rng.randbytes(MiB)
            frame = FrameEncoder(1).encode(piece)
            if number % 2:
                self.chunks.append(WantedChunk(number, hashlib.sha256(piece).digest(), MiB, len(plain), len(frame), 0))
            plain += frame
        sealed = io.BytesIO()
        header = seal([plain], sealed, [recipient]).header_length
        self.row = WantedBlob(hashlib.sha256(sealed.getvalue()).digest(), len(sealed.getvalue()), header)
        self.objects = {blob_key(self.row.hash): (sealed.getvalue(), 0)}


@pytest.fixture(scope="module")
def large():
    return Large()


class Gate(MemoryStore):
    """Answers only when as many requests are under way as may be; counts how many are, and what they bring."""

    def __init__(self, objects, together):
        super().__init__(shared=objects)
        self.barrier = threading.Barrier(together)
        self.lock = threading.Lock()
        self.asked = []

    @contextmanager
    def open(self, key, *, offset=0, length=None):
        with self.lock:
            self.asked.append((offset, length))
            is_first = len(self.asked) <= self.barrier.parties
        if is_first:
            self.barrier.wait(30)
        with super().open(key, offset=offset, length=length) as stream:
            yield stream


def test_requests_run_side_by_side(large):
    store = Gate(large.objects, ahead.SIDE_BY_SIDE)
    fetched = list(BlobFetcher(store, large.identities, large.row).fetch(large.chunks))
    assert [f.chunk for f in fetched] == large.chunks
    assert all(f.damage is None for f in fetched)
    reads = plan_reads(large.row, [Span(c.frame_offset, c.frame_length, c.size) for c in large.chunks])
    assert sorted(store.asked) == sorted((r.begin, r.end - r.begin) for r in reads.ranges)


def test_no_more_is_asked_for_than_may_be_held(large):
    """Whoever takes one chunk and then waits makes nothing be read but what is within the window."""
    store = Gate(large.objects, 1)
    chunks = iter(large.chunks)
    fetching = BlobFetcher(store, large.identities, large.row).fetch(chunks)
    next(fetching)
    for thread in threading.enumerate():
        if thread.name == ahead.THREAD:
            thread.join(10)
    # Those on their way, the one that is being cut up, and the frames that are decoded ahead.
    assert len(store.asked) <= 2 * ahead.SIDE_BY_SIDE + 1
    fetching.close()


def test_a_window_is_bounded_by_bytes_too():
    size = ahead.AHEAD_BYTES // 2
    ranges = [Range(n * size, (n + 1) * size) for n in range(6)]
    begun = []
    going = ahead.side_by_side(lambda one: begun.append(one) or b"", ranges)
    for number, (one, future) in enumerate(going):
        assert one == ranges[number]
        assert future.result(10) == b""
        # Two fit; the one that was given counts until the next is asked for.
        assert len(begun) <= number + 2
    assert begun == ranges


def test_what_fails_on_a_thread_fails_here(large):
    class Gone(MemoryStore):
        def open(self, key, **_range):
            raise StoreUnavailableError(f"{key}: no answer")

    with pytest.raises(StoreUnavailableError):
        list(BlobFetcher(Gone(), large.identities, large.row).fetch(large.chunks))


def test_all_of_a_blob_is_one_request(large):
    store = Gate(large.objects, 1)
    fetched = list(BlobFetcher(store, large.identities, large.row).fetch(iter(large.chunks), all_of(large.row)))
    assert all(f.damage is None for f in fetched)
    assert store.asked == [(0, None)]
