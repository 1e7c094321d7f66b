"""`vaultik verify` finds whatever is not as it was stored, says whom it costs what, and a backup heals what it can."""

import hashlib
import json
import os
import sqlite3
from contextlib import closing

import pytest

from tests.support.forge import forge_whole
from tests.support.history import History, seal
from tests.support.run import verify_all
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.core.identity import generate
from vaultik.core.names import BLOBS_PREFIX, blob_key
from vaultik.errors import ObjectNotFoundError, StoreAccessError, StoreUnavailableError
from vaultik.maintain import verify as verify_module
from vaultik.maintain.chain import Link, find_breaks
from vaultik.maintain.findings import Kind
from vaultik.maintain.verify import VerifySession
from vaultik.maintain.verify_request import VerifyRequest
from vaultik.model import BlobId
from vaultik.secrets import load_identities
from vaultik.store.local import LocalStore
from vaultik.store.open import open_store

KEYLESS = {"VAULTIK_PRIVATE_KEY": ""}
MEGABYTE = 1 << 20


@pytest.fixture
def local(tmp_path):
    """Three files of a megabyte, each in a blob of its own, and two that share one."""
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    for name in ("one", "two", "three"):
        (site.source / name).write_bytes(os.urandom(MEGABYTE))
    for name in ("small", "tiny"):
        (site.source / name).write_bytes(os.urandom(5000))
    return site


def verify(site, *arguments, code=0, key=True):
    """Verify by the command line; returns what it says in JSON."""
    env = dict(site.env)
    if not key:
        site.env |= KEYLESS
    try:
        state = ["--state", site.tmp / "verify.sqlite"]
        done = site.run("verify", *site.where, *state, "--json", *arguments, code=code)
    finally:
        site.env = env
    said = json.loads(done.stdout)
    assert said["ok"] == (not said["problems"])
    assert code is None or said["ok"] == (code == 0)
    return said


def problems(said):
    return [(problem["kind"], problem["key"].rpartition("/")[2]) for problem in said["problems"]]


def flip(path, at=None):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def holding(site, name):
    """The blob that a damaged file is said to be hit by: found by taking each away."""
    for blob in site.blobs():
        aside = site.tmp / "aside"
        blob.rename(aside)
        hit = {path["path"] for files in verify(site, code=4)["files"] for path in files["paths"]}
        aside.rename(blob)
        if f"{site.source}/{name}" in hit:
            return blob
    raise AssertionError(name)


class TestWhatIsWhole:
    def test_every_kind_of_key_says_so(self, site):
        make_tree(site.source)
        site.backup()
        (site.source / "more").write_text("more\n")
        site.backup()
        store = open_store(site.endpoint, site.bucket, site.prefix, **site.keys())
        blobs = [info.size_bytes for info in store.walk(BLOBS_PREFIX)]
        for options, key in (
            ([], False),
            ([], True),
            (["--deep"], True),
            (["latest"], True),
            (["latest", "--deep"], True),
        ):
            said = verify(site, *options, key=key)
            assert said["unread"] == {"objects": 0, "bytes": 0}
            assert said["notes"] == []
            if "latest" not in options:
                assert said["snapshots"] == 2
                assert said["blobs"] == {"objects": len(blobs), "bytes": sum(blobs)}
                assert said["read"]["objects"] == len(blobs) + 4

    def test_a_person_reads_it_in_two_lines(self, local):
        local.backup()
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite")
        first, second = done.stdout.splitlines()
        blobs = len(local.blobs())
        assert first.startswith(f"1 snapshot, {blobs} blobs (")
        assert first.endswith(": every blob that they name is stored, with its size")
        assert second.startswith(f"read: {blobs + 2} objects (")
        assert done.stderr == ""

    def test_without_a_key_it_says_what_it_cannot_tell(self, local):
        local.backup()
        local.blobs()[0].unlink()
        local.env |= KEYLESS
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite")
        assert done.stdout.splitlines()[0].endswith("whether one is missing can't be told")

    def test_in_a_temporary_directory_of_any_name(self, local):
        local.backup()
        odd = local.tmp / os.fsdecode(b"caf\xe9 %41?#")
        odd.mkdir()
        local.env["TMPDIR"] = str(odd)
        state = odd / "state"
        local.run("verify", *local.where, "--deep", "--state", state)
        assert state.exists()
        local.run("ls", *local.where, "latest")

    def test_nothing_is_written_to_the_store(self, local):
        local.backup()
        before = describe(local.store)
        verify(local, "--deep")
        assert describe(local.store) == before

    def test_the_audit_key_is_enough_but_for_the_depths(self, local):
        secret, recipient = generate()
        local.configure(audit_recipient=recipient)
        local.backup()
        audit = local.tmp / "audit.txt"
        audit.write_text(secret)
        audit.chmod(0o600)
        assert verify(local, "--identity", audit)["has_surveyed"]
        local.blobs()[0].unlink()
        said = verify(local, "--identity", audit, code=4)
        assert [kind for kind, _ in problems(said)] == ["missing"]
        assert len(said["problems"][0]["snapshots"]) == 1
        assert said["files"] == []
        done = local.run("verify", *local.where, "--deep", "--identity", audit, "--state", local.tmp / "s", code=2)
        assert "audit identity opens manifests only" in done.stderr

    def test_luigi_runs_it_too(self, local):
        local.backup()
        options = ["--endpoint", local.endpoint, "--bucket", local.bucket, "--prefix", local.prefix]
        options += ["--state", str(local.tmp / "verify.sqlite")]
        done = local.luigi("Verify", *options, "--deep")
        assert f"read to the last chunk: {len(local.blobs()) + 2} objects" in done.stdout
        flip(local.blobs()[0])
        done = local.luigi("Verify", *options, code=4)
        assert f"damaged: {BLOBS_PREFIX}" in done.stderr


