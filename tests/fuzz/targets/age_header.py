"""Headers of age files: parsed strictly, opened, authenticated."""

import io

from tests.fuzz.mutation import havoc
from tests.fuzz.sealing import HEADER, IDENTITIES, header, stanza, unpadded, with_mac
from vaultik.core.age import NONCE
from vaultik.core.age_header import parse_header
from vaultik.core.age_stream import RangeOpener, open_stream
from vaultik.errors import AuthenticationError, FormatError, NoMatchingIdentityError

DOCUMENTED = (FormatError, AuthenticationError, NoMatchingIdentityError)
_TOKENS = (
    b"-> X25519 ",
    b"-> scrypt ",
    b"-> ",
    b"---",
    b"--- ",
    b"\n",
    b" ",
    b"=",
    b"age-encryption.org/v1",
    bytes(1),
    b"A" * 64,
)


def seeds():
    other = b"-> other-kind with arguments\n" + unpadded(bytes(100))[:64] + b"\n" + unpadded(bytes(100))[64:] + b"\n"
    grease = b"-> grease\n\n"
    foreign = stanza(3, public=stanza(4)[:32])
    return [
        HEADER + bytes(NONCE),
        header(stanza(0), other) + bytes(NONCE),
        header(grease, foreign, stanza(1)) + bytes(NONCE),
        header(*(foreign for _ in range(200)), stanza(1)) + bytes(NONCE),
        header(foreign),
        header(b"-> scrypt " + unpadded(bytes(16)) + b" 18\n" + unpadded(bytes(32)) + b"\n"),
    ]


def mutate(data, rng):
    """Blind changes, or whole lines; now and then with the MAC that fits, as anybody could make it."""
    if rng.random() < 0.5:
        lines = data.split(b"\n")
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                lines[one], lines[two] = lines[two], lines[one]
            case 1:
                del lines[one]
            case 2:
                lines[one:one] = lines[min(one, two) : max(one, two) + 1] * rng.choice((1, 1, 30))
            case 3:
                lines[one] = havoc(lines[one], rng, _TOKENS)
        changed = b"\n".join(lines)
    else:
        changed = havoc(data, rng, _TOKENS)
    changed = changed[: 1 << 17]
    return with_mac(changed) + bytes(NONCE) if rng.random() < 0.5 else changed


def target(data):
    outcomes = {_outcome(attempt, data) for attempt in (_parsed, _ranged, _streamed)}
    # The three readers of a header take the same ones, and fail alike.
    assert len(outcomes) == 1, outcomes
    (error,) = outcomes
    if error is not None:
        raise error[0](error[1])


def _outcome(attempt, data):
    try:
        attempt(data)
    except DOCUMENTED as exc:
        return type(exc), str(exc)
    return None


def _parsed(data):
    parsed = parse_header(data)
    lines = b"age-encryption.org/v1\n"
    for arguments, body in parsed.stanzas:
        text = unpadded(body)
        rows = [text[at : at + 64] for at in range(0, len(text) + 1, 64)]
        lines += b"-> " + b" ".join(arguments) + b"\n" + b"\n".join(rows) + b"\n"
    # Nothing is read that isn't written in this one way.
    assert lines + b"--- " + unpadded(parsed.mac) + b"\n" == data[: parsed.length]
    if len(data) < parsed.length + NONCE:
        raise FormatError("age file: ends in its nonce")
    assert len(parsed.unwrap(IDENTITIES)) == 16


def _ranged(data):
    RangeOpener(data, IDENTITIES)


def _streamed(data):
    open_stream(io.BytesIO(data), IDENTITIES)
