"""A plan's ledger: what is read in pages, and what a second try reads again."""

import contextlib
import os
import sqlite3
import tracemalloc

import luigi
import pytest

from tests.support.site import Site
from vaultik.errors import RestoreError
from vaultik.restore import ledger, needs, plan
from vaultik.restore.asked import Asked
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.session import RestoreSession
from vaultik.restore.state import STATE
from vaultik.restore.write import FileWriter
from vaultik.secrets import load_identities
from vaultik.snapshot.read import COPY_SCHEMA
from vaultik.snapshot.write import schema
from vaultik.store.open import open_store
from vaultik.tasks import restore as tasks
from vaultik.tasks.build import build


def copied(chunks, entry_chunks):
    copy = sqlite3.connect(":memory:", isolation_level=None)
    copy.executescript(schema() + COPY_SCHEMA)
    row = (
        "INSERT INTO entries (id, parent, name, type, mode, uid, gid, size, mtime_ns, ctime_ns, marks)"
        " VALUES (?, ?, ?, ?, 0, 0, 0, ?, 0, 0, 0)"
    )
    copy.execute("BEGIN")
    copy.execute(row, (1, None, b"", "d", 0))
    files = sorted({entry for entry, _, _ in entry_chunks})
    copy.executemany(row, ((entry, 1, b"%d" % entry, "f", 250) for entry in files))
    copy.executemany("INSERT INTO chunks VALUES (?, ?, 250, ?, ?, 200, ?)", chunks)
    copy.executemany("INSERT INTO entry_chunks VALUES (?, ?, ?)", entry_chunks)
    blobs = sorted({blob for _, _, blob, _, _ in chunks})
    copy.executemany("INSERT INTO blobs VALUES (?, ?, 1000000, 200, '')", ((b, bytes(32)) for b in blobs))
    copy.execute("COMMIT")
    plan.make_plan(copy, 1)
    return copy


def peak_of(act):
    tracemalloc.start()
    count = act()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return count, peak


