"""zstd frames: content within its limit, and no more work than what is stored."""

import io

from tests.fuzz.mutation import havoc, splice
from vaultik.core.frames import FrameDecoder, FrameEncoder, decode_frames, decode_stream, iter_frames, skippable_frame
from vaultik.core.padding import padding_frame
from vaultik.errors import FormatError

DOCUMENTED = (FormatError,)
LIMIT = 1 << 20
_MAGIC = b"\x28\xb5\x2f\xfd"
_TOKENS = (
    _MAGIC,
    b"\x5d\x2a\x4d\x18",
    b"\x5e\x2a\x4d\x18",
    b"\x50\x2a\x4d\x18" + b"\xff" * 4,
    _MAGIC + b"\xc0\xff" + b"\xff" * 8,
    _MAGIC + b"\xe0" + (1 << 40).to_bytes(8, "little"),
    b"\x02\x00\x10\x00",
    b"\x03\x00\x10\x00",
    b"\x00\x00\x00",
)


def bomb(blocks, declared=None):
    """A frame of RLE blocks: 4 bytes that stand for 128 KiB, each."""
    size = blocks * 131072 if declared is None else declared
    head = _MAGIC + b"\xc0\x38" + size.to_bytes(8, "little")
    block, last = ((131072 << 3 | 2 | end).to_bytes(3, "little") + b"\0" for end in (0, 1))
    return head + block * (blocks - 1) + last


def seeds():
    text = FrameEncoder(3).encode(bytes(range(256)) * 40)
    noise = FrameEncoder(1).encode(bytes((n * n * 31) % 251 for n in range(3000)))
    return [
        text + padding_frame(len(text)),
        text + noise + skippable_frame(0x184D2A55, b"12345") + FrameEncoder(3).encode(b""),
        bomb(8),
        bomb(9),
        bomb(5000, LIMIT),
        bomb(2, 10),
        _MAGIC + b"\xe0" + LIMIT.to_bytes(8, "little") + b"\1\0\0",
        _MAGIC + b"\xc0\xff" + (10).to_bytes(8, "little") + b"\1\0\0",
        skippable_frame(0x184D2A5D, bytes(100)) * 3,
    ]


def mutate(data, rng):
    """Blind changes, frames put behind each other, and blocks of no length without end."""
    match rng.randrange(8):
        case 0:
            return (data + rng.choice(seeds()))[: 1 << 18]
        case 1:
            return splice(data, rng.choice(seeds()), rng)[: 1 << 18]
        case 2:
            at = rng.randint(0, len(data))
            return (data[:at] + rng.choice(_TOKENS[-3:]) * 300 + data[at:])[: 1 << 18]
    return havoc(data, rng, _TOKENS)[: 1 << 18]


class Counting(io.BytesIO):
    """How much was asked for."""

    calls = 0

    def read(self, size=-1, /):
        self.calls += 1
        return super().read(size)


def target(data):
    whole = _outcome(lambda: FrameDecoder().decode(data, size_limit=LIMIT))
    lengths = _outcome(lambda: [length for _, length, _ in iter_frames(data)])
    if isinstance(lengths, list):
        assert sum(lengths) == len(data)
    first = _outcome(lambda: _all(decode_stream, data))
    every = _outcome(lambda: _all(decode_frames, data))
    # (zstd's own stream is stricter than its decoder of whole frames: blocks longer than the window.)
    if isinstance(whole, bytes) and isinstance(first, bytes):
        assert first == whole
    if isinstance(first, bytes):
        assert every == first
    if isinstance(every, str):
        raise FormatError(every)


def _outcome(attempt):
    """What it returns, or what it says of what is wrong: the error itself would keep all that its frames hold."""
    try:
        return attempt()
    except FormatError as exc:
        return str(exc)


def _all(decode, data):
    reader, parts, total = Counting(data), [], 0
    for part in decode(reader, size_limit=LIMIT):
        total += len(part)
        parts.append(part)
        assert total <= LIMIT, "more than is allowed came out"
    assert reader.calls <= 3 + len(data) // LIMIT
    return b"".join(parts)