class TestWhatIsNot:
    @pytest.mark.parametrize("key", [False, True])
    @pytest.mark.parametrize("at", [0, None, -1])
    def test_one_bit_of_any_object(self, local, key, at):
        local.backup()
        for suffix, kind in ((".sqlite.zst.age", "damaged"), (".manifest.zst.age", "damaged"), ("", "damaged")):
            path = local.objects(suffix)[0] if suffix else local.blobs()[0]
            whole = path.read_bytes()
            flip(path, at)
            assert (kind, path.name) in problems(verify(local, code=4, key=key))
            path.write_bytes(whole)
        assert verify(local, key=key)["ok"]

    def test_what_a_snapshot_names_and_isnt_there(self, site):
        make_tree(site.source)
        first, second = site.backup()["snapshot"], site.backup()["snapshot"]
        store = open_store(site.endpoint, site.bucket, site.prefix, **site.keys())
        blob = next(info.key for info in store.walk(BLOBS_PREFIX))
        assert store.delete([blob]) == {}
        (problem,) = verify(site, code=4)["problems"]
        assert problem == {
            "kind": "missing",
            "key": blob,
            "text": "is not stored",
            "snapshots": sorted({first, second}),
            "snapshot_count": 2,
        }
        assert verify(site, key=False)["ok"], "no key, no list of what should be there"

    def test_another_size(self, local):
        local.backup()
        blob = local.blobs()[0]
        blob.chmod(0o644)
        with blob.open("ab") as file:
            file.write(b"x")
        assert problems(verify(local, code=4)) == [("size", blob.name), ("damaged", blob.name)]

    def test_it_names_the_files(self, local):
        local.backup()
        blob = holding(local, "two")
        flip(blob)
        said = verify(local, code=4)
        assert [[path["path"] for path in files["paths"]] for files in said["files"]] == [[f"{local.source}/two"]]
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite", code=4)
        assert f"    {local.source}/two" in done.stderr.splitlines()
        assert "backup CONFIG --heal FILE" in done.stderr.splitlines()[-1]
        assert done.stdout.splitlines()[-1] == "1 problem"

    def test_it_names_them_once_for_all_snapshots_that_they_are_the_same_in(self, local):
        ids = [local.backup()["snapshot"]]
        (local.source / "one").write_bytes(b"changed")
        ids.append(local.backup()["snapshot"])
        flip(holding(local, "two"))
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite", code=4)
        assert done.stderr.count(f"{local.source}/two") == 1
        assert f"snapshots {ids[0]}, {ids[1]}: 1 file of each need" in done.stderr

    def test_a_deep_one_names_those_only_that_the_damage_reaches(self, local):
        local.configure(blob_size_limit="8MiB")
        local.backup()
        (blob,) = local.blobs()
        flip(blob, 10_000)
        said = verify(local, "--deep", code=4)
        assert problems(said) == [("damaged", blob.name)]
        hit = [path["path"] for path in said["files"][0]["paths"]]
        assert 0 < len(hit) < 5
        assert verify(local, code=4)["files"][0]["files"] == 5, "which a shallow one can't know"
        done = local.restore(local.tmp / "out", "--json", code=4)
        assert sorted(path["path"] for path in json.loads(done.stdout)["damaged"]) == sorted(hit)

    def test_chunks_that_are_not_what_the_snapshot_says(self, local):
        local.backup()
        tiny = f"(SELECT chunk FROM entry_chunks JOIN entries ON id = entry WHERE name = x'{b'tiny'.hex()}')"
        forge_whole(local, f"UPDATE chunks SET hash = randomblob(32) WHERE id = {tiny}")
        assert verify(local)["ok"], "every byte is what its name says, and all is there"
        said = verify(local, "--deep", code=4)
        assert [kind for kind, _ in problems(said)] == ["content"]
        assert [[path["path"] for path in files["paths"]] for files in said["files"]] == [[f"{local.source}/tiny"]]
        local.restore(local.tmp / "out", code=4)
        assert not (local.restored(local.tmp / "out") / "tiny").exists()

    def test_a_tree_that_is_none(self, local):
        local.backup()
        forge_whole(local, "UPDATE entries SET name = CAST('..' AS BLOB) WHERE name = CAST('tiny' AS BLOB)")
        assert verify(local)["ok"]
        (problem,) = verify(local, "--deep", code=4)["problems"]
        assert problem["kind"] == "content"
        assert "a name that is none" in problem["text"]

    def test_a_manifest_or_db_that_is_gone(self, local):
        snapshot = local.backup()["snapshot"]
        local.objects(".manifest.zst.age")[0].unlink()
        (problem,) = verify(local, code=4)["problems"]
        assert (problem["kind"], problem["snapshots"]) == ("content", [snapshot])
        assert "missing" in problem["text"]

    def test_a_lost_blob_of_a_snapshot_whose_manifest_is_damaged(self, local):
        """Its DB says what it needs, unless nobody vouches for it."""
        snapshot = local.backup()["snapshot"]
        flip(local.objects(".manifest.zst.age")[0])
        lost = holding(local, "two")
        lost.unlink()
        said = verify(local, code=4)
        found = {problem["key"]: (problem["kind"], problem["snapshots"]) for problem in said["problems"]}
        assert found[blob_key(BlobId(bytes.fromhex(lost.name)))] == ("missing", [snapshot])
        assert [[path["path"] for path in files["paths"]] for files in said["files"]] == [[f"{local.source}/two"]]

    def test_a_db_without_a_manifest_is_noted_without_a_key_too(self, local):
        local.backup()
        local.objects(".manifest.zst.age")[0].unlink()
        (note,) = verify(local, key=False)["notes"]
        assert "without its manifest" in note

    def test_a_forged_snapshot_blames_no_good_blob(self, local):
        """Two snapshots share all blobs; the newer says other sizes of them, as anybody can who has the recipient."""
        local.backup()
        forged = local.backup()["snapshot"]
        sizes = {blob.name: blob.stat().st_size + 1000 for blob in local.blobs()}
        forge_whole(local, "UPDATE blobs SET size = size + 1000", blobs=tuple(sorted(sizes.items())))
        said = verify(local, code=4)
        assert [(p["kind"], p["snapshots"]) for p in said["problems"]] == [("content", [forged])]
        assert said["files"] == []
        report = local.tmp / "report.json"
        report.write_text(json.dumps(said))
        assert local.backup("--heal", report)["bytes_new"] == 0, "nothing is uploaded for a lie"

    def test_one_db_that_is_for_others_stops_no_deep_one(self, local, tmp_path):
        """A fleet: of one host the key opens all, of another the manifests alone."""
        local.backup()
        (tmp_path / "other").mkdir()
        other = Site(tmp_path / "other", local.endpoint, audit_recipient=local.recipient)
        other.source.mkdir()
        (other.source / "file").write_bytes(b"another's")
        snapshot = other.backup()["snapshot"]
        said = verify(local, "--deep")
        assert any(f"snapshot {snapshot}: not looked into" in note for note in said["notes"])
        assert said["snapshots"] == 2

    def test_strangers_are_noted(self, local):
        local.backup()
        (local.store / local.bucket / local.prefix / "README").write_text("not ours")
        assert verify(local)["notes"] == ["README: not something that vaultik stores"]

    def test_nothing_there_is_a_wrong_prefix(self, local):
        (local.store / local.bucket).mkdir()
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite", code=2)
        assert "nothing is stored in" in done.stderr


