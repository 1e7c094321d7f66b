"""The promises, each with a test that tries to break it. (P5 and P2: test_by_hand; P7: fault/test_kills.)"""

import hashlib
import json
import os
import random
import sqlite3
import subprocess

import pytest

from tests.conftest import S3_GROUP
from tests.fault.test_kills import KILLER, run_killed
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.core.identity import generate

MARK = b"~~ a line that nobody but its owner may read ~~\n"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="2MiB")
    site.source.mkdir()
    rng = random.Random(7)
    for n in range(100):
        (site.source / f"file {n}").write_bytes(MARK + rng.randbytes(100_000) + MARK)
        os.utime(site.source / f"file {n}", ns=(1, 1_600_000_000_000_000_000))
    return site


def on_the_host(site):
    """Everything that vaultik left on the source host."""
    return [path for path in (*site.state.rglob("*"), site.config) if path.is_file()]


class TestP1NothingOnTheSourceOpensABackup:
    def test_a_backup_needs_no_identity_and_leaves_none(self, site):
        identity = site.key.read_text().strip()
        site.key.unlink()
        site.backup()
        assert all(identity.encode() not in path.read_bytes() for path in on_the_host(site))

    def test_what_lies_on_the_host_opens_no_object(self, site):
        site.backup()
        for path in on_the_host(site):
            done = subprocess.run(["age", "-d", "-i", path, site.blobs()[0]], capture_output=True, check=False)
            assert done.returncode != 0
            assert done.stdout == b""


class TestP3SnapshotsAreImmutableAndLast:
    def test_the_db_is_put_last_and_nothing_changes_afterwards(self, site):
        run_killed(site, "")
        puts = (site.tmp / "puts").read_text().splitlines()
        assert puts[-1].endswith(".sqlite.zst.age")
        assert puts[-2].endswith(".manifest.zst.age")
        before = {path: path.read_bytes() for path in site.objects()}
        (site.source / "file 1").write_bytes(b"changed")
        site.backup()
        assert {path: path.read_bytes() for path in before} == before

    @pytest.mark.parametrize("point", ["seal db:after", "put db:before"])
    def test_without_its_db_there_is_no_snapshot(self, site, point):
        run_killed(site, point)
        assert site.blobs()
        assert "no snapshot" in site.run("snapshots", *site.where, code=2).stderr


class TestP4ASnapshotNeverRefersToWhatIsNotStored:
    def test_what_was_deleted_or_cut_off_by_hand_is_stored_again(self, site, tmp_path):
        site.backup()
        blobs = site.blobs()
        blobs[0].unlink()
        os.truncate(blobs[1], 1000)
        blobs[1].rename(tmp_path / "cut off")
        summary = site.backup()
        assert summary["blobs"] > 0
        assert summary["bytes_new"] < summary["bytes"]
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)

    def test_everything_a_manifest_names_is_there(self, site):
        site.backup()
        (site.source / "file 3").unlink()
        (site.source / "new").write_bytes(b"new")
        site.backup()
        rows = json.loads(site.run("snapshots", *site.where, "--json").stdout)
        names = {path.name for path in site.blobs()}
        assert [row["blobs"] for row in rows] == [len(names) - 1, len(names)]

    def test_a_bucket_that_was_emptied_is_filled_again(self, site, tmp_path):
        site.backup()
        for path in site.objects():
            path.unlink()
        site.backup()
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)

    def test_another_bucket_gets_everything(self, site, tmp_path):
        site.backup()
        site.configure(s3={**site.settings["s3"], "bucket": "second"})
        summary = site.backup()
        assert summary["bytes_new"] == summary["bytes"]
        site.bucket = "second"
        site.restore(tmp_path / "out")
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)

    def test_a_lost_index_costs_an_upload_and_keeps_the_chain(self, site, tmp_path):
        site.backup()
        site.index.unlink()
        site.backup()
        assert len({path.parent for path in site.objects(".sqlite.zst.age")}) == 1
        site.forget_state()  # even its UUID: a new source of the same host
        site.backup()
        assert len({path.parent for path in site.objects(".sqlite.zst.age")}) == 2
        done = site.restore(tmp_path / "out", code=2)
        assert "2 sources of host" in done.stderr
        newest = max(site.objects(".sqlite.zst.age"), key=lambda path: path.name).parent.name
        assert newest in done.stderr
        site.restore(tmp_path / "out", "--host", newest)
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)

    def test_a_new_recipient_gets_everything(self, site, tmp_path):
        site.backup()
        identity, recipient = generate()
        site.configure(age_recipients=[recipient])
        summary = site.backup()
        assert summary["bytes_new"] == summary["bytes"]
        second = tmp_path / "second.key"
        second.write_text(identity)
        second.chmod(0o600)
        site.restore(tmp_path / "out", "--identity", second)
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)
        site.configure(age_recipients=[])
        assert site.backup()["bytes_new"] == 0


