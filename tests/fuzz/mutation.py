"""Changes to bytes: the blind ones that every target uses beside its own, and a container for several parts."""

import struct

LARGEST = 2 << 20
"""Inputs grow no further."""
_INTEGERS = (
    0,
    1,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_U32 = struct.Struct("<I")


def havoc(data, rng, tokens=()):
    """A few blind changes: bits, lengths, what is left out, doubled, moved or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        _CHANGES[rng.randrange(len(_CHANGES))](out, rng, tokens)
    return bytes(out[:LARGEST])


def splice(one, two, rng):
    """The beginning of one and the end of another."""
    return (one[: rng.randint(0, len(one))] + two[rng.randint(0, len(two)) :])[:LARGEST]


def pack(parts):
    """Several parts in one, each behind its length."""
    return b"".join(_U32.pack(len(part)) + part for part in parts)


def unpack(data, most):
    """The parts of any bytes at all: a length that can't be is as much as there is."""
    parts, at = [], 0
    while at + _U32.size <= len(data) and len(parts) < most:
        (length,) = _U32.unpack_from(data, at)
        at += _U32.size
        parts.append(data[at : at + length])
        at += length
    return parts


def _place(out, rng, longest=64):
    start = rng.randint(0, len(out))
    return start, min(len(out), start + rng.choice((1, 2, 4, 8, 16, rng.randint(1, longest))))


def _flip(out, rng, _tokens):
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def _byte(out, rng, _tokens):
    if out:
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _integer(out, rng, _tokens):
    size = rng.choice((1, 2, 4, 8))
    if len(out) >= size:
        at = rng.randint(0, len(out) - size)
        order = rng.choice(("little", "big"))
        was = int.from_bytes(out[at : at + size], order)
        value = rng.choice((*_INTEGERS, was + 1, was - 1, was * 2, len(out), len(out) - at))
        out[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def _leave_out(out, rng, _tokens):
    start, stop = _place(out, rng, 4096)
    del out[start:stop]


def _double(out, rng, _tokens):
    start, stop = _place(out, rng, 4096)
    out[start:start] = out[start:stop] * rng.choice((1, 1, 2, 50))


def _move(out, rng, _tokens):
    start, stop = _place(out, rng, 4096)
    at = rng.randint(0, len(out))
    out[at : at + stop - start] = out[start:stop]


def _insert(out, rng, tokens):
    at = rng.randint(0, len(out))
    out[at:at] = rng.choice(tokens) if tokens and rng.random() < 0.8 else rng.randbytes(rng.randint(1, 16))


def _overwrite(out, rng, tokens):
    token = rng.choice(tokens) if tokens else rng.randbytes(rng.randint(1, 16))
    at = rng.randint(0, len(out))
    out[at : at + len(token)] = token


def _cut(out, rng, _tokens):
    del out[rng.randint(0, len(out)) :]


def _lengthen(out, rng, _tokens):
    out += rng.choice((bytes(rng.randint(1, 5000)), rng.randbytes(rng.randint(1, 50))))


_CHANGES = (
    _flip,
    _flip,
    _byte,
    _byte,
    _integer,
    _integer,
    _leave_out,
    _double,
    _move,
    _insert,
    _insert,
    _overwrite,
    _cut,
    _lengthen,
)
