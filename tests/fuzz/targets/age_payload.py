"""What follows an age file's header: nothing leaves a reader that isn't authenticated, and none takes half a file for a whole one."""

import io

from tests.fuzz.mutation import havoc, pack, unpack
from tests.fuzz.sealing import CIPHER, HEADER, IDENTITIES, STORED, encrypt, segments
from vaultik.core.age import NONCE, SEGMENT, segment_nonce
from vaultik.core.age_stream import RangeOpener, SegmentStream, open_stream, plaintext_size
from vaultik.errors import AuthenticationError, FormatError, IntegrityError

DOCUMENTED = (IntegrityError,)


def seeds():
    """The segments of a file, each a part; before them how many bytes are asked for at a time, and where."""
    return [
        pack([bytes([1, 2, 3, 4, 5]), *segments(bytes(size))])
        for size in (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 5, 17 * SEGMENT + 5)
    ]


def mutate(data, rng):
    asked, *parts = unpack(data, 40) or [b"\1"]
    if not parts or rng.random() < 0.1:
        return pack([havoc(asked, rng)[:64], *parts])
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(8):
        case 0:
            parts[one] = havoc(parts[one], rng)
        case 1:
            parts[one], parts[two] = parts[two], parts[one]
        case 2:
            del parts[one]
        case 3:
            parts.insert(one, parts[two])
        case 4:
            del parts[one + 1 :]
        case 5:
            # Who has the key may put the end anywhere, and segments of any length.
            parts[one] = encrypt(bytes(rng.choice((0, 1, 100, SEGMENT, SEGMENT + 1))), one, final=rng.random() < 0.5)
        case 6:
            parts[one] = encrypt(bytes(SEGMENT), one, final=True)
            parts[one + 1 :] = [encrypt(b"more", one + 1, final=True)]
        case 7:
            parts.append(encrypt(bytes(rng.choice((0, 5, SEGMENT))), len(parts), final=True))
    return pack([asked, *parts])


def target(data):
    asked, *parts = unpack(data, 40) or [b""]
    payload = b"".join(parts)
    asked = asked or b"\1"
    stored = HEADER + bytes(NONCE) + payload
    _by_ranges(stored, payload, asked)
    _by_segments(stored, payload, asked)
    _whole(stored, payload, asked)


def opened(payload, number, *, final):
    """A segment's plaintext by its place alone, None if it isn't authentic."""
    try:
        return CIPHER.decrypt(
            segment_nonce(number, final=final), payload[number * STORED : (number + 1) * STORED], None
        )
    except Exception:  # noqa: BLE001 - whatever a cipher says
        return None


def _whole(stored, payload, asked):
    count = max(1, -(-len(payload) // STORED))
    released, failure = _read_all(open_stream(io.BytesIO(stored), IDENTITIES), asked)
    plain = [opened(payload, number, final=number == count - 1) for number in range(count)]
    sound = all(part is not None for part in plain) and not (count > 1 and not plain[-1])
    assert (failure is None) == sound
    at = 0
    for number, in_place in enumerate(plain):
        if at == len(released):
            break
        # The end where no end is, or none where one is: authentic, and the last that comes.
        part = opened(payload, number, final=number != count - 1) if in_place is None else in_place
        assert part is not None, f"segment {number} was released"
        assert released[at : at + len(part)] == part
        at += len(part)
        assert in_place is not None or at == len(released)
    assert at == len(released)
    assert not sound or released == b"".join(plain)
    if failure is not None:
        raise failure


def _read_all(stream, asked):
    parts = []
    try:
        for turn in range(1 << 20):
            part = stream.read(-1 if (size := asked[turn % len(asked)]) == 255 else 100 + size * 997)
            if not part:
                return b"".join(parts), None
            parts.append(part)
    except AuthenticationError as exc:
        return b"".join(parts), exc
    raise AssertionError("it never ends")


def _total(payload, asked):
    """How much plaintext there should be: as much as there seems to be, or anything else."""
    if asked[0] % 2:
        try:
            return plaintext_size(len(HEADER) + NONCE + len(payload), len(HEADER))
        except FormatError:
            pass
    return int.from_bytes(asked[:3], "little")


def _ranges(total, asked):
    begin = 0
    for number in range(0, len(asked) - 1, 2):
        begin = min(total, begin + asked[number] * 3001)
        if begin < total:
            yield begin, min(total - begin, 1 + asked[number + 1] * 3001)


def _check(found, payload, begin, length, total):
    final = max(total - 1, 0) // SEGMENT
    numbers = range(begin // SEGMENT, (begin + length - 1) // SEGMENT + 1)
    plain = [opened(payload, number, final=number == final) for number in numbers]
    sound = None not in plain
    joined = b"".join(plain) if sound else b""
    sound = sound and all(len(part) == SEGMENT for part in plain[:-1])
    expected = joined[begin - numbers[0] * SEGMENT :][:length]
    assert (found is not None) == (sound and len(expected) == length), (begin, length, total)
    assert found in (None, expected)


def _by_ranges(stored, payload, asked):
    total = _total(payload, asked)
    opener = RangeOpener(stored[: len(HEADER) + NONCE], IDENTITIES)
    for begin, length in _ranges(total, asked):
        at, count = opener.ciphertext_range(begin, length, total)
        assert count <= (length // SEGMENT + 2) * STORED
        try:
            found = opener.open(stored[at : at + count], begin, length, total)
        except AuthenticationError:
            found = None
        _check_short(found, stored[at : at + count], payload, begin, length, total)


def _check_short(found, taken, payload, begin, length, total):
    """As `_check`, of a payload that is cut where the range ends: there the last segment may be longer than it should."""
    first = begin // SEGMENT
    _check(found, payload[: first * STORED] + taken, begin, length, total)


def _by_segments(stored, payload, asked):
    total = _total(payload, asked)
    stream = SegmentStream(io.BytesIO(stored), IDENTITIES, total)
    for begin, length in _ranges(total, asked):
        try:
            found = stream.take(begin, length)
        except AuthenticationError:
            found = None
        _check(found, payload, begin, length, total)
