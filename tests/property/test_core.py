"""What holds for any bytes: formats round trip, damage is noticed, cuts depend on content alone."""

import dataclasses
import hashlib
import io
import random
import subprocess
import tracemalloc

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaultik.core import chunk_table, manifest
from vaultik.core.age_header import parse_header
from vaultik.core.age_seal import seal
from vaultik.core.age_stream import RangeOpener, open_stream, plaintext_size
from vaultik.core.chunker import Chunker
from vaultik.core.frames import (
    FrameDecoder,
    FrameEncoder,
    decode_frames,
    decode_stream,
    encode_stream,
    iter_frames,
    skippable_frame,
)
from vaultik.core.identity import generate, parse_identities
from vaultik.core.ids import new_snapshot_id, parse_snapshot_id, source8
from vaultik.core.names import SnapshotName, blob_key, parse_blob_key, parse_snapshot_key
from vaultik.core.padding import padding_frame, padme
from vaultik.errors import FormatError, IdentityError, IntegrityError, NoMatchingIdentityError, RecipientError
from vaultik.recipients import check_recipient

IDENTITY, RECIPIENT = generate()
IDENTITIES = parse_identities(IDENTITY)
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pieces_of(data):
    """The data in pieces of all kinds of sizes, empty ones and several segments' worth among them."""
    rng, at = random.Random(len(data)), 0
    while at < len(data):
        size = rng.choice([0, 1, 1_000, 65_536, 65_537, 1_500_000])
        yield data[at : at + size]
        at += size


def sealed(data):
    out = io.BytesIO()
    facts = seal(pieces_of(data), out, [RECIPIENT])
    return facts, out.getvalue()


def read_all(stream):
    parts = []
    while part := stream.read(10_000):
        parts.append(part)
    return b"".join(parts)


