"""Another snapshot that lies about where a chunk lies leaves no wrong file under its name."""

import contextlib
import hashlib
import io
import json
import random
import sqlite3

from tests.support.forge import FrameEncoder, open_db, padding_frame, seal
from tests.support.site import Site
from tests.support.snapshots import blobs_of

NEWEST = "20991231T235959Z-00000000"


def forge_newer(site, statement, *values):
    """Store a newer snapshot of the same source, as anybody may who has the recipient and the bucket."""
    plain = site.tmp / "forged.sqlite"
    plain.write_bytes(open_db(site))
    (own,) = site.objects(".sqlite.zst.age")[-1:]
    with contextlib.closing(sqlite3.connect(plain, isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'snapshot'", (NEWEST,))
        db.execute(statement, values)
        db.execute("VACUUM")
    frame, sealed = FrameEncoder(3).encode(plain.read_bytes()), io.BytesIO()
    seal([frame, padding_frame(len(frame))], sealed, [site.recipient])
    name = f"{NEWEST}.{hashlib.sha256(sealed.getvalue()).hexdigest()}.sqlite.zst.age"
    (own.parent / name).write_bytes(sealed.getvalue())


def say_it_lies_in(site, blob, of):
    """Say that what one blob holds lies in another."""
    forge_newer(
        site,
        "UPDATE chunks SET blob = (SELECT id FROM blobs WHERE hash = ?), frame_offset = 0, frame_length = 100"
        " WHERE blob = (SELECT id FROM blobs WHERE hash = ?)",
        bytes.fromhex(blob.name),
        bytes.fromhex(of.name),
    )


def make(tmp_path, **sizes):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    for name, size in sizes.items():
        (site.source / name).write_bytes(random.Random(name).randbytes(size))
    return site, site.backup()["snapshot"]


def check(site, snapshot, target, *options):
    report = json.loads(site.restore(target, "--json", *options, snapshot=snapshot, code=4).stdout)
    for path in site.restored(target).iterdir():
        if ".vaultik-salvaged" not in path.name:
            assert path.read_bytes() == (site.source / path.name).read_bytes()
    return report


def test_in_a_blob_that_the_file_has_all_of(tmp_path):
    site, snapshot = make(tmp_path, large=3_000_000)
    first, *_, last = blobs_of(site, b"large")
    say_it_lies_in(site, first, of=last)
    last.unlink()
    assert not check(site, snapshot, tmp_path / "out")["salvaged"]
    assert check(site, snapshot, tmp_path / "salvaged", "--salvage")["salvaged"]
    site.run("fetch", *site.where, snapshot, site.source / "large", tmp_path / "got", code=4)
    assert not (tmp_path / "got").exists()


def test_in_a_blob_of_which_another_file_lost_something(tmp_path):
    """What is lost of a file isn't forgotten when its blob is read again for another."""
    site, snapshot = make(tmp_path, large=3_000_000, other=1_500_000)
    broken = blobs_of(site, b"large")[1]
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    missing = next(blob for blob in blobs_of(site, b"other") if blob not in blobs_of(site, b"large"))
    missing.unlink()
    say_it_lies_in(site, broken, of=missing)
    report = check(site, snapshot, tmp_path / "out", "--salvage")
    assert len(report["salvaged"]) == len(report["damaged"]) == 2
