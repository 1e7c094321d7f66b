"""How a store grew: what each snapshot added to what was stored, and what is stored for it alone. From the manifests, each read once.

Blobs are counted: what a prune could free when a snapshot is dropped, and what it would keep. Memory holds one manifest at a
time, a temporary database the blobs.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from vaultik.look.snapshots import Choice, choose, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultik.core.identity import Identity
    from vaultik.core.manifest import Manifest
    from vaultik.core.sshsig import Signer
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_SCHEMA = """
CREATE TABLE blobs (id TEXT PRIMARY KEY, size INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL) STRICT, WITHOUT ROWID
"""
_NOTE = "INSERT INTO blobs VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1"


class Step(NamedTuple):
    """A snapshot. Bytes."""

    snapshot: str
    source8: str
    host: str
    server_time: float
    complete: bool
    entries: int
    content: int
    """Each piece of content once, as it was before compression."""
    stored: int
    """Of all blobs that it refers to."""
    new: int
    """Of those that no snapshot before it refers to."""
    only_here: int
    """Of those that no other snapshot refers to."""
    metadata: int
    """Of its manifest and DB."""


class Growth(NamedTuple):
    """All snapshots."""

    steps: list[Step]
    """By source, and then by time."""
    stored: int
    """Of all blobs that any of them refers to, each once."""
    metadata: int
    choice: Choice


def find_growth(
    store: Store, identities: Sequence[Identity], host: str | None = None, signers: Sequence[Signer] | None = None
) -> Growth:
    """Return how the snapshots of a store grew; arguments and errors as of `choose`.

    Raises:
        RestoreError: the temporary directory's disk is full.
    """
    with scratch_directory() as directory, closing(sqlite3.connect(directory / "blobs", isolation_level=None)) as db:
        db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
        seen: list[tuple[FoundSnapshot, Step]] = []

        def note(found: FoundSnapshot, facts: Manifest) -> None:
            number = len(seen)
            db.execute("BEGIN")
            db.executemany(_NOTE, ((blob, size, number) for blob, size in facts.blobs))
            db.execute("COMMIT")
            seen.append((found, _step(found, facts)))

        choice = choose(store, identities, host=host, signers=signers, each=note)
        new = dict(db.execute("SELECT first, total(size) FROM blobs GROUP BY first"))
        # What one snapshot alone has, the first that has it has.
        alone = dict(db.execute("SELECT first, total(size) FROM blobs WHERE count = 1 GROUP BY first"))
        (stored,) = db.execute("SELECT total(size) FROM blobs").fetchone()
    steps = [
        step._replace(new=int(new.get(number, 0)), only_here=int(alone.get(number, 0)))
        for number, (_, step) in enumerate(seen)
    ]
    steps.sort(key=lambda step: (step.source8, step.snapshot))
    return Growth(steps, int(stored), sum(step.metadata for step in steps), choice)


def _step(found: FoundSnapshot, facts: Manifest) -> Step:
    return Step(
        found.name.snapshot,
        found.source8,
        facts.host,
        facts.server_time,
        facts.complete,
        facts.entries,
        facts.bytes,
        sum(size for _, size in facts.blobs),
        0,
        0,
        found.size_bytes + found.manifest_bytes,
    )
