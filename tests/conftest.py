"""Fixtures of all tests."""

import os
import signal

import pytest

from tests.support.servers import rclone, seaweedfs
from tests.support.site import Site

# A shell's & makes it ignored, and what is begun here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test has damaged in a store is to be looked for there; who tests the cache sets this.
os.environ["VAULTIK_CACHE_SIZE"] = "0"

S3_GROUP = pytest.mark.xdist_group("s3")


@pytest.fixture(scope="session")
def weed(tmp_path_factory):
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def poor_s3(tmp_path_factory):
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["directory", pytest.param("seaweedfs", marks=S3_GROUP)])
def site(request, tmp_path):
    """A host that backs up to a directory, and one that backs up to a strict S3 server."""
    return make_site(request, tmp_path, request.param)


@pytest.fixture
def local_site(tmp_path):
    return Site(tmp_path)


def make_site(request, tmp_path, kind, **settings):
    if kind == "directory":
        return Site(tmp_path, **settings)
    server = request.getfixturevalue("weed" if kind == "seaweedfs" else "poor_s3")
    env = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return Site(tmp_path, server.endpoint, prefix=f"{tmp_path.name}/", env=env, **settings)
