"""Whole snapshot DBs that strangers wrote: copied with every rule kept, or refused."""

from tests.fuzz import databases, frames_of_all_kinds, reading
from tests.fuzz.databases import make, many
from vaultik.errors import IntegrityError

DOCUMENTED = (IntegrityError,)
_FRAME = b"FRAME:"
"""What begins so is a frame and not what is in one."""


def seeds():
    return [
        make(),
        make(more=[many(300)]),
        make(more=["CREATE TABLE more (a)"]),
        make(more=[f"INSERT INTO xattrs VALUES (3, x'61{number:02x}', zeroblob(60000))" for number in range(1, 9)]),
        *(_FRAME + frame for frame in frames_of_all_kinds.bombs()),
        b"SQLite format 3\0" + bytes(4080),
    ]


def mutate(data, rng):
    if data.startswith(_FRAME):
        return _FRAME + frames_of_all_kinds.mutate(data[len(_FRAME) :], rng)
    return databases.mutate(data, rng)


def target(data):
    frame = data[len(_FRAME) :] if data.startswith(_FRAME) else None
    reading.read_snapshot(reading.sealed(data, frame))
