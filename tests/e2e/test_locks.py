"""Object Lock on a server that enforces it: nothing locked is deleted, and what is kept stays locked."""

import datetime
import hashlib
import json
import os
import time

import pytest
from botocore.exceptions import ClientError

from tests.conftest import S3_GROUP
from tests.support.site import Site
from tests.support.tree import describe, make_tree
from vaultik.core.names import BLOBS_PREFIX, blob_key
from vaultik.store.open import open_store

pytestmark = S3_GROUP
DAY = 86_400
SLACK = 600
"""Seconds between a put and when a test looks at it."""


@pytest.fixture(scope="module")
def locking(weed):
    weed.client().create_bucket(Bucket="locks", ObjectLockEnabledForBucket=True)
    return weed


@pytest.fixture
def site(locking, tmp_path):
    env = {"AWS_ACCESS_KEY_ID": locking.access_key, "AWS_SECRET_ACCESS_KEY": locking.secret_key}
    site = Site(tmp_path, locking.endpoint, prefix=f"{tmp_path.name}/", env=env | {"AWS_DEFAULT_REGION": "us-east-1"})
    site.bucket = "locks"
    lock(site, {"mode": "governance", "days": 3})
    make_tree(site.source)
    return site


def lock(site, how):
    s3 = {**site.settings["s3"], "bucket": "locks", "lock": how}
    site.configure(s3={name: value for name, value in s3.items() if value is not None})


