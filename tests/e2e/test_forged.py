"""P10: whoever can write to the bucket and knows the recipient can forge a snapshot; it must do no harm."""

import contextlib
import io
import os
import sqlite3
import subprocess
import sys

import pytest

from tests.fuzz.targets import frames
from tests.support.forge import forge, open_db, put_db
from tests.support.site import Site
from vaultik.core import chunk_table
from vaultik.core.age_seal import seal
from vaultik.core.frames import FrameEncoder
from vaultik.core.names import blob_key
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
AGAIN, OTHER = (f"(SELECT id FROM entries WHERE name = x'{name.encode().hex()}')" for name in ("again", "other"))
BELOW_DIR = (
    f"INSERT INTO entries SELECT 99999, {DIR}, x'62656c6f77', type, mode, uid, gid, user_name, group_name, size, mtime_ns,"
    f" ctime_ns, birth_ns, link_target, rdev, hardlink, inode_flags, marks FROM entries WHERE id = {DIR}"
)


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
        f"UPDATE entries SET parent = {OTHER} WHERE id = {DIR}",
        f"UPDATE entries SET hardlink = {AGAIN} + {OTHER} - id WHERE id IN ({AGAIN}, {OTHER})",
        f"UPDATE entries SET name = CAST('../../x' AS BLOB) WHERE id = {FILE}",
        "UPDATE entries SET name = CAST('/' AS BLOB) WHERE id = 1",
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
        "UPDATE entry_chunks SET offset = -1",
        "UPDATE entry_chunks SET offset = 9223372036854775807",
        "INSERT INTO entry_chunks SELECT entry, offset + 1, chunk FROM entry_chunks",
        "UPDATE chunks SET offset = -1",
        "UPDATE chunks SET offset = 9223372036854775807",
        "UPDATE chunks SET frame_length = (SELECT size FROM blobs WHERE id = blob) - frame_offset + 1",
        "UPDATE chunks SET frame_offset = 9223372036854775807",
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
        "UPDATE meta SET value = zeroblob(900000) WHERE key = 'source_dirs'",
        f"INSERT INTO xattrs VALUES ({FILE}, x'757365722e61', zeroblob(65537))",
        f"INSERT INTO xattrs VALUES ({FILE}, x'757365722e61', zeroblob(3000000))",
        f"UPDATE entries SET user_name = CAST(zeroblob(2000000) AS TEXT) WHERE id = {FILE}",
        "UPDATE meta SET value = 'another' WHERE key = 'snapshot'",
        "UPDATE meta SET value = 2 WHERE key = 'format'",
        "UPDATE meta SET value = 'delta' WHERE key = 'kind'",
        "DELETE FROM meta",
        "UPDATE meta SET value = CAST(x'ff' AS TEXT) WHERE key = 'host'",
        "UPDATE entries SET user_name = CAST(x'ff' AS TEXT)",
        "CREATE TABLE more (a)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN SELECT 1; END",
        "CREATE INDEX i ON entries (name)",
        "ALTER TABLE xattrs ADD COLUMN more BLOB AS (zeroblob(900000000))",
        "DROP TABLE xattrs",
    ],
)
def test_a_forged_row_or_schema_is_refused_whole(site, tmp_path, statement):
    forge(site, statement)
    refused(site, tmp_path)


def test_directories_that_lie_in_each_other(site, tmp_path):
    forge(site, BELOW_DIR, f"UPDATE entries SET parent = 99999 WHERE id = {DIR}")
    refused(site, tmp_path, "entries: a parent that is no earlier directory")


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("xattrs", "entry INTEGER NOT NULL, name BLOB NOT NULL, value BLOB AS (zeroblob(900000000)) NOT NULL"),
        ("entries", "id INTEGER PRIMARY KEY, parent INTEGER, name BLOB AS (zeroblob(900000000))"),
    ],
)
def test_a_generated_column_in_a_tables_place(site, tmp_path, table, columns):
    """In a table that is there, under the same name, so that nothing but its text tells."""
    forge(
        site, f"UPDATE sqlite_schema SET sql = 'CREATE TABLE {table} ({columns})' WHERE name = '{table}'", schema=True
    )
    refused(site, tmp_path, "another schema")