class TestParts:
    def test_samples_take_what_has_gone_unread_for_longest(self, local):
        local.backup()
        blobs = len(local.blobs())
        for read in range(1, blobs + 1):
            said = verify(local, "--sample", "1B", key=False)
            assert said["unread"]["objects"] == blobs - read
        before = verify(local, "--sample", "1B", key=False)["oldest"]
        for _ in range(blobs):
            said = verify(local, "--sample", "1B", key=False)
        assert said["oldest"] > before, "and begin anew"

    def test_deep_samples_are_not_content_with_what_was_merely_read(self, local):
        local.backup()
        blobs = len(local.blobs())
        assert verify(local)["unread"]["objects"] == 0
        for read in range(1, blobs + 1):
            said = verify(local, "--deep", "--sample", "1B")
            assert said["unread"]["objects"] == blobs - read
            assert verify(local, "--sample", "1B", key=False)["unread"]["objects"] == 0, "nor forget it"

    def test_damage_is_found_again_each_time_and_keeps_none_from_being_read(self, local):
        local.backup()
        blobs = local.blobs()
        flip(blobs[0])
        runs = [verify(local, "--sample", "1B", key=False, code=None) for _ in range(len(blobs) + 2)]
        assert runs[-1]["unread"]["objects"] == 0
        found = [problems(run) for run in runs]
        first = found.index([("damaged", blobs[0].name)])
        assert first < len(blobs)
        assert found == [[]] * first + [[("damaged", blobs[0].name)]] * (len(runs) - first)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--sample", "0%"], "more than 0%"),
            (["--sample", "101%"], "at most 100%"),
            (["--sample", "much"], "not a size"),
            (["--sample", "0B"], "nothing"),
            (["--host", "web-1"], "goes with the snapshot"),
            (["latest", "--accept"], "leave SNAPSHOT out"),
        ],
    )
    def test_what_makes_no_sense_is_said(self, local, options, words):
        done = local.run("verify", *local.where, *options, code=2)
        assert words in done.stderr

    @pytest.mark.parametrize("option", [["--deep"], ["latest"]])
    def test_what_takes_an_identity_says_so(self, local, option):
        local.env |= KEYLESS
        done = local.run("verify", *local.where, *option, code=2)
        assert "takes an identity" in done.stderr

    def test_a_mistyped_state_makes_no_directory(self, local):
        local.backup()
        done = local.run("verify", *local.where, "--state", local.tmp / "none" / "state", code=1)
        assert "No such file or directory" in done.stderr
        assert not (local.tmp / "none").exists()

    def test_damage_that_nobody_needs_is_told_apart(self, local):
        local.backup()
        data = b"of a run that was killed"
        blob = local.store / local.bucket / local.prefix / blob_key(BlobId(hashlib.sha256(data).digest()))
        blob.parent.mkdir(parents=True)
        blob.write_bytes(data[:-1])
        done = local.run("verify", *local.where, "--state", local.tmp / "verify.sqlite", code=4)
        assert "    needed by no snapshot; a prune frees it in time" in done.stderr.splitlines()
        assert "--heal" not in done.stderr, "there is nothing to heal"

    def test_a_state_is_one_stores(self, local, tmp_path):
        local.backup()
        verify(local)
        (tmp_path / "other").mkdir()
        other = Site(tmp_path / "other")
        done = other.run("verify", *other.where, "--state", local.tmp / "verify.sqlite", code=2)
        assert "each store has its own" in done.stderr
        (tmp_path / "text").write_text("no database, but long enough for one to be looked for in it" * 99)
        done = local.run("verify", *local.where, "--state", tmp_path / "text", code=1)
        assert "state" in done.stderr.splitlines()[0]
        assert "--state FILE names another" in done.stderr