class TestAge:
    @few
    @given(st.integers(0, 300_000), st.randoms(use_true_random=False))
    def test_what_is_sealed_opens_whole_and_by_ranges(self, size, rng):
        data = rng.randbytes(size)
        facts, stored = sealed(data)
        assert facts.size_bytes == len(stored) == facts.header_length + 16 + size + 16 * max(1, -(-size // 65536))
        assert facts.sha256 == hashlib.sha256(stored).digest()
        assert plaintext_size(len(stored), facts.header_length) == size
        assert read_all(open_stream(io.BytesIO(stored), IDENTITIES)) == data
        if size:
            opener = RangeOpener(stored[: facts.header_length + 16], IDENTITIES)
            begin = rng.randrange(size)
            length = rng.randint(1, size - begin)
            at, count = opener.ciphertext_range(begin, length, size)
            assert opener.open(stored[at : at + count], begin, length, size) == data[begin : begin + length]

    @pytest.mark.parametrize("segments", [1, 15, 16, 17, 32, 33])
    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_the_last_segment_is_never_empty_however_the_pieces_fall(self, segments, more):
        data = random.Random(segments).randbytes(segments * 65_536 + more)
        for pieces in ([data], [data[:-1], data[-1:]], pieces_of(data)):
            out = io.BytesIO()
            facts = seal(pieces, out, [RECIPIENT])
            assert facts.size_bytes == facts.header_length + 16 + len(data) + 16 * -(-len(data) // 65_536)
            assert read_all(open_stream(io.BytesIO(out.getvalue()), IDENTITIES)) == data

    def test_no_two_files_have_a_key_a_share_or_a_nonce_in_common(self):
        starts = [(sealed(b"same")[1], parse_header(sealed(b"same")[1])) for _ in range(3)]
        assert len({header.unwrap(IDENTITIES) for _, header in starts}) == 3
        assert len({header.stanzas[0].arguments[1] for _, header in starts}) == 3
        assert len({stored[-36:-20] for stored, _ in starts}) == 3

    @few
    @given(st.integers(0, 200_000), st.integers(0, 10**9), st.integers(0, 7))
    def test_any_flipped_bit_is_noticed(self, size, where, bit):
        data = bytes(size)
        _, stored = sealed(data)
        damaged = bytearray(stored)
        damaged[where % len(stored)] ^= 1 << bit
        with pytest.raises((IntegrityError, NoMatchingIdentityError)):
            read_all(open_stream(io.BytesIO(bytes(damaged)), IDENTITIES))

    @few
    @given(st.integers(0, 200_000), st.integers(1, 200_000))
    def test_any_cut_is_noticed_and_what_came_out_before_is_true(self, size, missing):
        data = random.Random(size).randbytes(size)
        _, stored = sealed(data)
        released = b""
        with pytest.raises((IntegrityError, NoMatchingIdentityError)):
            stream = open_stream(io.BytesIO(stored[: max(0, len(stored) - missing)]), IDENTITIES)
            while part := stream.read(10_000):
                released += part
        assert data.startswith(released)

    @few
    @given(st.binary(max_size=500))
    def test_random_bytes_are_no_header(self, data):
        with pytest.raises(FormatError):
            parse_header(data)

    def test_the_age_command_opens_what_we_seal_and_we_what_it_seals(self, tmp_path):
        key = tmp_path / "key"
        key.write_text(IDENTITY + "\n")
        for size in (0, 1, 65_536, 65_537, 1_048_576, 1_048_577, 3_000_000):
            data = random.Random(size).randbytes(size)
            opened = subprocess.run(
                ["age", "-d", "-i", key], input=sealed(data)[1], capture_output=True, check=True
            ).stdout
            assert opened == pyrage.decrypt(sealed(data)[1], [pyrage.x25519.Identity.from_str(IDENTITY)]) == data
            theirs = subprocess.run(["age", "-r", RECIPIENT], input=data, capture_output=True, check=True).stdout
            assert read_all(open_stream(io.BytesIO(theirs), IDENTITIES)) == data

    @pytest.mark.parametrize("size", [0, 1, 65_536, 150_000])
    def test_a_write_error_anywhere_comes_out_as_it_was(self, size):
        class Failing(io.RawIOBase):
            def __init__(self, after):
                self.left = after

            def write(self, data):
                if not self.left:
                    raise OSError(28, "No space left on device")
                self.left -= 1
                return len(data)

        for after in range(10):
            try:
                seal(pieces_of(bytes(size)), Failing(after), [RECIPIENT])
            except OSError as exc:
                assert exc.errno == 28
            else:
                assert after >= 1
                return
        pytest.fail("never finished")

    def test_a_read_error_comes_out_as_it_was(self):
        def pieces():
            yield b"x" * 100_000
            raise ValueError("source broke")

        with pytest.raises(ValueError, match="source broke"):
            seal(pieces(), io.BytesIO(), [RECIPIENT])

    def test_a_recipient_whose_point_keeps_nothing_secret_is_refused(self):
        out = io.BytesIO()
        with pytest.raises(RecipientError, match="low order"):
            seal([b"secret"], out, ["age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"])
        assert out.getvalue() == b""

    def test_identities_are_no_recipients_and_never_shown(self):
        with pytest.raises(RecipientError, match="identity") as caught:
            check_recipient(IDENTITY)
        assert IDENTITY not in f"{caught.value} {caught.value.hint}"
        assert IDENTITY not in repr(IDENTITIES)
        for last in "P" if IDENTITY.endswith("Q") else "Q", "\udc80", "\ud800":
            with pytest.raises(IdentityError) as caught:
                parse_identities(IDENTITY[:-1] + last)
            assert IDENTITY[:30] not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


class TestFrames:
    @few
    @given(st.binary(max_size=100_000), st.integers(1, 12))
    def test_a_frame_gives_back_its_bytes(self, data, level):
        frame = FrameEncoder(level).encode(data)
        assert FrameDecoder().decode(frame, size_limit=len(data)) == data
        if data:
            with pytest.raises(FormatError, match="declares"):
                FrameDecoder().decode(frame, size_limit=len(data) - 1)
        with pytest.raises(FormatError):
            FrameDecoder().decode(frame + frame, size_limit=len(data))

    @few
    @given(st.binary(max_size=300))
    def test_random_bytes_are_no_frame(self, data):
        with pytest.raises(FormatError):
            FrameDecoder().decode(data, size_limit=1 << 20)
        with pytest.raises(FormatError):
            b"".join(decode_stream(io.BytesIO(data), size_limit=1 << 20))

    @few
    @given(st.lists(st.binary(max_size=5_000), min_size=1, max_size=6))
    def test_frames_are_walked_without_decoding(self, parts):
        frames = [FrameEncoder(3).encode(part) for part in parts] + [skippable_frame(0x184D2A5D, b"12345")]
        walked = list(iter_frames(b"".join(frames)))
        assert [length for _, length, _ in walked] == [len(frame) for frame in frames]
        assert walked[-1][2] == 0x184D2A5D

    @few
    @given(st.binary(max_size=50_000), st.integers(0, 5000))
    def test_a_stream_is_one_frame_and_padding(self, data, padding):
        stored = read_all(encode_stream(io.BytesIO(data), len(data), 3)) + skippable_frame(0x184D2A5D, bytes(padding))
        assert b"".join(decode_stream(io.BytesIO(stored), size_limit=len(data))) == data
        for broken in (stored[:-1], stored + b"x", stored + FrameEncoder(3).encode(b"more")):
            with pytest.raises(FormatError):
                b"".join(decode_stream(io.BytesIO(broken), size_limit=len(data)))

    @few
    @given(st.lists(st.binary(max_size=50_000), max_size=4), st.integers(0, 5000))
    def test_a_stream_of_frames_with_padding_between(self, parts, padding):
        skipped = skippable_frame(0x184D2A5D, bytes(padding))
        stored = skipped + b"".join(FrameEncoder(3).encode(part) + skipped for part in parts)
        size = sum(map(len, parts))
        assert b"".join(decode_frames(io.BytesIO(stored), size_limit=size)) == b"".join(parts)
        for broken in (stored[:-1], stored + b"x", stored + FrameEncoder(3).encode(b"more")):
            with pytest.raises(FormatError):
                b"".join(decode_frames(io.BytesIO(broken), size_limit=size))

    @few
    @given(st.integers(0, 10**13))
    def test_padding_follows_padme(self, length):
        assert length <= padme(length) <= max(length * 1.12, length + 1)
        assert padme(padme(length)) == padme(length)

    @few
    @given(st.integers(0, 10**6))
    def test_a_padding_frame_brings_a_length_to_a_padme_size(self, length):
        total = length + len(padding_frame(length))
        assert padme(total) == total
        assert total <= padme(padme(length) + 8) + padme(length) // 8 + 8

    @few
    @given(
        st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 2**32 - 1)), max_size=50),
        st.integers(0, 10**6),
    )
    def test_a_chunk_table_round_trips_and_makes_a_padme_size(self, chunks, length):
        tail = chunk_table.tail(length, chunks)
        size = int.from_bytes(tail[-4:], "little")
        assert chunk_table.decode(tail[-size:]) == chunks
        assert padme(length + len(tail)) == length + len(tail)
        for broken in (tail[-size:][:-1], tail[-size:] + b"x", b"\0" + tail[-size:][1:]):
            with pytest.raises(FormatError):
                chunk_table.decode(broken)


