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