def test_memory_does_not_depend_on_how_many_files_a_blob_holds():
    files = 40_000
    chunks = [(n, n.to_bytes(32, "big"), 1, n // 4000 * 300_000, n % 4000 * 250) for n in range(2, files + 2)]
    copy = copied(chunks, [(n, 0, n) for n in range(2, files + 2)])

    def read():
        FileWriter(copy, None, AttributeWriter(copy), 1)
        return sum(1 for chunk in needs.iter_chunks(copy, 1) for _ in needs.iter_places(copy, chunk.id))

    count, peak = peak_of(read)
    assert count == files
    assert peak < 2 << 20


def test_nor_on_how_many_files_share_a_chunk():
    files = 40_000
    copy = copied([(2, bytes(32), 1, 0, 0)], [(n, 0, 2) for n in range(2, files + 2)])
    count, peak = peak_of(lambda: sum(1 for _ in needs.iter_places(copy, 2)))
    assert count == files
    assert peak < 2 << 20


def test_a_second_try_reads_only_what_unfinished_files_lack():
    """Files 10 (blob 1), 20 (blobs 1 and 2) and 30 (blobs 2 and 3): 10 is done; of 20 only blob 2 is in the temporary; 30 failed."""
    chunks = [
        (n, n.to_bytes(32, "big"), blob, n * 1000, 0) for n, blob in ((100, 1), (101, 1), (200, 2), (201, 2), (300, 3))
    ]
    copy = copied(chunks, [(10, 0, 100), (20, 0, 101), (20, 250, 200), (30, 0, 201), (30, 250, 300)])
    assert ledger.wave_blobs(copy, ledger.next_wave(copy)) == [1, 2, 3]
    copy.execute("UPDATE reads SET done = 1")
    assert ledger.next_wave(copy) is None
    ledger.add_done(copy, [10])
    copy.execute("INSERT INTO written VALUES (20, 1, 0), (20, 2, 1), (30, 2, 1), (30, 3, 1)")
    ledger.add_failures(copy, {30: ledger.Failure(ledger.Kind.TARGET, "in the way")})
    assert ledger.may_try_again(copy)
    ledger.go_on(copy)
    ledger.read_again(copy)
    assert [blob for (blob,) in copy.execute("SELECT blob FROM reads WHERE NOT done")] == [1]
    assert [chunk.id for chunk in needs.iter_chunks(copy, 1)] == [101]
    ledger.forget_written(copy, 30)
    ledger.read_again(copy)
    assert [blob for (blob,) in copy.execute("SELECT blob FROM reads WHERE NOT done")] == [1, 2, 3]
    assert [chunk.id for chunk in needs.iter_chunks(copy, 2)] == [201]


def test_damage_alone_is_no_reason_for_another_try_and_is_asked_for_again_by_one():
    copy = copied([(100, bytes(32), 1, 0, 0)], [(10, 0, 100)])
    ledger.add_failures(copy, {10: ledger.Failure(ledger.Kind.DAMAGED, "missing")})
    assert not ledger.may_try_again(copy)
    ledger.add_failures(copy, {11: ledger.Failure(ledger.Kind.REFUSED, "archived")})
    assert ledger.may_try_again(copy)
    ledger.add_damaged(copy, [1])
    ledger.go_on(copy)
    assert copy.execute("SELECT entry FROM failures").fetchall() == []
    assert not ledger.has_damage(copy)


class FakeSession:
    """As many blobs as a large restore has."""

    def __init__(self, blobs):
        self.copy = copied(
            [(n, n.to_bytes(32, "big"), n, 0, 0) for n in range(2, blobs + 2)], [(n, 0, n) for n in range(2, blobs + 2)]
        )
        self.steps = set()
        self.widest = 0
        self.emit = lambda **_event: None

    def is_done(self, step):
        return step in self.steps

    def is_finished(self):
        return "finished" in self.steps

    def is_compared(self):
        return "compared" in self.steps

    def compare(self):
        self.steps.add("compared")

    def is_read(self, blob):
        return ledger.is_read(self.copy, blob)

    def next_wave(self):
        return ledger.next_wave(self.copy)

    def wave_blobs(self, wave):
        blobs = ledger.wave_blobs(self.copy, wave)
        self.widest = max(self.widest, len(blobs))
        return blobs

    def fetch_snapshot(self):
        self.steps.add("snapshot")

    def restore_blob(self, blob):
        self.copy.execute("UPDATE reads SET done = 1 WHERE blob = ?", (blob,))

    def has_looked(self):
        return "elsewhere" in self.steps

    def look_elsewhere(self):
        self.steps.add("elsewhere")

    def finish(self):
        assert self.next_wave() is None
        self.steps.add("finished")


def test_blobs_are_yielded_in_waves(monkeypatch):
    session = FakeSession(100)
    monkeypatch.setitem(tasks._sessions, "waves", session)
    assert build([tasks.RestoreTree(restore_id="waves")])
    assert session.is_finished()
    assert session.widest == 32
    assert isinstance(tasks.RestoreWave(restore_id="waves", number=3).requires()[0], luigi.Task)
    assert len(tasks.RestoreWave(restore_id="waves", number=3).requires()) == 4


def test_another_directory_in_the_states_place_is_not_written_to(tmp_path):
    """Who may rename in the target swaps the state for a link, between its making and its use."""
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "file").write_text("content")
    site.backup()
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    session = RestoreSession(
        lambda: open_store(site.endpoint, site.bucket, site.prefix), load_identities(site.key), Asked(target, "latest")
    )
    session.begin()
    os.rename(target / STATE, target / "moved")
    os.symlink(elsewhere, target / STATE)
    session.fetch_snapshot()
    assert session.is_done("snapshot")
    assert os.listdir(elsewhere) == []
    assert "plan.sqlite" in os.listdir(target / "moved")
    with contextlib.suppress(RestoreError):
        session.clean()
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("what", ["plan.sqlite", "plan.sqlite-wal"])
def test_links_in_the_state_are_not_followed(tmp_path, what):
    site = Site(tmp_path)
    site.source.mkdir()
    site.backup()
    (tmp_path / "out" / STATE).mkdir(parents=True, mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out" / STATE / what).symlink_to(victim)
    site.restore(tmp_path / "out")
    assert victim.read_text() == "precious"
