"""Chunk tables: whole ones of a known version, and nothing else."""

from tests.fuzz.mutation import havoc
from vaultik.core import chunk_table
from vaultik.errors import FormatError

DOCUMENTED = (FormatError,)


def seeds():
    return [chunk_table.encode([(bytes([n]) * 32, n * 1000) for n in range(count)]) for count in (0, 1, 2, 50)]


def mutate(data, rng):
    """Blind changes; now and then the three lengths and the version are made to fit again."""
    changed = havoc(data, rng)
    if rng.random() < 0.5 and len(changed) >= 16:
        length = len(changed)
        head = changed[:4] + (length - 8).to_bytes(4, "little")
        changed = head + changed[8:-4] + length.to_bytes(4, "little")
    return changed


def target(data):
    rows = chunk_table.decode(data)
    assert all(len(chunk) == 32 for chunk, _ in rows)
    assert chunk_table.encode(rows) == data