class TestChunker:
    DATA = random.Random(42).randbytes(24 << 20)
    GOLDEN = {
        1 << 20: "5c4e08be6a50f5eb",
        1 << 16: "37e0d827a31a763e",
    }

    @pytest.mark.parametrize("average", GOLDEN)
    def test_golden_cut_points(self, average):
        """Another cut anywhere would cost every user a full upload."""
        lengths = Chunker(average).cut(self.DATA, final=True)
        assert sum(lengths) == len(self.DATA)
        assert hashlib.sha256(repr(lengths).encode()).hexdigest()[:16] == self.GOLDEN[average]

    @few
    @given(st.integers(0, 400_000), st.integers(1, 50_000))
    def test_cutting_in_pieces_is_cutting_at_once(self, size, step):
        chunker, data = Chunker(4096), self.DATA[:size]
        whole = chunker.cut(data, final=True)
        assert sum(whole) == size
        assert all(length <= chunker.maximum for length in whole)
        pieces, begin, end = [], 0, 0
        while end < size or begin < size:
            end = min(size, max(end, begin) + step)
            found = chunker.cut(memoryview(data)[begin:end], final=end == size)
            pieces += found
            begin += sum(found)
        assert pieces == whole

    @few
    @given(st.integers(40_000, 300_000))
    def test_neighbours_agree_on_their_boundary(self, nominal):
        chunker, data = Chunker(4096), self.DATA[:400_000]
        begin = nominal - chunker.maximum
        cut = chunker.first_cut_at_or_after(data[begin : nominal + chunker.maximum], nominal - begin)
        assert nominal - begin <= cut <= nominal - begin + chunker.maximum
        assert cut == chunker.first_cut_at_or_after(data[begin : nominal + 2 * chunker.maximum], nominal - begin)


class TestNames:
    @few
    @given(st.binary(min_size=32, max_size=32))
    def test_a_blobs_key_names_it(self, digest):
        assert parse_blob_key(blob_key(digest)) == digest
        assert parse_snapshot_key(blob_key(digest)) is None

    @few
    @given(st.text(max_size=80))
    def test_other_keys_name_nothing(self, key):
        assert parse_blob_key(key) is None
        assert parse_snapshot_key(key) is None

    def test_a_snapshots_key_names_it(self):
        for kind in ("db", "manifest"):
            name = SnapshotName("index/1a2b3c4d/", new_snapshot_id(0, None), bytes(range(32)), kind)
            assert parse_snapshot_key(name.key) == name
            assert parse_snapshot_key("blobs/" + name.key) is None

    def test_digits_are_those_of_ascii(self):
        """What sorts behind every other id would be the newest for ever."""
        snapshot = "\uff12026" + "1123T081500Z-1f2e3d4c"
        assert parse_snapshot_key(f"index/1a2b3c4d/{snapshot}.{'cd' * 32}.sqlite.zst.age") is None
        with pytest.raises(FormatError):
            parse_snapshot_id(snapshot)

    @few
    @given(st.lists(st.integers(0, 4 * 10**9), min_size=2, max_size=5))
    def test_ids_ascend_whatever_the_clock_does(self, times):
        previous = None
        for now in times:
            snapshot = new_snapshot_id(now, previous)
            assert previous is None or parse_snapshot_id(snapshot) > parse_snapshot_id(previous)
            assert previous is None or snapshot > previous
            previous = snapshot

    def test_sources_are_told_apart_by_their_uuid(self):
        assert source8("x") == hashlib.sha256(b"x").hexdigest()[:8]