class TestP6NoPlaintextOnTheSourcesDisk:
    POINTS = [
        "stream:before",
        "stream:after",
        "chunk:after",
        "rename:after",
        "upload:before",
        "seal db:after",
        "put db:before",
        "finish:after",
    ]

    @pytest.mark.parametrize("point", POINTS)
    def test_whatever_is_left_when_it_is_killed_holds_no_content(self, site, point):
        run_killed(site, point)
        looked_at = on_the_host(site) + site.objects()
        assert looked_at
        for path in looked_at:
            assert MARK[:30] not in path.read_bytes(), path

    def test_what_it_writes_is_private(self, site):
        run_killed(site, "put db:before", count=1)
        for path in (*site.state.rglob("*"), site.state):
            assert path.stat().st_mode & 0o077 == 0, path

    def test_the_spool_is_bounded(self, site):
        """ChunkFile waits for earlier uploads: with one worker at most two blobs lie in the spool."""
        run_killed(site, "upload:before", count=3)
        assert 0 < len(site.spooled()) <= 2

    def test_the_snapshot_db_is_gone_from_beside_the_index(self, site):
        site.backup()
        assert {path.name for path in site.state.iterdir()} <= {
            "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.sqlite.lock", "index.sqlite.source", "spool",
        }  # fmt: skip


class TestP10DamageIsNoticed:
    """Every damage is named, costs the files that need it, and nothing wrong gets a file's name."""

    def check(self, site, out, *, code=4):
        done = site.restore(out, code=code)
        restored, source = describe(site.restored(out)), describe(site.source)
        assert restored.keys() < source.keys()
        assert all(source[path][-2] == facts[-2] for path, facts in restored.items())
        assert f"{len(source) - len(restored)} files could not be brought back" in done.stderr
        for path in source.keys() - restored.keys():
            assert os.fsdecode(path).strip("/") in done.stderr
        assert not (out / ".vaultik-restore").exists()

    def test_a_blob_with_a_flipped_bit(self, site, tmp_path):
        site.backup()
        blob = site.blobs()[0]
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
        self.check(site, tmp_path / "out")

    def test_a_blob_that_is_missing_cut_off_or_another(self, site, tmp_path):
        site.backup()
        first, second = site.blobs()[:2]
        whole = first.read_bytes()
        for number, data in enumerate((None, whole[: len(whole) // 2], b"", second.read_bytes())):
            first.unlink() if data is None else first.write_bytes(data)
            self.check(site, tmp_path / f"out {number}")

    def test_a_snapshot_db_or_manifest_that_is_damaged_or_another(self, site, tmp_path):
        first = site.backup()["snapshot"]
        second = site.backup()["snapshot"]
        for suffix in (".sqlite.zst.age", ".manifest.zst.age"):
            one, two = site.objects(suffix)
            assert one.name.startswith(first)
            kept = two.read_bytes()
            for data in (kept[:-1], kept[:100], one.read_bytes(), bytes([*kept[:-5], kept[-5] ^ 1, *kept[-4:]])):
                two.write_bytes(data)
                done = site.restore(tmp_path / "out", code=4)
                assert second in done.stderr
            two.write_bytes(kept)
        site.restore(tmp_path / "fine")


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def test_p9_the_memory_of_a_large_file_is_bounded(tmp_path):
    """A sparse gigabyte and 300 MB of data in one file: the peak is far below either."""
    site = Site(tmp_path)
    site.source.mkdir()
    with (site.source / "large").open("wb") as file:
        rng = random.Random(1)
        for _ in range(300):
            file.write(rng.randbytes(1_000_000))
        file.truncate(1 << 30)
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    for command in (["backup", site.config, "--cron"], ["restore", *site.where, "latest", tmp_path / "out", "--quiet"]):
        wrapped = [*site.command()[:1], "-c", script, *site.command(*command)]
        done = subprocess.run(wrapped, env=site.environment(), capture_output=True, text=True, check=True)
        assert int(done.stdout.split()[-1]) < 250_000, "kilobytes"
    restored = site.restored(tmp_path / "out") / "large"
    assert digest(restored) == digest(site.source / "large")
    assert restored.stat().st_blocks * 512 < 400_000_000


@S3_GROUP
def test_put_only_credentials_are_enough(request, tmp_path):
    """Nothing but puts is tried, and a second run sends nothing again."""
    server = request.getfixturevalue("weed")
    env = {"AWS_ACCESS_KEY_ID": "putkey", "AWS_SECRET_ACCESS_KEY": "putsecret"}
    site = Site(tmp_path, server.endpoint, prefix=f"{tmp_path.name}/", env=env)
    site.configure(s3={**site.settings["s3"], "access": "put_only"})
    make_tree(site.source)
    first = site.backup()
    assert first["blobs"] == 1
    assert site.backup()["bytes_uploaded"] == 0
    site.env |= {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    site.restore(tmp_path / "out")
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)
    with sqlite3.connect(site.index) as index:
        assert index.execute("SELECT count(*) FROM blobs WHERE uploaded").fetchone() == (1,)
