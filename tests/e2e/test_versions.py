"""A credential that may only put can still overwrite. On a versioned bucket that costs nothing: what the names say is behind it."""

import json
import os

import pytest

from tests.conftest import S3_GROUP
from tests.support.proxy import Proxy
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.core.sshsig import generate_signing_key, public_line

pytestmark = S3_GROUP


@pytest.fixture(scope="module")
def versioned(weed):
    weed.make_bucket("behind")
    weed.client().put_bucket_versioning(Bucket="behind", VersioningConfiguration={"Status": "Enabled"})
    return weed


@pytest.fixture
def site(versioned, tmp_path):
    env = {"AWS_ACCESS_KEY_ID": versioned.access_key, "AWS_SECRET_ACCESS_KEY": versioned.secret_key}
    site = Site(tmp_path, versioned.endpoint, prefix=f"{tmp_path.name}/", env=env | {"AWS_DEFAULT_REGION": "us-east-1"})
    site.bucket = "behind"
    site.configure(s3={**site.settings["s3"], "bucket": "behind"})
    make_tree(site.source)
    (site.source / "large").write_bytes(os.urandom(3_000_000))
    site.backup()
    (site.source / "more").write_bytes(os.urandom(300_000))
    site.backup()
    return site


def keys(server, site):
    listed = server.client().list_objects_v2(Bucket="behind", Prefix=site.prefix)["Contents"]
    return {found["Key"]: found["Size"] for found in listed}


def overwrite(server, site, change, pick=lambda _key: True):
    """Overwrite objects as a thief of the host's credential would; returns how many."""
    chosen = [key for key in keys(server, site) if pick(key)]
    for key in chosen:
        body = server.client().get_object(Bucket="behind", Key=key)["Body"].read()
        server.client().put_object(Bucket="behind", Key=key, Body=change(body))
    return len(chosen)


def flipped(body):
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]


CHANGES = {
    "one bit": flipped,
    "nothing left": lambda _body: b"",
    "longer": lambda body: body + bytes(1000),
    "another age file": lambda _body: b"age-encryption.org/v1\n-> X25519 nobody\n" + bytes(300),
}


class TestOverwritten:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_everything_comes_back(self, site, versioned, change):
        assert overwrite(versioned, site, change) >= 6
        site.restore(site.tmp / "out")
        assert describe(site.restored(site.tmp / "out")) == describe(site.source)
        site.run("fetch", *site.where, "latest", site.source / "large", site.tmp / "large")
        assert (site.tmp / "large").read_bytes() == (site.source / "large").read_bytes()

    def test_who_signed_is_listed_all_the_same(self, site, versioned):
        text, public = generate_signing_key()
        (site.tmp / "signing").write_bytes(text)
        (site.tmp / "signing").chmod(0o600)
        (site.tmp / "allowed").write_text(f"* {public_line(public)}\n")
        site.configure(signing_key=str(site.tmp / "signing"))
        signed = site.backup()["snapshot"]
        assert overwrite(versioned, site, CHANGES["longer"], lambda key: signed in key) == 2
        done = site.run("snapshots", *site.where, "--signers", site.tmp / "allowed", "--json", code=4)
        (row,) = (row for row in json.loads(done.stdout) if row["snapshot"] == signed)
        assert row["signed_by"] == "*"

    @pytest.mark.parametrize("kind", ["/blobs/", ".manifest.", ".sqlite."])
    def test_prune_and_verify_look_behind_it(self, site, versioned, kind):
        count = overwrite(versioned, site, CHANGES["longer"], lambda key: kind in key)
        assert count >= 2
        done = json.loads(site.run("prune", *site.where, "--yes", "--json").stdout)
        assert {fate["fate"] for fate in done["fates"]} <= {"keep", "hold"}
        state = ["--state", site.tmp / "verify.sqlite"]
        done = site.run("verify", *site.where, *state, "--deep", "--json", code=4)
        said = json.loads(done.stdout)
        assert {problem["kind"] for problem in said["problems"]} == {"replaced"}
        assert len(said["problems"]) == count
        assert said["files"] == []

    def test_a_sample_notices_another_size_wherever_it_reads(self, site, versioned):
        count = overwrite(versioned, site, CHANGES["longer"], lambda key: "/blobs/" in key)
        state = ["--state", site.tmp / "verify.sqlite"]
        done = site.run("verify", *site.where, *state, "--sample", "1B", "--json", code=4)
        assert [problem["kind"] for problem in json.loads(done.stdout)["problems"]] == ["replaced"] * count

    def test_what_is_wrong_in_every_version_is_damaged(self, site, versioned):
        (key, *_) = (key for key in keys(versioned, site) if "/blobs/" in key)
        client = versioned.client()
        versions = client.list_object_versions(Bucket="behind", Prefix=key)["Versions"]
        for body in (b"1", b"2"):
            client.put_object(Bucket="behind", Key=key, Body=body)
        for version in versions:
            client.delete_object(Bucket="behind", Key=key, VersionId=version["VersionId"])
        done = site.run("verify", *site.where, "--state", site.tmp / "verify.sqlite", "--json", code=4)
        kinds = {problem["kind"] for problem in json.loads(done.stdout)["problems"]}
        assert "damaged" in kinds
        assert "replaced" not in kinds
        site.restore(site.tmp / "out", code=4)

    def test_a_clean_store_is_asked_for_no_versions(self, site, versioned):
        with Proxy(versioned) as proxy:
            site.endpoint = proxy.endpoint
            site.restore(site.tmp / "out")
            site.run("verify", *site.where, "--deep", "--state", site.tmp / "verify.sqlite")
            site.run("prune", *site.where, "--yes")
        targets = [request.target for request in proxy.requests]
        assert len(targets) > 10
        assert not [target for target in targets if "version" in target.lower()]