def test_entries_without_number_on_few_pages(site, tmp_path):
    """Every cell of a page leads to the next page, of three, and all of the last to one leaf: 10^8 entries in 20 kB."""
    plain = bytearray(open_db(site))
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(bytes(plain))
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'").fetchone()[0]
    last = len(plain) // 4096
    plain += plain[(root - 1) * 4096 : root * 4096]
    for number, child in ((last + 2, last + 1), (last + 3, last + 2), (last + 4, last + 3)):
        assert len(plain) == (number - 1) * 4096
        plain += inner_page(child)
    plain[(root - 1) * 4096 : root * 4096] = inner_page(last + 4)
    plain[28:32] = (len(plain) // 4096).to_bytes(4, "big")
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(bytes(plain))
        assert len(db.execute("SELECT 1 FROM entries LIMIT 100000").fetchall()) == 100_000
    put_db(site, bytes(plain))
    refused(site, tmp_path, "damaged inside")


def inner_page(child, cells=100):
    """A table's page all of whose cells lead to the same one."""
    places = [4096 - 5 * (number + 1) for number in range(cells)]
    head = (
        bytes([5, 0, 0]) + cells.to_bytes(2, "big") + places[-1].to_bytes(2, "big") + b"\0" + child.to_bytes(4, "big")
    )
    page = bytearray(head + b"".join(place.to_bytes(2, "big") for place in places)).ljust(4096, b"\0")
    for number, place in enumerate(places):
        page[place : place + 5] = child.to_bytes(4, "big") + bytes([number + 1])
    return page


def test_many_entries_in_few_bytes(site):
    """Within the bound of what a DB may hold: they take disk, and the memory of one page."""
    more = "CASE value WHEN 1 THEN 1 ELSE 1000 END, CAST(format('%08d', value) AS BLOB), 'd', 493, 0, 0, NULL, NULL, 0"
    forge(
        site,
        f"INSERT INTO entries SELECT 999 + value, {more}, 0, 0, NULL, NULL, NULL, NULL, NULL, 0 FROM (WITH RECURSIVE n (value) AS"
        " (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 300000) SELECT value FROM n)",
    )
    assert peak_mib(site, "ls", *site.where, "latest", "-R", code=0) < 150


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
    """SQLite takes over ten minutes for a million of them, and nothing ends that."""
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


def forge_blob(site, frame, wanted):
    """Put a blob of one frame into the store, and let the file's chunk be in it."""
    sealed = io.BytesIO()
    facts = seal([frame, chunk_table.tail(len(frame), [])], sealed, [site.recipient])
    path = site.store / site.bucket / site.prefix / blob_key(facts.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed.getvalue())
    forge(
        site,
        f"INSERT INTO blobs SELECT 99999, x'{facts.sha256.hex()}', {facts.size_bytes}, {facts.header_length}, recipients"
        " FROM blobs LIMIT 1",
        f"UPDATE chunks SET blob = 99999, frame_offset = 0, frame_length = {len(frame)}, offset = 0, size = {wanted}"
        f" WHERE id IN (SELECT chunk FROM entry_chunks WHERE entry = {FILE})",
        f"UPDATE entries SET size = {wanted} WHERE id = {FILE}",
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (frames.bomb(8192), "declares 1073741824 bytes, at most 1048576 are allowed"),
        (frames.bomb(8192, 3000), "zstd frame: "),
        (frames.bomb(2, 1 << 63), f"declares {1 << 63} bytes"),
        (
            frames.bomb(8)[:4] + b"\x80\x38" + (1 << 20).to_bytes(4, "little") + frames.bomb(8)[14:-4],
            "runs past the end",
        ),
        (b"\x28\xb5\x2f\xfd\x00\x38\x01\x00\x00", "declares no size"),
        (FrameEncoder(3).encode(bytes(3000)), "digest mismatch"),
        (FrameEncoder(3).encode(bytes(2999)), "digest mismatch"),
        (FrameEncoder(3).encode(bytes(3000)) * 2, "bytes after its end"),
        (b"\x5d\x2a\x4d\x18\xff\xff\xff\xff", "zstd frame"),
    ],
    ids=range(9),
)
def test_a_blob_that_holds_something_else(site, frame, message):
    """What any of its frames declares costs no memory, and the other files come back."""
    forge_blob(site, frame, 3000)
    target = site.tmp / "out"
    assert peak_mib(site, "restore", *site.where, "latest", target, code=4) < 150
    assert message in site.restore(site.tmp / "again", code=4).stderr
    restored = site.restored(target)
    assert not (restored / "dir/file").exists()
    assert (restored / "other").read_bytes() == (site.source / "other").read_bytes()


def test_chunks_that_overlap_in_their_frame(site, tmp_path):
    """Each is found where its row says; what isn't what its hash says doesn't come back."""
    forge(site, "UPDATE chunks SET offset = 1")
    assert "digest mismatch" in site.restore(tmp_path / "out", code=4).stderr
    assert not (site.restored(tmp_path / "out") / "dir/file").exists()


def test_blobs_as_large_as_numbers_go(site, tmp_path):
    """Nothing in the store is so large; to a reader they are damaged."""
    forge(site, "UPDATE blobs SET size = 9223372036854775807", "UPDATE chunks SET frame_offset = 9000000000000000000")
    done = site.restore(tmp_path / "out", code=4)
    assert "Traceback" not in done.stderr
    assert not (site.restored(tmp_path / "out") / "other").exists()


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
