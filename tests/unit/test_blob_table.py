"""Who refers to what, kept as spans, against the plain way of counting it."""

import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vaultik.maintain import blob_table
from vaultik.maintain.blob_table import Hold, Lost, References, Share


@contextmanager
def fresh():
    with tempfile.TemporaryDirectory() as folder, closing(blob_table.connect(Path(folder) / "state.sqlite")) as db:
        yield db


BLOBS = st.dictionaries(st.sampled_from([bytes([n]) * 32 for n in range(6)]), st.integers(1, 2), max_size=6)


@given(st.lists(st.tuples(BLOBS, st.sampled_from(Hold)), max_size=8), BLOBS, st.integers(0, 4))
def test_spans_say_what_single_references_say(snapshots, stored, cut):
    with fresh() as db:
        references = References(db)
        holds = {references.add(blobs): firmness for blobs, firmness in snapshots}
        references.finish()
        times = {blob: float(n) for n, blob in enumerate(sorted(stored))}
        blob_table.add_blobs(db, ((blob, size, times[blob]) for blob, size in stored.items()))
        blob_table.hold(db, holds)

        assert list(holds) == list(range(len(snapshots)))
        firmest = {b: max((f for blobs, f in snapshots if b in blobs), default=Hold.NONE) for b in stored}
        assert dict(db.execute("SELECT id, hold FROM blobs")) == firmest
        lost = []
        for n, (blobs, firmness) in enumerate(snapshots):
            wrong = sorted(b for b, size in blobs.items() if stored.get(b) != size)
            if wrong and firmness >= Hold.GRACE:
                lost.append(Lost(n, len(wrong), wrong[0]))
        assert blob_table.find_lost(db) == lost

        for firmness in Hold:
            before = [b for b in stored if firmest[b] == firmness and times[b] < cut]
            since = [b for b in stored if firmest[b] == firmness and times[b] >= cut]
            assert blob_table.share(db, firmness, before=cut) == share(before, stored, times)
            assert blob_table.share(db, firmness, since=cut) == share(since, stored, times)
        blob_table.doom_blobs(db, "blobs", cut)
        doomed = [row[0] for row in db.execute("SELECT name FROM doomed ORDER BY id")]
        assert doomed == sorted(b for b in stored if firmest[b] == Hold.NONE and times[b] < cut)


def share(blobs, stored, times):
    return Share(len(blobs), sum(stored[b] for b in blobs), max((times[b] for b in blobs), default=0))


def test_what_does_not_change_is_one_row():
    with fresh() as db:
        references = References(db)
        for n in range(100):
            references.add({b"always": 1, b"then": 1} if n >= 50 else {b"always": 1})
        references.finish()
        rows = db.execute("SELECT blob, first, last FROM spans ORDER BY blob").fetchall()
        assert rows == [(b"always", 0, 99), (b"then", 50, 99)]