class _Breaks(LocalStore):
    """A store that is away from the so many-th object on."""

    left = 1 << 60

    def open(self, key, **kwargs):
        if key.startswith(BLOBS_PREFIX):
            _Breaks.left -= 1
            if _Breaks.left < 0:
                raise StoreUnavailableError("away")
        return super().open(key, **kwargs)


class TestInterrupted:
    def begun(self, local, monkeypatch):
        """A verification that was broken off when all blobs but one had been read."""
        monkeypatch.setattr(verify_module, "_SIDE_BY_SIDE", 1)
        monkeypatch.setattr(_Breaks, "left", len(local.blobs()) - 1)
        make = lambda: _Breaks(local.store, local.bucket, local.prefix)  # noqa: E731 - short
        session = VerifySession(make, load_identities(local.key), VerifyRequest(state=local.tmp / "verify.sqlite"))
        session.look()
        with pytest.raises(StoreUnavailableError):
            session.read()
        session.remove()
        monkeypatch.setattr(_Breaks, "left", 1 << 60)

    @pytest.mark.parametrize("change", [flip, lambda path: path.write_bytes(path.read_bytes()[:-100])])
    def test_what_changed_since_is_read_again(self, local, monkeypatch, change):
        local.backup()
        self.begun(local, monkeypatch)
        for blob in local.blobs():
            blob.chmod(0o644)
            change(blob)
        damaged = {name for kind, name in problems(verify(local, code=4)) if kind == "damaged"}
        assert damaged == {blob.name for blob in local.blobs()}

    def test_a_clock_that_was_ahead_hides_nothing(self, local):
        local.backup()
        verify(local)
        with closing(sqlite3.connect(local.tmp / "verify.sqlite")) as db:
            db.execute("UPDATE objects SET at = at + 1e9")
            db.commit()
        flip(local.blobs()[0])
        assert [kind for kind, _ in problems(verify(local, code=4))] == ["damaged"]

    def test_what_is_listed_and_not_there(self, local):
        local.backup()
        newest = local.backup()["snapshot"]

        class Forgets(LocalStore):
            def open(self, key, **kwargs):
                if newest in key and ".sqlite." in key:
                    raise ObjectNotFoundError("404")
                return super().open(key, **kwargs)

            def head(self, key):
                return None if newest in key and ".sqlite." in key else super().head(key)

        for keys in (None, []):
            (problem,) = self.whole(local, Forgets, keys).problems
            assert (problem.kind, problem.snapshots) == (Kind.MISSING, [newest])

    @pytest.mark.parametrize("deep", [False, True])
    def test_it_goes_on(self, local, deep, monkeypatch):
        local.backup()
        blobs = len(local.blobs())

        def session():
            make = lambda: _Breaks(local.store, local.bucket, local.prefix)  # noqa: E731 - short
            return VerifySession(
                make, load_identities(local.key), VerifyRequest(deep=deep, state=local.tmp / "verify.sqlite")
            )

        monkeypatch.setattr(verify_module, "_SIDE_BY_SIDE", 1)
        monkeypatch.setattr(verify_module, "_DEEP_SIDE_BY_SIDE", 1)
        broken = session()
        broken.look()
        monkeypatch.setattr(_Breaks, "left", 2)
        with pytest.raises(StoreUnavailableError):
            broken.read()
        broken.remove()
        monkeypatch.setattr(_Breaks, "left", 1 << 60)
        for before in (True, False):
            whole = session()
            whole.look()
            whole.read()
            whole.trace()
            report = whole.report()
            assert report.read.objects == blobs + 2
            assert (report.before.objects > 0) == before
            assert report.problems == []
            whole.remove()

    def test_one_object_that_is_refused_costs_no_other(self, local):
        snapshot = local.backup()["snapshot"]
        first, *others = (f"{BLOBS_PREFIX}{b.name[:2]}/{b.name[2:4]}/{b.name}" for b in local.blobs())

        class Refuses(LocalStore):
            refused = (first,)

            def open(self, key, **kwargs):
                if key in self.refused:
                    raise StoreAccessError(f"get {key}: 403")
                return super().open(key, **kwargs)

        (problem,) = self.whole(local, Refuses).problems
        assert problem == (Kind.UNREADABLE, first, f"get {first}: 403", [snapshot], 1)
        Refuses.refused = (first, *others, *(f"index/{p.parent.name}/{p.name}" for p in local.objects(".age")))
        with pytest.raises(StoreAccessError):
            self.whole(local, Refuses, keys=[])

    def whole(self, local, kind, keys=None):
        keys = load_identities(local.key) if keys is None else keys
        return verify_all(lambda: kind(local.store, local.bucket, local.prefix), keys, local.tmp / "verify.sqlite")