class TestManifest:
    GOOD = manifest.Manifest(
        1,
        "uuid",
        "höst",
        "20261123T081500Z-1f2e3d4c",
        None,
        None,
        True,
        1.5,
        2.5,
        3,
        4,
        (("index/1a2b3c4d/20261123T081500Z-1f2e3d4c." + "cd" * 32 + ".sqlite.zst.age", 5),),
        (RECIPIENT,),
        (("ab" * 32, 6),),
    )

    def test_it_round_trips_and_is_canonical(self):
        data = manifest.encode(self.GOOD)
        assert manifest.decode(data) == self.GOOD
        assert data.count(b"\n") == 1
        assert b" " not in data
        assert manifest.decode(data + b"U1NIU0lH\n").signatures == (b"U1NIU0lH",)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"format":1', b'"format":2'),
            (b'"entries":3', b'"entries":-3'),
            (b'"entries":3', b'"entries": 3'),
            (b'"entries":3', b'"entries":"3"'),
            (b'"entries":3', b'"entries":3,"extra":1'),
            (b'"complete":true,', b""),
            (b"abab", b"ABAB"),
            (b'"dbs":[[', b'"dbs":[["x",5],['),
            (b'"started":1.5', b'"started":1e999'),
            (b'"started":1.5', b'"started":1e300'),
            (b'"started":1.5', b'"started":NaN'),
            (b'"started":1.5', b'"started":1'),
            (b'"bytes":4', b'"bytes":1' + b"0" * 400),
            (b'"bytes":4', b'"bytes":9223372036854775808'),
            (b',"bytes":4', b',"bytes":4,"bytes":4'),
            (b'"source"', b'"signatures":["QUJD"],"source"'),
            (b'"blobs":[', b'"blobs":[["' + b"ac" * 32 + b'",6],'),
            (b'"blobs":[', b'"blobs":[["' + b"ab" * 32 + b'",6],'),
            (b'"blobs":[[', b'"blobs":[[' + b"[" * 100_000),
            (b"}\n", b"}"),
            (b"}\n", b"}\nnot base64!\n"),
            (b"{", b"["),
        ],
    )
    def test_anything_else_is_refused(self, old, new):
        data = manifest.encode(self.GOOD)
        assert old in data
        with pytest.raises(FormatError):
            manifest.decode(data.replace(old, new, 1))

    def test_what_is_no_manifest_costs_no_more_than_its_bytes(self):
        good = manifest.encode(self.GOOD)
        name = b'["' + b"n" * 64 + b'",0],'
        for data in (
            b"[" + b"[]," * 3_000_000 + b"[]]\n",
            good.replace(b'"dbs":[', b'"dbs":[' + b'["",0],' * 1_000_000),
            good.replace(b'"dbs":[', b'"dbs":[' + name * 100_000),
            good.replace(b'"recipients":[', b'"recipients":[' + b'"",' * 2_000_000),
            good.replace(b"{", b'{"aa":[' + b"[]," * 2_000_000 + b"[]],", 1),
            bytes(manifest.LARGEST + 1),
        ):
            tracemalloc.start()
            with pytest.raises(FormatError):
                manifest.decode(data)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4 * len(data)

    def test_no_db_at_all_is_refused(self):
        with pytest.raises(FormatError):
            manifest.decode(manifest.encode(dataclasses.replace(self.GOOD, dbs=())))

    def test_what_no_reader_takes_is_not_written(self):
        blobs = tuple((f"{n:064x}", n) for n in range(manifest.LARGEST // 72))
        with pytest.raises(FormatError, match="at most"):
            manifest.encode(dataclasses.replace(self.GOOD, blobs=blobs))

    @few
    @given(st.binary(max_size=200))
    def test_random_bytes_are_no_manifest(self, data):
        with pytest.raises(FormatError):
            manifest.decode(data)
