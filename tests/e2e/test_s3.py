"""Whole backups to S3: a strict server, a poor one, one that is far away, one that fails now and then."""

import random
import time
from pathlib import Path

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support.mounts import NEEDS_FUSE, mounted
from tests.support.proxy import HELD_S, Proxy
from tests.support.tls import Authority
from tests.support.tree import describe, edit_tree, make_tree

pytestmark = S3_GROUP

UPLOAD = "PutObject"


@pytest.fixture(params=["seaweedfs", "rclone"])
def kind(request):
    return request.param


@pytest.fixture
def server(request, kind):
    return request.getfixturevalue("weed" if kind == "seaweedfs" else "poor_s3")


@pytest.fixture
def s3_site(request, tmp_path, kind):
    return make_site(request, tmp_path, kind)


def use(site, endpoint):
    """Let a site reach its store another way."""
    site.endpoint = endpoint
    site.configure(s3=site.settings["s3"] | {"endpoint": endpoint})


def make_image(site, megabytes=20):
    """A source of several blobs."""
    site.configure(chunk_size="64KiB", blob_size_limit="4MiB")
    site.source.mkdir()
    data = random.Random(3).randbytes(megabytes * 1_000_000)
    (site.source / "image").write_bytes(data)
    return data


def test_two_backups_with_an_edit_between_come_back_whole(s3_site, tmp_path):
    make_tree(s3_site.source)
    before = describe(s3_site.source)
    first = s3_site.backup("--workers", "2")
    edit_tree(s3_site.source)
    s3_site.backup("--workers", "2")
    s3_site.restore(tmp_path / "out")
    assert describe(s3_site.restored(tmp_path / "out")) == describe(s3_site.source)
    s3_site.restore(tmp_path / "old", snapshot=first["snapshot"])
    assert describe(s3_site.restored(tmp_path / "old")) == before


def test_an_unchanged_tree_puts_no_blob(s3_site, server):
    make_tree(s3_site.source)
    s3_site.backup()
    with Proxy(server) as proxy:
        use(s3_site, proxy.endpoint)
        again = s3_site.backup()
        assert again["blobs"] == again["bytes_new"] == 0
        assert [r.target for r in proxy.operations(UPLOAD) if "/blobs/" in r.target] == []


def test_failures_on_the_way_are_outlasted(s3_site, server, tmp_path):
    data = make_image(s3_site)
    script = {
        UPLOAD: ["pass", "500", "pass", "reset", "lost", "pass", "reset-late", "lost"],
        "ListObjectsV2": ["reset", "pass", "500"],
        "HeadObject": ["500", "reset"],
        "GetObject": ["cut", "reset", "pass", "short", "500"],
    }
    with Proxy(server, script) as proxy:
        use(s3_site, proxy.endpoint)
        s3_site.backup("--workers", "2")
        s3_site.restore(tmp_path / "out")
        assert proxy.faults() >= 10
    assert (s3_site.restored(tmp_path / "out") / "image").read_bytes() == data


