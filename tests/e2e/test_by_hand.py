"""P5: what FORMAT.md tells to type gives a file back, with age, zstd, sqlite3 and a shell alone."""

import hashlib
import os
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.snapshots import open_newest
from tests.support.tree import make_tree
from vaultik.core import chunk_table
from vaultik.index import layers
from vaultik.snapshot.write import schema

FORMAT = Path(__file__).parents[2] / "FORMAT.md"


def commands():
    section = FORMAT.read_text().split("## 8. By hand")[1]
    return re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]


def test_the_schemas_in_the_book_are_those_of_the_code():
    assert schema().strip() in FORMAT.read_text()
    assert schema("delta").removeprefix(schema()).strip() in FORMAT.read_text()


@pytest.mark.parametrize("name", ["small", "big", "sparse", "many/hard link to big", "empty", "many/3/file 3"])
def test_the_commands_in_the_book_restore_a_file(local_site, tmp_path, name):
    make_tree(local_site.source)
    local_site.backup()
    check_by_hand(local_site, tmp_path, local_site.source / name)


def test_the_commands_in_the_book_put_a_delta_over_its_layers(local_site, tmp_path):
    """A file that is in the lowest layer only, one that changed since, one that came."""
    tree = local_site.source / "tree"
    for number in range(layers.LEAST_ROWS // 2):
        file = tree / str(number % 50) / str(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % number)
    local_site.backup()
    (tree / "1" / "1").write_bytes(b"changed")
    (tree / "2" / "2").unlink()
    (tree / "2" / "new").write_bytes(b"new")
    local_site.backup()
    with closing(open_newest(local_site)) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'kind'").fetchone() == ("delta",)
    for number, name in enumerate(("3/3", "1/1", "2/new")):
        check_by_hand(local_site, tmp_path / str(number), tree / name)


def check_by_hand(site, folder, wanted):
    env = {
        "PATH": "/usr/bin:/bin",
        "STORE": str(site.store / site.bucket / site.prefix.rstrip("/")),
        "KEY": str(site.key),
        "WANTED": str(wanted).lstrip("/"),
    }
    work = folder / "by hand"
    work.mkdir(parents=True)
    done = subprocess.run(
        ["sh", "-eu", "-c", commands()], cwd=work, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the DB is what its name says" in done.stdout
    assert done.stderr == ""
    assert (work / "restored").read_bytes() == wanted.read_bytes()


def test_every_object_is_named_by_its_own_bytes_and_a_blob_by_zstd_is_its_chunks(local_site):
    """P2, and that a blob describes itself."""
    make_tree(local_site.source)
    local_site.backup()
    assert local_site.objects()
    for path in local_site.objects():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in path.name
        assert os.fsencode(local_site.source) not in os.fsencode(path)
    for blob in local_site.blobs():
        plain = subprocess.run(["age", "-d", "-i", local_site.key, blob], check=True, capture_output=True).stdout
        data = subprocess.run(["zstd", "-dq"], input=plain, check=True, capture_output=True).stdout
        size = int.from_bytes(plain[-4:], "little")
        at = 0
        for chunk, length in chunk_table.decode(plain[-size:]):
            assert hashlib.sha256(data[at : at + length]).digest() == chunk
            at += length
        assert at == len(data)
