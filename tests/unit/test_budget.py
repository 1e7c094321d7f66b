"""A delta is read by a guarded connection, whose steps are counted: enough for all that an honest one asks for."""

import sqlite3
from contextlib import closing

import pytest

from vaultik.snapshot import read, untrusted
from vaultik.snapshot.untrusted import format_errors, open_untrusted
from vaultik.snapshot.write import DELTA, FORMAT, FULL, schema

ROWS = 200_000


def write(path, kind, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema(kind))
        db.execute("BEGIN")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("kind", kind)])
        for statement in statements:
            db.execute(statement)
        db.execute("COMMIT")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of a layer in which one file has very many chunks, read with less patience than usual."""
    monkeypatch.setattr(untrusted, "_LEAST_STEPS", 100_000)
    monkeypatch.setattr(untrusted, "_STEPS_PER_BYTE", 5)
    path = tmp_path / "copy.sqlite"
    write(
        path,
        FULL,
        f"INSERT INTO entry_chunks WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS - 1})"
        " SELECT 2, i * 65536, 1 FROM n",
    )
    return path


def test_a_small_delta_that_takes_a_large_file_out(copy, tmp_path):
    write(tmp_path / "delta.sqlite", DELTA, "INSERT INTO superseded_entries VALUES (2)")
    with format_errors(), closing(open_untrusted(tmp_path / "delta.sqlite")) as delta:
        read._apply(delta, copy)
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM entry_chunks").fetchone() == (0,)