class TestStrict:
    @pytest.fixture
    def kind(self):
        return "seaweedfs"

    def test_over_tls_by_a_ca_of_ones_own(self, s3_site, server, tmp_path):
        make_image(s3_site, 6)
        ca = Authority(tmp_path)
        with Proxy(server, tls=ca.server()) as proxy:
            use(s3_site, proxy.endpoint)
            refused = s3_site.run("backup", s3_site.config, code=1)
            assert "its certificate is of an unknown CA\n" in refused.stderr
            assert "AWS_CA_BUNDLE" in refused.stderr
            s3_site.env["AWS_CA_BUNDLE"] = str(ca.bundle)
            s3_site.backup()
            s3_site.restore(tmp_path / "out")
        assert describe(s3_site.restored(tmp_path / "out")) == describe(s3_site.source)

    def test_a_password_in_the_endpoint_is_nowhere(self, s3_site):
        s3_site.source.mkdir()
        use(s3_site, s3_site.endpoint.replace("http://", "http://user:s3cr3t@"))
        done = s3_site.run("backup", s3_site.config, code=2)
        assert "a user or password stands in it" in done.stderr
        assert "s3cr3t" not in done.stdout + done.stderr
        assert not any(b"s3cr3t" in path.read_bytes() for path in s3_site.state.rglob("*") if path.is_file())

    def test_chunking_goes_on_while_a_blob_is_uploaded(self, s3_site, server, tmp_path):
        """Shown by what happens while the first upload is held back, not by how long anything takes."""
        data = make_image(s3_site)
        seen = {}

        def hold(request):
            """Hold the first upload until a blob that wasn't there yet is being made."""
            before = set(s3_site.spooled())
            until = time.monotonic() + HELD_S
            while time.monotonic() < until and not set(s3_site.spooled()) - before:
                time.sleep(0.01)
            seen[request.target] = set(s3_site.spooled()) - before

        with Proxy(server, {UPLOAD: [hold]}, delay_s=0.03) as proxy:
            use(s3_site, proxy.endpoint)
            s3_site.backup("--workers", "2")
            (made,) = seen.values()
            assert made, "nothing was made while an upload was under way"
            s3_site.restore(tmp_path / "out")
        assert (s3_site.restored(tmp_path / "out") / "image").read_bytes() == data

    def test_uploads_of_two_workers_overlap(self, s3_site, server):
        make_image(s3_site)

        def meet(_request):
            """Hold an upload until there is another one."""
            with proxy.changed:
                proxy.changed.wait_for(lambda: len(proxy.operations(UPLOAD)) >= 2, timeout=HELD_S)

        with Proxy(server, {UPLOAD: [meet]}, delay_s=0.03) as proxy:
            use(s3_site, proxy.endpoint)
            s3_site.backup("--workers", "2")
            assert proxy.under_way(UPLOAD) == 2

    def test_requests_do_not_grow_with_what_is_far(self, s3_site, server, tmp_path):
        """With a long way to go, it is the number of requests one after the other that counts."""
        make_tree(s3_site.source)
        with Proxy(server, delay_s=0.15) as proxy:
            use(s3_site, proxy.endpoint)
            s3_site.backup("--workers", "2")
            blobs = len({r.target for r in proxy.operations(UPLOAD) if "/blobs/" in r.target})
            assert len(proxy.requests) <= 3 * blobs + 12
            proxy.requests.clear()
            s3_site.restore(tmp_path / "out")
            assert len(proxy.requests) <= 3 * blobs + 12
        assert describe(s3_site.restored(tmp_path / "out")) == describe(s3_site.source)


@NEEDS_FUSE
def test_one_small_file_of_a_mount_costs_a_header_and_its_frame(s3_site, server, tmp_path):
    """Counted at the server: requests, and the bytes of their answers."""
    s3_site.configure(blob_size_limit="32MiB")
    s3_site.source.mkdir()
    rng = random.Random(6)
    for n in range(10):
        (s3_site.source / f"file {n}").write_bytes(rng.randbytes(1_900_000))
    (s3_site.source / "small").write_bytes(b"a few words")
    s3_site.backup()
    with Proxy(server) as proxy:
        use(s3_site, proxy.endpoint)
        with mounted(s3_site, tmp_path / "mnt", "--snapshot", "latest") as mount:
            before = len(proxy.requests)
            assert (Path(f"{mount.at}{s3_site.source}") / "small").read_bytes() == b"a few words"
            asked = [r for r in proxy.requests[before:] if "/blobs/" in r.target]
            (db,) = [r for r in proxy.requests if ".sqlite." in r.target]
    assert db.operation == "GetObject"
    assert {request.operation for request in asked} == {"GetObject"}
    # What lies no further from the header than a request counts comes with it.
    assert 1 <= len(asked) <= 2
    assert sum(request.size for request in asked) <= 500 + (256 << 10) + (1 << 20) + 2 * 65552
