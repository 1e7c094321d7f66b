"""The index's file: whoever else looks at it leaves it whole."""

import subprocess

import pytest

from vaultik.errors import LocalIndexError
from vaultik.index import db


def test_another_program_that_looks_at_it_does_not_take_its_wal_away(tmp_path):
    """A second connection of the same process must not drop the first one's locks on the file."""
    path = tmp_path / "index.sqlite"
    first, second = db.open_index(path), db.open_index(path)
    first.execute("INSERT INTO state VALUES ('a', 1)")
    log = path.with_name("index.sqlite-wal").stat().st_ino
    subprocess.run(["sqlite3", path, "SELECT count(*) FROM state"], check=True, capture_output=True)
    assert path.with_name("index.sqlite-wal").stat().st_ino == log
    second.execute("INSERT INTO state VALUES ('b', 2)")
    seen = subprocess.run(["sqlite3", path, "SELECT count(*) FROM state"], check=True, capture_output=True, text=True)
    assert seen.stdout.strip() == "2"
    first.close()
    second.close()


def test_its_file_is_private_and_a_link_is_refused(tmp_path):
    db.open_index(tmp_path / "index.sqlite").close()
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalIndexError, match="symbolic links"):
        db.open_index(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_extents_planned_by_an_older_version_are_planned_anew(tmp_path, monkeypatch):
    """It didn't note where their range of data ends; whole files keep their place in their bundle."""
    path = tmp_path / "index.sqlite"
    steps = db._schema_steps()
    with monkeypatch.context() as patch:
        patch.setattr(db, "_schema_steps", lambda: steps[:2])
        old = db.open_index(path)
    for entry in (7, 8):
        old.execute(
            "INSERT INTO changed (entry, size, blocks, mtime_ns, ctime_ns, inode) VALUES (?, 9, 1, 1, 1, 1)", (entry,)
        )
    old.execute("INSERT INTO pieces (bundle, ordinal, entry, start, stop, cut) VALUES (1, 0, 7, 0, NULL, 0)")
    old.execute("INSERT INTO pieces (bundle, ordinal, entry, start, stop, cut) VALUES (2, 0, 8, 4, 9, 1)")
    old.execute("INSERT INTO boundaries VALUES (8, 4, 5)")
    old.execute("INSERT INTO extent_chunks VALUES (8, 0, 1)")
    old.close()
    index = db.open_index(path)
    assert index.execute("SELECT entry FROM pieces").fetchall() == [(7,)]
    for table in ("boundaries", "extent_chunks"):
        assert index.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert index.execute("SELECT entry FROM changed ORDER BY entry").fetchall() == [(7,), (8,)]
    index.close()
