"""Snapshot DBs over layers: what they come to keeps every rule, whatever each of them says."""

import hashlib

from tests.fuzz import databases, reading
from tests.fuzz.databases import make
from tests.fuzz.mutation import havoc, pack, unpack
from tests.fuzz.sealing import seal
from vaultik.core.frames import FrameEncoder
from vaultik.errors import IntegrityError
from vaultik.snapshot.write import DELTA

DOCUMENTED = (IntegrityError,)
_MOST = 5


def _name(number):
    """What stands in a DB where the digest of a layer belongs, which nobody knows before it is sealed."""
    return b"%031d" % number + b"L"


def delta(*below):
    """A delta that says to build on the layers of these numbers."""
    rows = [f"INSERT INTO layers VALUES ({place}, x'{_name(number).hex()}')" for place, number in enumerate(below)]
    listed = [
        f"INSERT INTO blobs VALUES ({number + 10}, x'{_name(number).hex()}', 900, 200, 'age1')" for number in set(below)
    ]
    return make(DELTA, more=rows + listed)


def seeds():
    """The lowest first; the last is the snapshot's own."""
    low = make()
    return [
        pack([low, delta(0)]),
        pack([low, delta(0), delta(0, 1)]),
        pack([delta(0), delta(1), delta(1, 0)]),
        pack([low, delta(0, 0)]),
        pack([delta(1), delta(0)]),
        pack([low]),
    ]


def mutate(data, rng):
    parts = unpack(data, _MOST) or [make()]
    one = rng.randrange(len(parts))
    match rng.randrange(12):
        case 0:
            parts.insert(one, rng.choice(parts))
        case 1 if len(parts) > 1:
            del parts[one]
        case 2:
            parts[one] = havoc(parts[one], rng)
        case 3:
            parts[one] = parts[one].replace(_name(rng.randrange(_MOST)), _name(rng.randrange(_MOST)))
        case _:
            parts[one] = databases.mutate(parts[one], rng)
    return pack(parts[:_MOST])


def target(data):
    *low, top = unpack(data, _MOST) or [b""]
    names, stored = {}, []
    for number, layer in enumerate(low):
        named = _named(layer, names)
        # A layer is a blob: its DB in several frames.
        half = len(named) // 2
        stored.append(seal(FrameEncoder(1).encode(named[:half]) + FrameEncoder(1).encode(named[half:])))
        names[_name(number)] = hashlib.sha256(stored[-1]).digest()
    reading.read_snapshot(reading.sealed(_named(top, names)), stored)


def _named(plain, names):
    for name, digest in names.items():
        plain = plain.replace(name, digest)
    return plain