class TestChains:
    def steal(self, site, snapshot):
        (db,) = (path for path in site.objects(".sqlite.zst.age") if path.name.startswith(snapshot))
        db.unlink()
        return db

    def test_a_newest_snapshot_that_is_gone(self, local):
        local.backup()
        verify(local)
        newest = local.backup()["snapshot"]
        verify(local, key=False)
        self.steal(local, newest)
        for key in (True, False):
            (problem,) = verify(local, code=4, key=key)["problems"]
            assert (problem["kind"], problem["snapshots"]) == ("chain", [newest])
        assert verify(local, "--accept")["ok"]
        assert verify(local)["ok"]

    def test_a_decoy_in_its_place_doesnt_hide_that(self, local):
        local.backup()
        newest = local.backup()["snapshot"]
        verify(local, key=False)
        db = self.steal(local, newest)
        for kind in ("manifest", "sqlite"):
            data = os.urandom(500)
            name = f"20991231T000000Z-00000000.{hashlib.sha256(data).hexdigest()}.{kind}.zst.age"
            (db.parent / name).write_bytes(data)
        for _ in range(2):
            assert ("chain", db.name) in problems(verify(local, code=4, key=False))

    def test_a_manifest_that_is_sealed_to_a_stranger(self, local):
        first = local.backup()["snapshot"]
        local.backup()
        assert verify(local)["ok"]
        (manifest,) = (path for path in local.objects(".manifest.zst.age") if path.name.startswith(first))
        sealed = seal(b"whatever", [generate()[1]])
        manifest.unlink()
        (manifest.parent / f"{first}.{hashlib.sha256(sealed).hexdigest()}.manifest.zst.age").write_bytes(sealed)
        said = verify(local, code=4)
        assert [problem["kind"] for problem in said["problems"]] == ["chain"]
        assert not said["has_surveyed"], "it doesn't say that all is stored that this one needs"

    def test_what_a_prune_drops_is_no_break(self, local):
        history = History(local)
        for days in (40, 30, 20, 10, 1):
            history.snapshot(days, ["a", f"only {days}"])
        verify(local)
        local.run("prune", *local.where, "--keep-last", "2", "--yes", "--quiet")
        assert len(history.snapshots()) == 2
        assert verify(local)["ok"]

    def test_breaks(self):
        def link(snapshot, previous, named=None):
            return Link(
                "source", snapshot, f"of {snapshot}", previous, named or (f"of {previous}" if previous else None)
            )

        whole = [link("1", None), link("2", "1"), link("4", "3"), link("5", "4")]
        assert find_breaks(whole) == []
        (replaced,) = find_breaks([*whole, link("6", "5", "another")])
        assert (replaced.snapshot, replaced.is_problem) == ("6", True)
        (fork,) = find_breaks([*whole, link("6", "4")])
        assert (fork.snapshot, fork.is_problem) == ("6", False)
        (anew,) = find_breaks([*whole, link("6", None)])
        assert (anew.snapshot, anew.is_problem) == ("6", False)


