"""What each credential may do is what `check --policy` prints, and enough; and `check` says what one had better not be able to do."""

import json
import os
import shutil

import pytest

from tests.conftest import S3_GROUP
from tests.support.servers import IDENTITIES, seaweedfs
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.store.s3_policy import BACKUP, PRUNE, PUT_ONLY, RESTORE, policy

pytestmark = S3_GROUP
USES = (PUT_ONLY, BACKUP, RESTORE, PRUNE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a credential for each use, which has the printed policy and no other right."""
    folder = tmp_path_factory.mktemp("policies")
    known = json.loads(IDENTITIES.read_text())
    for use in USES:
        credential = {"accessKey": f"{use}-key", "secretKey": f"{use}-secret"}
        known["identities"].append({"name": use, "credentials": [credential], "policyNames": [use]})
        known["policies"].append({"name": use, "content": json.dumps(policy(use, "vault", "host/"))})
    (folder / "identities.json").write_text(json.dumps(known))
    with seaweedfs(folder / "weed", folder / "identities.json") as server:
        yield server


@pytest.fixture
def site(server, tmp_path):
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="vault"):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket="vault", Key=found["Key"])
    site = Site(tmp_path, server.endpoint, env={"AWS_DEFAULT_REGION": "us-east-1"})
    make_tree(site.source)
    return site


def become(site, use, bucket=None):
    """Take another credential, in the config and in the environment."""
    names = ("adminkey", "adminsecret") if use == "admin" else (f"{use}-key", f"{use}-secret")
    site.env |= {"AWS_ACCESS_KEY_ID": names[0], "AWS_SECRET_ACCESS_KEY": names[1]}
    s3 = {**site.settings["s3"], **site.credentials(), "access": "put_only" if use == PUT_ONLY else "full"}
    site.bucket = s3["bucket"] = bucket or site.bucket
    site.configure(s3=s3)
    return site


def rights(site):
    findings = json.loads(site.run("check", site.config, "--json").stdout)
    found = [finding for finding in findings if finding["what"] == "rights"]
    assert found[0]["state"] == "ok"
    return found[0]["text"].split(", "), " | ".join(f["text"] for f in found if f["state"] == "warn"), found


class TestEnough:
    @pytest.mark.parametrize("use", [PUT_ONLY, BACKUP])
    def test_to_back_up_restore_verify_and_prune(self, site, use):
        become(site, use).backup()
        (site.source / "more").write_bytes(os.urandom(100_000))
        site.backup()
        become(site, RESTORE).restore(site.tmp / "out")
        assert describe(site.restored(site.tmp / "out")) == describe(site.source)
        site.run("verify", *site.where, "--deep", "--state", site.tmp / "verify.sqlite")
        become(site, PRUNE).run("prune", *site.where, "--yes")
        shutil.rmtree(site.state)
        become(site, use).backup()
        become(site, PRUNE).run("verify", *site.where, "--deep", "--state", site.tmp / "verify.sqlite")

    def test_what_a_host_of_its_own_prefix_cannot_reach(self, site):
        for use in USES:
            become(site, use)
            other = ["--endpoint", site.endpoint, "vault", "another/"]
            done = site.run("snapshots", *other, code=1)
            assert "access denied" in done.stderr

    def test_it_is_printed_for_the_configs_bucket(self, site):
        for use in (*USES, "bucket"):
            done = site.run("check", site.config, "--policy", use)
            assert json.loads(done.stdout) == policy(use, "vault", "host/")

    def test_not_for_a_directory(self, tmp_path):
        local = Site(tmp_path)
        done = local.run("check", local.config, "--policy", "prune", code=2)
        assert "a directory has no policies" in done.stderr
        assert done.stdout == ""


class TestCheck:
    def test_says_what_it_may(self, site):
        for use, has in ((PUT_ONLY, ["put"]), (BACKUP, ["put", "list"])):
            found, warned, _ = rights(become(site, use))
            assert found == has
            assert "overwrite" in warned
            assert "delete" not in warned
            assert "get" not in warned

    def test_warns_of_what_a_host_had_better_not_have(self, site):
        found, warned, findings = rights(become(site, "admin"))
        assert found == ["put", "list", "get", "delete"]
        assert "can delete for good" in warned
        assert "can get" in warned
        assert any("--policy backup" in (finding["hint"] or "") for finding in findings)

    def test_nothing_is_lost_by_it(self, site, server):
        become(site, "admin").backup()
        keys = [o["Key"] for o in server.client().list_objects_v2(Bucket="vault", Prefix="host/")["Contents"]]
        rights(site)
        left = [o["Key"] for o in server.client().list_objects_v2(Bucket="vault", Prefix="host/")["Contents"]]
        (probe,) = set(left) - set(keys)
        assert probe.startswith("host/blobs/")
        site.restore(site.tmp / "out")

    def test_a_versioned_bucket_keeps_what_is_overwritten(self, site, server):
        server.make_bucket("versioned")
        server.client().put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        _, warned, findings = rights(become(site, "admin", "versioned"))
        assert "overwrite" not in warned
        assert any("the bucket is versioned" in finding["text"] for finding in findings)
        left = server.client().list_object_versions(Bucket="versioned")
        assert "DeleteMarkers" not in left, "nothing is left of what was only asked"
        assert {version["Key"].startswith("host/blobs/") for version in left["Versions"]} == {True}
