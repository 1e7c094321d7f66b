"""What damage in a blob costs: the frames that it touches, whether the blob is streamed or read by ranges."""

import hashlib
import io
import random
from contextlib import contextmanager

import pytest

from tests.support.memory_store import MemoryStore
from vaultik.core.age_seal import seal
from vaultik.core.frames import FrameEncoder
from vaultik.core.identity import generate, parse_identities
from vaultik.core.names import blob_key
from vaultik.errors import IntegrityError, StoreAccessError
from vaultik.snapshot.fetch import BlobFetcher, WantedBlob, WantedChunk

IDENTITY, RECIPIENT = generate()
IDENTITIES = parse_identities(IDENTITY)
SEGMENT, STORED = 65536, 65552


class Blob:
    """Frames of two chunks each, sealed and stored."""

    def __init__(self, frames=40, size=30_000):
        rng = random.Random(5)
        plain, self.chunks = b"", []
        for number in range(frames):
            pieces = [rng.randbytes(size), rng.randbytes(size)]
            frame = FrameEncoder(3).encode(b"".join(pieces))
            for n, piece in enumerate(pieces):
                digest = hashlib.sha256(piece).digest()
                self.chunks.append(WantedChunk(2 * number + n, digest, size, len(plain), len(frame), n * size))
            plain += frame
        sealed = io.BytesIO()
        self.header = seal([plain], sealed, [RECIPIENT]).header_length
        self.plain_size = len(plain)
        self.stored = sealed.getvalue()
        self.row = WantedBlob(hashlib.sha256(self.stored).digest(), len(self.stored), self.header)

    def fetch(self, stored, chunks, store=None, **kwargs):
        """Returns the chunks that came out, checked, and those that didn't."""
        store = store or MemoryStore()
        store._objects[blob_key(self.row.hash)] = (stored, 0)
        good, bad = set(), {}
        for chunk, data, damage in BlobFetcher(store, IDENTITIES, self.row, **kwargs).fetch(chunks):
            if damage is None:
                assert hashlib.sha256(data).digest() == chunk.hash
                good.add(chunk.id)
            else:
                bad[chunk.id] = damage
        assert good | bad.keys() == {c.id for c in chunks}
        return good, bad

    def touching(self, segments, chunks):
        return {
            c.id
            for c in chunks
            if any(
                c.frame_offset // SEGMENT <= segment <= (c.frame_offset + c.frame_length - 1) // SEGMENT
                for segment in segments
            )
        }


@pytest.fixture(scope="module")
def blob():
    return Blob()


def selections(blob):
    """All of it is streamed; the beginning and the end are two ranges; every eighth frame joins others."""
    return [blob.chunks, blob.chunks[:8] + blob.chunks[-8:], [c for c in blob.chunks if c.id // 2 % 8 == 1]]


def test_damage_anywhere_costs_the_frames_that_it_touches(blob):
    rng = random.Random(6)
    last = (blob.plain_size - 1) // SEGMENT
    for segment in (0, 1, 7, last - 1, last):
        damaged = bytearray(blob.stored)
        begin = blob.header + 16 + segment * STORED
        damaged[rng.randrange(begin, min(begin + STORED, len(damaged)))] ^= 1
        for chunks in selections(blob):
            _, bad = blob.fetch(bytes(damaged), chunks)
            assert bad.keys() == blob.touching([segment], chunks)


def test_segments_in_each_others_place_are_damage_of_both(blob):
    damaged = bytearray(blob.stored)
    first, second = (blob.header + 16 + segment * STORED for segment in (2, 5))
    damaged[first : first + STORED], damaged[second : second + STORED] = (
        damaged[second : second + STORED],
        damaged[first : first + STORED],
    )
    for chunks in selections(blob):
        assert blob.fetch(bytes(damaged), chunks)[1].keys() == blob.touching([2, 5], chunks)


@pytest.mark.parametrize("left", [0, 5, STORED, STORED + 1, 10 * STORED, -1])
def test_what_is_cut_off_keeps_all_before_the_cut(blob, left):
    cut = blob.stored[: len(blob.stored) - 1 if left < 0 else blob.header + 16 + left]
    whole = (len(cut) - blob.header - 16) // STORED
    for chunks in selections(blob):
        bad = blob.fetch(cut, chunks)[1].keys()
        assert bad == blob.touching(range(whole, 100), chunks)


def test_a_header_that_is_damaged_costs_all(blob):
    for stored in (b"", blob.stored[:50], b"x" + blob.stored[1:]):
        for chunks in selections(blob):
            assert not blob.fetch(stored, chunks)[0]


class BadSector(MemoryStore):
    """Reading across one place fails, as a disk does."""

    sector = 0

    @contextmanager
    def open(self, key, *, offset=0, length=None):
        with super().open(key, offset=offset, length=length) as stream:
            yield _Failing(stream, offset, self.sector)


class _Failing:
    def __init__(self, stream, at, sector):
        self.stream, self.at, self.sector = stream, at, sector

    def read(self, size=-1, /):
        data = self.stream.read(size)
        if self.at <= self.sector < self.at + len(data):
            raise IntegrityError("Input/output error")
        self.at += len(data)
        return data


def test_a_sector_that_can_not_be_read_costs_what_lies_on_it(blob):
    store = BadSector()
    store.sector = blob.header + 16 + 9 * STORED + 100
    for chunks in selections(blob):
        assert blob.fetch(blob.stored, chunks, store)[1].keys() == blob.touching([9], chunks)


class Refusing(MemoryStore):
    def open(self, key, **_range):
        raise StoreAccessError(f"{key}: access denied")


def test_a_refused_blob_is_its_own_matter_only_while_others_are_given(blob):
    for chunks in selections(blob):
        good, bad = blob.fetch(blob.stored, chunks, Refusing(), others_work=lambda: True)
        assert not good
        assert all(damage.refused for damage in bad.values())
        with pytest.raises(StoreAccessError):
            blob.fetch(blob.stored, chunks, Refusing(), others_work=lambda: False)


def test_rows_that_can_not_be_true_cost_themselves(blob):
    past = blob.chunks[-1]._replace(id=900, frame_length=1 << 30)
    long = blob.chunks[0]._replace(id=901, frame_length=blob.plain_size)
    good, bad = blob.fetch(blob.stored, [*blob.chunks, past])
    assert good == {c.id for c in blob.chunks}
    assert bad.keys() == {900}
    good, bad = blob.fetch(blob.stored, [long, *blob.chunks])
    assert bad.keys() == {901}
    assert len(good) == len(blob.chunks)


def test_a_frame_of_very_many_chunks_is_looked_at_in_parts():
    data = bytes(range(256)) * 40
    frame = FrameEncoder(3).encode(data)
    sealed = io.BytesIO()
    header = seal([frame], sealed, [RECIPIENT]).header_length
    stored = sealed.getvalue()
    store = MemoryStore()
    digest = hashlib.sha256(stored).digest()
    store._objects[blob_key(digest)] = (stored, 0)
    chunks = [WantedChunk(n, hashlib.sha256(data[n : n + 1]).digest(), 1, 0, len(frame), n) for n in range(len(data))]
    fetcher = BlobFetcher(store, IDENTITIES, WantedBlob(digest, len(stored), header))
    fetched = list(fetcher.fetch(iter(chunks)))
    assert [f.chunk.id for f in fetched] == list(range(len(data)))
    assert all(f.damage is None for f in fetched)