def objects(server, site):
    """The keys that stand there, without the prefix."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket="locks", Prefix=site.prefix)
    return {found["Key"].removeprefix(site.prefix) for page in pages for found in page.get("Contents", ())}


def versions(server, site):
    found = server.client().list_object_versions(Bucket="locks", Prefix=site.prefix)
    return {(v["Key"].removeprefix(site.prefix), v["VersionId"]) for v in found.get("Versions", ())}


def days(server, site, key):
    """For how many days an object is locked from now, and in which mode."""
    head = server.client().head_object(Bucket="locks", Key=site.prefix + key)
    until = head["ObjectLockRetainUntilDate"].timestamp()
    return (until - time.time()) / DAY, head["ObjectLockMode"]


def prune(site, *arguments, **kwargs):
    return json.loads(site.run("prune", *site.where, "--yes", "--json", *arguments, **kwargs).stdout)


class TestPut:
    @pytest.mark.parametrize("mode", ["governance", "compliance"])
    def test_everything_is_locked(self, site, locking, mode):
        lock(site, {"mode": mode, "days": 3})
        site.backup()
        found = objects(locking, site)
        assert len(found) >= 3
        for key in found:
            left, how = days(locking, site, key)
            assert 3 - SLACK / DAY < left < 3 + SLACK / DAY
            assert how == mode.upper()
        for key, version in versions(locking, site):
            with pytest.raises(ClientError, match="AccessDenied"):
                locking.client().delete_object(Bucket="locks", Key=site.prefix + key, VersionId=version)

    def test_a_credential_that_only_puts_can_lock(self, site, locking):
        s3 = {**site.settings["s3"], "access_key_id": "putkey", "secret_access_key": "putsecret", "access": "put_only"}
        s3["bucket"] = site.bucket = "locked"
        try:
            locking.client().create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        except ClientError as exc:
            assert "BucketAlready" in str(exc)
        site.configure(s3=s3)
        site.backup()
        pages = locking.client().list_objects_v2(Bucket="locked", Prefix=site.prefix)["Contents"]
        heads = [locking.client().head_object(Bucket="locked", Key=found["Key"]) for found in pages]
        assert {head.get("ObjectLockMode") for head in heads} == {"GOVERNANCE"}

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ({"mode": "gently", "days": 3}, "governance or compliance"),
            ({"mode": "governance", "days": 0}, "0 days can't be"),
            ({"mode": "governance", "days": 10**9}, "days can't be"),
            ({"mode": "governance"}, "days"),
        ],
    )
    def test_what_makes_no_sense(self, site, how, words):
        lock(site, how)
        done = site.run("backup", site.config, code=2)
        assert words in done.stderr

    def test_a_directory_has_none(self, tmp_path):
        site = Site(tmp_path)
        make_tree(site.source)
        site.configure(s3={**site.settings["s3"], "lock": {"mode": "governance", "days": 3}})
        done = site.run("backup", site.config, code=2)
        assert "a directory store has no locks" in done.stderr


class TestPrune:
    def test_it_leaves_what_is_locked_and_says_until_when(self, site, locking):
        first = site.backup()["snapshot"]
        (site.source / "only in the first").unlink(missing_ok=True)
        second = site.backup()["snapshot"]
        before = versions(locking, site)
        said = prune(site, "--drop", first)
        (fate,) = (fate for fate in said["fates"] if fate["snapshot"] == first)
        assert fate["fate"] == "hold"
        assert abs(fate["until"] - time.time() - 3 * DAY) < SLACK
        assert versions(locking, site) == before
        done = site.run("prune", *site.where, "--yes", "--drop", first)
        assert ": locked" in done.stdout
        site.restore(site.tmp / "out", snapshot=first)
        site.restore(site.tmp / "out 2", snapshot=second)

    def test_a_locked_blob_that_nobody_needs_stays(self, site, locking):
        body = b"of a run that was killed"
        key = blob_key(hashlib.sha256(body).digest())
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
        lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
        locking.client().put_object(Bucket="locks", Key=site.prefix + key, Body=body, **lock)
        time.sleep(1.1)  # LastModified is in whole seconds, and what is as new as the newest DB stays anyway
        site.backup()
        said = prune(site, "--grace", "0", "--exclusive")
        (held,) = (held for held in said["held"] if held["why"] == "locked")
        assert (held["blobs"], held["bytes"]) == (1, len(body))
        assert said["bytes_freed"] == 0
        assert abs(held["until"] - until.timestamp()) < SLACK
        assert key in objects(locking, site)

    def test_what_a_locked_snapshot_needs_stays_with_it(self, site, locking):
        """Its DB alone is locked; its blobs are as old as they need be to go."""
        lock(site, None)
        site.backup()
        (site.source / "in a blob of its own").write_bytes(os.urandom(100_000))
        first = site.backup()["snapshot"]
        (site.source / "in a blob of its own").unlink()
        time.sleep(1.1)
        site.backup()
        (db,) = (key for key in objects(locking, site) if first in key and ".sqlite." in key)
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
        retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
        locking.client().put_object_retention(Bucket="locks", Key=site.prefix + db, Retention=retention)
        blobs = {key for key in objects(locking, site) if key.startswith(BLOBS_PREFIX)}
        said = prune(site, "--keep-last", "1", "--grace", "0", "--exclusive")
        assert sorted(fate["fate"] for fate in said["fates"]) == ["drop", "hold", "keep"]
        assert objects(locking, site) >= blobs
        site.restore(site.tmp / "out", snapshot=first)

    def test_what_is_locked_behind_a_mark_stays_there(self, site, locking):
        """Who deletes by the store what is locked, as a prune may that was overtaken by a lock, hides it and no more."""
        site.backup()
        (key, *_) = sorted(key for key in objects(locking, site) if key.startswith(BLOBS_PREFIX))
        store = open_store(site.endpoint, "locks", site.prefix, **site.keys())
        assert store.delete([key]) == {}
        assert key not in objects(locking, site)
        assert key in {name for name, _ in versions(locking, site)}

    def test_it_frees_the_versions_of_what_is_not(self, site, locking):
        lock(site, None)
        first = site.backup()["snapshot"]
        site.backup()
        gone = {key for key, _ in versions(locking, site) if first in key}
        assert len(gone) == 2
        prune(site, "--drop", first)
        assert not {key for key, _ in versions(locking, site)} & gone
        markers = locking.client().list_object_versions(Bucket="locks", Prefix=site.prefix).get("DeleteMarkers", [])
        assert markers == []

    def test_it_renews_the_locks_of_what_is_kept(self, site, locking):
        site.backup()
        (site.source / "more").write_bytes(os.urandom(200_000))
        site.backup()
        blobs = {key for key in objects(locking, site) if key.startswith(BLOBS_PREFIX)}
        assert len(blobs) >= 2
        said = prune(site, "--keep-last", "9", "--extend-lock", "30d")
        assert said["locked"] == len(objects(locking, site))
        for key in objects(locking, site):
            left, how = days(locking, site, key)
            assert 30 - SLACK / DAY < left < 30 + SLACK / DAY
            assert how == "GOVERNANCE"
        assert prune(site, "--keep-last", "9", "--extend-lock", "10d")["locked"] == 0, "no lock gets shorter"
        done = site.run("prune", *site.where, "--yes", "--keep-last", "9", "--extend-lock", "40d")
        assert f"locked for longer: {len(objects(locking, site))} objects" in done.stdout

    def test_what_stands_behind_an_overwritten_object_is_locked_too(self, site, locking):
        site.backup()
        (key,) = (key for key in objects(locking, site) if key.startswith(BLOBS_PREFIX))
        ((_, right),) = (v for v in versions(locking, site) if v[0] == key)
        locking.client().put_object(Bucket="locks", Key=site.prefix + key, Body=b"another's")
        prune(site, "--extend-lock", "30d")
        head = locking.client().head_object(Bucket="locks", Key=site.prefix + key, VersionId=right)
        assert head["ObjectLockRetainUntilDate"].timestamp() > time.time() + 29 * DAY
        site.restore(site.tmp / "out")
        assert describe(site.restored(site.tmp / "out")) == describe(site.source)

    def test_not_in_a_directory_and_not_even_in_a_dry_run(self, tmp_path):
        local = Site(tmp_path)
        make_tree(local.source)
        local.backup()
        before = describe(local.store)
        done = local.run("prune", *local.where, "--extend-lock", "30d", "--dry-run", code=2)
        assert "a directory has no locks" in done.stderr
        assert describe(local.store) == before

    @pytest.mark.parametrize("period", ["0", "soon", "-3d", "99999d"])
    def test_what_is_no_time(self, site, period):
        done = site.run("prune", *site.where, f"--extend-lock={period}", code=2)
        assert "--extend-lock" in done.stderr