class TestHealing:
    def test_a_backup_stores_anew_what_is_still_here(self, site):
        make_tree(site.source)
        old = site.backup()["snapshot"]
        store = open_store(site.endpoint, site.bucket, site.prefix, **site.keys())
        blobs = [info.key for info in store.walk(BLOBS_PREFIX)]
        assert store.delete(blobs[:1]) == {}
        report = site.tmp / "report.json"
        report.write_text(json.dumps(verify(site, code=4)))
        done = site.backup("--heal", report)
        assert done["bytes_new"] > 0
        assert verify(site, "latest", "--deep")["ok"]
        site.restore(site.tmp / "out")
        assert describe(site.restored(site.tmp / "out")) == describe(site.source)
        assert verify(site, old, code=4)["problems"][0]["snapshots"] == [old]

    def test_what_is_not_here_any_more_is_named(self, local):
        local.backup()
        blob = holding(local, "one")
        (local.source / "one").unlink()
        local.backup()
        flip(blob)
        report = local.tmp / "report.json"
        report.write_text(json.dumps(verify(local, code=4)))
        done = local.run("backup", local.config, "--heal", report)
        assert f"older snapshots stay without: {blob.name}" in done.stderr
        assert verify(local, "latest", "--deep")["ok"]

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"problems": 1}', '{"problems": [{"kind": 1}]}', "[" * 100_000])
    def test_what_is_no_report_is_refused(self, local, text):
        report = local.tmp / "report.json"
        report.write_text(text)
        done = local.run("backup", local.config, "--heal", report, code=2)
        assert f"--heal {report}: not what" in done.stderr
        assert not local.store.exists() or not local.objects()
