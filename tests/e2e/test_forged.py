"""P10: whoever can write to the bucket and knows the recipient can forge a snapshot; it must do no harm."""

import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest

from tests.support.forge import forge, open_db, put_db
from tests.support.site import Site
from vaultik.core.frames import FrameEncoder
from vaultik.errors import FormatError
from vaultik.snapshot.untrusted import open_untrusted
from vaultik.snapshot.write import schema


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (site.source / "dir").mkdir(parents=True)
    (site.source / "dir/file").write_bytes(os.urandom(3000))
    (site.source / "other").write_bytes(os.urandom(2000))
    (site.source / "link").symlink_to("dir")
    os.link(site.source / "other", site.source / "again")
    site.backup()
    return site


def refused(site, tmp_path, *words):
    """Restore, list and fetch all refuse it with exit 4, and leave nothing behind."""
    done = site.restore(tmp_path / "out", code=4)
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    for word in words:
        assert word in done.stderr
    left = [p for p in (tmp_path / "out").rglob("*") if ".vaultik-restore" not in str(p)]
    assert left == []
    site.run("ls", *site.where, "latest", code=4)
    site.run("fetch", *site.where, "latest", site.source / "other", tmp_path / "fetched", code=4)
    assert not (tmp_path / "fetched").exists()


FILE = "(SELECT id FROM entries WHERE name = x'66696c65')"
DIR = "(SELECT id FROM entries WHERE name = x'646972')"
LINK = "(SELECT id FROM entries WHERE name = x'6c696e6b')"


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE entries SET name = CAST('..' AS BLOB) WHERE id = {FILE}",
        f"UPDATE entries SET name = CAST('.' AS BLOB) WHERE id = {FILE}",
        f"UPDATE entries SET name = CAST('a/b' AS BLOB) WHERE id = {FILE}",
        f"UPDATE entries SET name = CAST('/etc/x' AS BLOB) WHERE id = {FILE}",
        f"UPDATE entries SET name = x'6100' WHERE id = {FILE}",
        f"UPDATE entries SET name = x'' WHERE id = {FILE}",
        f"UPDATE entries SET name = zeroblob(256) WHERE id = {FILE}",
        f"UPDATE entries SET parent = {LINK} WHERE id = {FILE}",
        f"UPDATE entries SET parent = id WHERE id = {DIR}",
        f"UPDATE entries SET parent = {FILE} WHERE id = {DIR}",
        f"UPDATE entries SET parent = 999999 WHERE id = {FILE}",
        f"UPDATE entries SET parent = NULL WHERE id = {DIR}",
        "DELETE FROM entries WHERE id = 1",
        "UPDATE entries SET type = 'l', link_target = x'2f746d70' WHERE id = 1",
        "INSERT INTO entries SELECT 99999, parent, name, type, mode, uid, gid, user_name, group_name, size, mtime_ns,"
        f" ctime_ns, birth_ns, link_target, rdev, hardlink, inode_flags, marks FROM entries WHERE id = {FILE}",
        f"UPDATE entries SET type = 'x' WHERE id = {FILE}",
        f"UPDATE entries SET mode = 262144 WHERE id = {FILE}",
        f"UPDATE entries SET uid = -1 WHERE id = {FILE}",
        f"UPDATE entries SET size = -1 WHERE id = {FILE}",
        f"UPDATE entries SET size = 10 WHERE id = {FILE}",
        f"UPDATE entries SET link_target = x'' WHERE id = {LINK}",
        f"UPDATE entries SET link_target = x'610062' WHERE id = {LINK}",
        f"UPDATE entries SET hardlink = {DIR} WHERE id = {FILE}",
        f"UPDATE entries SET hardlink = 424242 WHERE id = {FILE}",
        f"INSERT INTO entry_chunks SELECT {DIR}, offset, chunk FROM entry_chunks LIMIT 1",
        "UPDATE entry_chunks SET chunk = 424242",
        "UPDATE entry_chunks SET offset = offset + 1",
        "UPDATE chunks SET blob = 424242",
        "UPDATE chunks SET size = 0",
        "UPDATE chunks SET size = 1 << 40",
        "UPDATE chunks SET frame_length = 1 << 50",
        "UPDATE chunks SET frame_offset = 1 << 50",
        "UPDATE chunks SET hash = x'00'",
        "UPDATE blobs SET hash = x'00'",
        "UPDATE blobs SET header_length = size",
        f"UPDATE entries SET size = 999 WHERE id = {LINK}",
        f"UPDATE entries SET size = 1 WHERE id = {DIR}",
        "INSERT INTO xattrs VALUES (424242, x'757365722e61', x'00')",
        f"INSERT INTO xattrs SELECT {FILE}, CAST(format('user.%0240d', value) AS BLOB), x'' FROM"
        " (WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 300) SELECT value FROM n)",
        "UPDATE meta SET value = 1e999 WHERE key = 'started'",
        "UPDATE meta SET value = 1e300 WHERE key = 'server_time'",
        "UPDATE meta SET value = -1 WHERE key = 'bytes'",
        "INSERT INTO entries SELECT 1000 + value, CASE value WHEN 1 THEN 1 ELSE 999 + value END, x'61', 'd', 493, 0, 0, NULL, NULL, 0,"
        " 0, 0, NULL, NULL, NULL, NULL, NULL, 0 FROM (WITH RECURSIVE n (value) AS"
        " (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 4097) SELECT value FROM n)",
        "UPDATE meta SET value = 'another' WHERE key = 'snapshot'",
        "UPDATE meta SET value = 2 WHERE key = 'format'",
        "UPDATE meta SET value = 'delta' WHERE key = 'kind'",
        "DELETE FROM meta",
        "CREATE TABLE more (a)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN SELECT 1; END",
        "CREATE INDEX i ON entries (name)",
        "DROP TABLE xattrs",
    ],
)
def test_a_forged_row_or_schema_is_refused_whole(site, tmp_path, statement):
    forge(site, statement)
    refused(site, tmp_path)


