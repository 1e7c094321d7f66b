"""Signed snapshots: with --signers nothing counts that its host didn't sign; ssh-keygen checks it by hand."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.forge import forge_whole
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.core.sshsig import generate_signing_key, public_line
from vaultik.mount.catalog import Catalog
from vaultik.restore.asked import Asked
from vaultik.restore.session import RestoreSession
from vaultik.secrets import load_identities
from vaultik.signing import load_signers
from vaultik.store.local import LocalStore
from vaultik.tasks.settings import host_name

FORMAT = Path(__file__).parents[2] / "FORMAT.md"


@pytest.fixture
def local(tmp_path):
    """A host that signs, and a file that says who may."""
    site = Site(tmp_path)
    make_tree(site.source)
    sign(site, "signing", "allowed")
    return site


def sign(site, key, allowed, principals=None):
    text, public = generate_signing_key()
    (site.tmp / key).write_bytes(text)
    (site.tmp / key).chmod(0o600)
    (site.tmp / allowed).write_text(f"{principals or host_name()} {public_line(public)}\n")
    site.configure(signing_key=str(site.tmp / key))


def signers(site, name="allowed"):
    return ["--signers", site.tmp / name]


def verify(site, *arguments, **kwargs):
    done = site.run("verify", *site.where, "--json", "--state", site.tmp / "verify.sqlite", *arguments, **kwargs)
    return json.loads(done.stdout)["problems"]


class TestSigned:
    def test_everything_that_reads_takes_it(self, local):
        local.backup()
        local.restore(local.tmp / "out", *signers(local))
        assert describe(local.restored(local.tmp / "out")) == describe(local.source)
        local.run("ls", *local.where, "latest", *signers(local))
        local.run("fetch", *local.where, "latest", local.source, local.tmp / "fetched", *signers(local))
        assert verify(local, *signers(local)) == []
        local.run("prune", *local.where, "--yes", *signers(local))
        options = ["--endpoint", local.endpoint, "--bucket", local.bucket, "--prefix", local.prefix]
        options += ["--signers", str(local.tmp / "allowed")]
        local.luigi("Restore", *options, "--snapshot", "latest", "--target", str(local.tmp / "by luigi"))
        local.luigi("Prune", *options)
        local.luigi("Verify", *options, "--state", str(local.tmp / "verify.sqlite"))

    def test_by_hand_as_the_format_says(self, local):
        local.backup()
        blocks = re.findall(r"^```sh\n(.*?)^```$", FORMAT.read_text(), re.MULTILINE | re.DOTALL)
        (script,) = (block for block in blocks if "ssh-keygen" in block)
        (db,) = local.objects(".sqlite.zst.age")
        names = {
            "STORE": local.store,
            "KEY": local.key,
            "DB": db,
            "SIGNERS": local.tmp / "allowed",
            "HOST": host_name(),
        }
        env = {**os.environ, **{name: str(value) for name, value in names.items()}}
        done = subprocess.run(
            ["sh", "-eu", "-c", script], env=env, cwd=local.tmp, capture_output=True, text=True, check=True
        )
        assert 'Good "vaultik-manifest-v1" signature' in done.stdout
        assert "the DB is the one that is signed" in done.stdout

    def test_a_host_key_signs(self, local):
        subprocess.run(["ssh-keygen", "-t", "ed25519", "-N", "", "-q", "-f", local.tmp / "host_key"], check=True)
        local.configure(signing_key=str(local.tmp / "host_key"))
        public = (local.tmp / "host_key.pub").read_text()
        (local.tmp / "allowed").write_text(f"{host_name()} {public}")
        local.backup()
        assert verify(local, *signers(local)) == []

    def test_who_signed_is_listed(self, local):
        local.configure(signing_key=None)
        unsigned = local.backup()["snapshot"]
        local.configure(signing_key=str(local.tmp / "signing"))
        signed = local.backup()["snapshot"]
        done = local.run("snapshots", *local.where, *signers(local), "--json", code=4)
        rows = {row["snapshot"]: row for row in json.loads(done.stdout)}
        assert rows[signed]["signed_by"] == host_name()
        assert rows[unsigned]["problem"] == "not signed by any of --signers"
        shown = local.run("snapshots", *local.where, *signers(local), code=4).stdout.splitlines()
        assert shown[0].endswith("signed by")
        assert shown[1].endswith("(not signed by any of --signers)")
        assert shown[2].endswith(host_name())
        assert "signed" not in local.run("snapshots", *local.where).stdout

    def test_of_an_unsigned_db_nothing_is_believed(self, local):
        """Its manifest is damaged, and no signature says that the DB is the host's: what it refers to is nobody's loss."""
        local.backup()
        (manifest,) = local.objects(".manifest.zst.age")
        manifest.chmod(0o600)
        manifest.write_bytes(manifest.read_bytes()[:-1] + b"x")
        lost = local.blobs()[0]
        lost.unlink()
        assert lost.name in str(verify(local, code=4))
        assert lost.name not in str(verify(local, *signers(local), code=4))

    def test_check_prints_the_line_for_the_other_side(self, local):
        said = local.run("check", local.config).stdout
        assert f"ok    signing: for --signers: {(local.tmp / 'allowed').read_text().strip()}" in said

    def test_check_warns_of_a_key_that_others_may_read(self, local):
        (local.tmp / "signing").chmod(0o644)
        assert "others may read it, and sign as this host" in local.run("check", local.config).stdout

    def test_keygen_makes_such_a_key(self, local):
        done = local.run("keygen", "--signing", "-o", local.tmp / "new")
        (local.tmp / "allowed").write_text(f"* {done.stdout}")
        local.configure(signing_key=str(local.tmp / "new"))
        local.backup()
        assert verify(local, *signers(local)) == []
        done = local.run("keygen", "--signing", "-o", local.tmp / "new", code=2)
        assert "exists already" in done.stderr


class TestNotSigned:
    def refused(self, site, words, believed="allowed"):
        """Nothing that is given --signers takes the newest snapshot, and all of them say why."""
        out = site.tmp / "out"
        shutil.rmtree(out, ignore_errors=True)
        before = sorted(site.objects())
        for command in (
            ["restore", *site.where, "latest", out],
            ["fetch", *site.where, "latest", site.source, out],
            ["ls", *site.where, "latest"],
        ):
            done = site.run(*command, *signers(site, believed), code=4)
            assert words in done.stderr, done.stderr
            assert not out.exists()
        (problem,) = verify(site, *signers(site, believed), code=4)
        assert problem["kind"] == "signature"
        assert words in problem["text"]
        done = site.run("prune", *site.where, "--yes", *signers(site, believed), code=1)
        assert words in done.stderr
        assert "--drop" not in done.stderr, "they may be good ones"
        assert sorted(site.objects()) == before

    def test_at_all(self, local):
        local.configure(signing_key=None)
        local.backup()
        self.refused(local, "it isn't signed")
        assert verify(local) == [], "who doesn't ask isn't told"

    def test_listed_for_its_host(self, local):
        """Whoever can put a snapshot there gives it any host's name: a choice of one hides none that isn't signed."""
        local.backup()
        local.configure(signing_key=None)
        local.backup()
        listed = [*local.where, "--json", *signers(local)]
        rows = json.loads(local.run("snapshots", *listed, code=4).stdout)
        assert ["problem" in row for row in rows] == [False, True]
        for host in (host_name(), rows[0]["source"]):
            assert json.loads(local.run("snapshots", *listed, "--host", host, code=4).stdout) == rows
        assert json.loads(local.run("snapshots", *listed, "--host", "another", code=4).stdout) == rows[1:], "or is it?"

    def test_by_anybody_who_may(self, local):
        local.backup()
        sign(local, "other", "others")
        self.refused(local, "not signed by anybody who may sign for", "others")

    def test_in_another_hosts_name(self, local):
        sign(local, "other", "others", principals="another-host")
        local.backup()
        self.refused(local, f"not signed by anybody who may sign for '{host_name()}'", "others")

    def test_with_another_db(self, local):
        """Somebody with the recipient and the bucket puts his DB beside a manifest that says it is his."""
        local.backup()
        forge_whole(local, "UPDATE entries SET mode = 2541 WHERE type = 'f'")
        self.refused(local, "not signed by anybody who may sign for")

    def test_with_another_db_in_the_signed_ones_place(self, local):
        local.backup()
        (manifest,) = local.objects(".manifest.zst.age")
        signed = manifest.read_bytes()
        forge_whole(local, "UPDATE entries SET mode = 2541 WHERE type = 'f'")
        local.objects(".manifest.zst.age")[0].unlink()
        manifest.write_bytes(signed)
        for command in (["restore", *local.where, "latest", local.tmp / "out"], ["ls", *local.where, "latest"]):
            done = local.run(*command, *signers(local), code=4)
            assert "names another DB than the one that is stored" in done.stderr

    def test_a_restore_that_was_begun_without_a_look(self, local):
        local.configure(signing_key=None)
        local.backup()
        out = local.tmp / "out"
        store = LocalStore(local.store, local.bucket, local.prefix)
        session = RestoreSession(lambda: store, load_identities(local.key), Asked(out, "latest"))
        session.begin()
        session.fetch_snapshot()
        session.leave()
        done = local.restore(out, *signers(local), code=1)
        assert "holds an unfinished restore" in done.stderr
        local.restore(out)

    def test_a_restore_that_was_begun_with_others_to_believe(self, local):
        local.backup()
        out = local.tmp / "out"
        store = LocalStore(local.store, local.bucket, local.prefix)
        asked = Asked(out, "latest", signers=load_signers(local.tmp / "allowed"))
        session = RestoreSession(lambda: store, load_identities(local.key), asked)
        session.begin()
        session.fetch_snapshot()
        session.leave()
        sign(local, "other", "others")
        done = local.restore(out, *signers(local, "others"), code=1)
        assert "holds an unfinished restore" in done.stderr
        local.restore(out, *signers(local))

    @pytest.mark.parametrize("text", ["", "no key\n", "web-1 cert-authority ssh-ed25519 AAAA\n"])
    def test_what_is_no_file_of_signers(self, local, text):
        local.backup()
        (local.tmp / "bad").write_text(text)
        done = local.restore(local.tmp / "out", *signers(local, "bad"), code=2)
        assert f"--signers {local.tmp}/bad: " in done.stderr
        done = local.restore(local.tmp / "out", *signers(local, "none"), code=2)
        assert "No such file" in done.stderr

    def test_a_key_that_cant_sign_stops_the_run_before_it_begins(self, local):
        (local.tmp / "signing").write_text("no key")
        done = local.run("backup", local.config, code=2)
        assert "not an OpenSSH private key" in done.stderr
        assert not local.index.exists()


class TestAnotherHost:
    @pytest.fixture
    def both(self, local):
        """Another host, which signs in its own name, writes a snapshot into this one's source."""
        local.backup()
        (local.tmp / "b").mkdir()
        cfg = local.tmp / "b/luigi.cfg"
        cfg.write_text("[core]\nlocal_scheduler=true\n[Backup]\nhost=web-2\n")
        other = Site(
            local.tmp / "b", local.endpoint, age_recipient=local.recipient, env={"LUIGI_CONFIG_PATH": str(cfg)}
        )
        other.source.mkdir()
        (other.source / "pwned").write_text("hello")
        sign(other, "signing", "allowed", principals="web-2")
        other.state.mkdir(mode=0o700)
        shutil.copy(local.state / "index.sqlite.source", other.state)
        other.backup()
        (local.tmp / "both").write_text((local.tmp / "allowed").read_text() + (other.tmp / "allowed").read_text())
        assert len({path.parent for path in local.objects(".sqlite.zst.age")}) == 1
        return local

    def test_latest_is_for_a_person_to_say(self, both):
        (source8,) = {path.parent.name for path in both.objects(".sqlite.zst.age")}
        for host in ([], ["--host", source8]):
            done = both.restore(both.tmp / "out", *host, *signers(both, "both"), code=2)
            assert f"has snapshots of {host_name()}, web-2" in done.stderr
        both.restore(both.tmp / "out", "--host", host_name(), *signers(both, "both"))
        assert describe(both.restored(both.tmp / "out")) == describe(both.source)

    def test_a_mount_shows_each_host_by_itself(self, both):
        for file, hosts in (("both", {host_name(), "web-2"}), ("allowed", {host_name()})):
            said = []
            shown = Catalog(
                LocalStore(both.store, both.bucket, both.prefix),
                load_identities(both.key),
                host=None,
                signers=load_signers(both.tmp / file),
                report=said.append,
            )
            assert shown.top()[b"hosts"].keys() == {name.encode() for name in hosts}
            assert all(len(found) == 2 for found in shown.top()[b"hosts"].values())
            assert (b"latest" in shown.top()) == (len(hosts) == 1)
            assert len(said) == 2 - len(hosts)
            assert all("is not shown: manifest of" in line for line in said)

    def test_verify_and_prune_do_not_take_it(self, both):
        found = verify(both, *signers(both, "both"), code=4)
        assert [problem["kind"] for problem in found] == ["signature"] * 2
        assert all("in a source that has snapshots of" in problem["text"] for problem in found)
        before = sorted(both.objects())
        done = both.run("prune", *both.where, "--yes", *signers(both, "both"), code=1)
        assert "in a source that has snapshots of" in done.stderr
        assert sorted(both.objects()) == before

    def test_a_key_that_may_sign_for_both_names_is_one_host_renamed(self, both):
        text = (both.tmp / "both").read_text()
        names = f"{host_name()},web-2"
        (both.tmp / "renamed").write_text("".join(f"{names} {line.partition(' ')[2]}\n" for line in text.splitlines()))
        assert verify(both, *signers(both, "renamed")) == []