def test_an_endless_view_in_a_tables_place(site, tmp_path):
    view = (
        "CREATE VIEW entries AS WITH RECURSIVE e(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM e)"
        " SELECT x AS id, 1 AS parent, 'a' AS name FROM e"
    )
    forge(
        site,
        f"UPDATE sqlite_schema SET type = 'view', rootpage = 0, sql = '{view.replace(chr(39), chr(39) * 2)}' WHERE name = 'entries'",
        schema=True,
    )
    refused(site, tmp_path)


def test_a_schema_of_many_tables_never_gets_to_sqlite(tmp_path, monkeypatch):
    """SQLite takes an hour for a million of them, and nothing ends that."""
    forged = tmp_path / "forged.sqlite"
    with contextlib.closing(sqlite3.connect(forged)) as db:
        db.executescript(schema())
        for number in range(100):
            db.execute(f"CREATE TABLE more{number} (a)")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("SQLite got to see it"))
        with pytest.raises(FormatError, match="not on its first page"):
            open_untrusted(forged)


def test_a_damaged_page(site, tmp_path):
    plain = bytearray(open_db(site))
    plain[4096:8192] = bytes(4096)
    put_db(site, bytes(plain))
    refused(site, tmp_path)


@pytest.mark.parametrize("plain", [b"", b"text", b"SQLite format 3\0" + bytes(84), b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_sqlite_file(site, tmp_path, plain):
    put_db(site, plain)
    refused(site, tmp_path)


def test_a_file_cut_off_or_too_long(site, tmp_path):
    plain = open_db(site)
    put_db(site, plain[:-4096])
    refused(site, tmp_path)
    put_db(site, plain + bytes(4096))
    refused(site, tmp_path)


def deep(depth, name):
    """Directories in one another, as deep as may be or nearly, all of long names."""
    return (
        f"INSERT INTO entries SELECT 1000 + value, CASE value WHEN 1 THEN 1 ELSE 999 + value END, CAST({name} AS BLOB),"
        " 'd', 493, 0, 0, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0 FROM (WITH RECURSIVE n (value) AS"
        f" (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {depth}) SELECT value FROM n)"
    )


def peak_mib(site, *arguments, code):
    """Run the command line; returns the most memory that it, or a process of it, took."""
    script = (
        "import resource, subprocess, sys\n"
        f"done = subprocess.run({site.command(*arguments)!r}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.stderr.buffer.write(done.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=site.environment(), capture_output=True, check=True)
    found, peak_kib = map(int, done.stdout.split())
    assert found == code, done.stderr
    return peak_kib / 1024


def test_a_tree_as_deep_as_may_be_takes_the_memory_of_one_path(site):
    forge(site, deep(1500, "format('%0255d', value)"))
    assert peak_mib(site, "ls", *site.where, "latest", "-R", code=0) < 150


def test_patterns_over_deep_trees_take_the_memory_of_one_path(site, tmp_path):
    forge(site, deep(700, "format('%0255d', value)"))
    assert peak_mib(site, "restore", *site.where, "latest", tmp_path / "out", "--include", "dir/file", code=2) < 130


def test_a_tree_deeper_than_a_path_may_be_comes_back(site, tmp_path):
    forge(site, deep(4096, "'d'"))
    try:
        site.restore(tmp_path / "out")
        at, depth = os.open(tmp_path / "out", os.O_RDONLY | os.O_DIRECTORY), 0
        while "d" in os.listdir(at):
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at, depth = below, depth + 1
        os.close(at)
    finally:
        # Python's own rmtree gives up on such a tree.
        subprocess.run(["rm", "-rf", tmp_path / "out"], check=True)
    assert depth == 4096


def test_xattrs_that_fill_the_memory_come_one_by_one(site, tmp_path):
    """Thousands of 64 KiB at one file, of which no file system here takes even one: counted, not held."""
    forge(
        site,
        f"INSERT INTO xattrs SELECT {FILE}, CAST(format('user.%d', value) AS BLOB), zeroblob(65536) FROM"
        " (WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 2500) SELECT value FROM n)",
        padding=1 << 20,
    )
    assert peak_mib(site, "restore", *site.where, "latest", tmp_path / "out", code=0) < 150


def test_a_bomb_takes_neither_memory_nor_disk(site):
    """A gigabyte of zeros in a few kilobytes of RLE blocks: refused by its ratio, before anything is written."""
    blocks = 8192
    size = blocks * 131072
    header = b"\x28\xb5\x2f\xfd" + bytes([0b1100_0000 | 0b0000_0000]) + bytes([0x38]) + size.to_bytes(8, "little")
    block = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (131072 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    put_db(site, b"", frame=header + block * (blocks - 1) + last)
    assert peak_mib(site, "ls", *site.where, "latest", code=4) < 200


def test_a_wal_database_is_refused(site, tmp_path):
    plain = bytearray(open_db(site))
    plain[18:20] = b"\2\2"
    put_db(site, bytes(plain))
    refused(site, tmp_path)


def test_a_chunk_that_holds_other_bytes_than_its_hash_says(site, tmp_path):
    """The row is well formed and names the wrong content: that file alone doesn't come back."""
    forge(
        site, f"UPDATE chunks SET hash = zeroblob(32) WHERE id IN (SELECT chunk FROM entry_chunks WHERE entry = {FILE})"
    )
    done = site.restore(tmp_path / "out", code=4)
    restored = site.restored(tmp_path / "out")
    assert f"{site.source}/dir/file" in done.stderr
    assert not (restored / "dir/file").exists()
    assert (restored / "other").read_bytes() == (site.source / "other").read_bytes()
    assert list((tmp_path / "out").rglob(".vaultik-*")) == []


def test_a_link_of_the_snapshot_is_never_followed(site, tmp_path):
    """A symlink and, below it, an entry: the DB can't say so, and a target that has one is not written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "out"
    at = site.restored(target)
    at.mkdir(parents=True)
    (at / "dir").symlink_to(outside)
    site.restore(target, "--force")
    assert list(outside.iterdir()) == []
    assert (at / "dir/file").read_bytes() == (site.source / "dir/file").read_bytes()
    assert not (at / "dir").is_symlink()


def test_the_forgery_itself_works(site, tmp_path):
    """A forged DB in which nothing is wrong is restored: the refusals above are not the forge's own."""
    forge(site, f"UPDATE entries SET name = CAST('renamed' AS BLOB) WHERE id = {FILE}")
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "dir/renamed").exists()
    put_db(site, open_db(site), frame=FrameEncoder(19).encode(open_db(site)))
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(open_db(site))
        assert db.execute("SELECT count(*) FROM entries").fetchone()[0] > 3
