"""What a restore asks of the store, counted before a real server: the bytes that it needs, and what --dry-run said."""

import json
import random

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support.proxy import Proxy
from tests.support.tree import describe
from vaultik.restore.scratch import copied_snapshot
from vaultik.secrets import load_identities
from vaultik.snapshot.tree import resolve
from vaultik.store.open import open_store

pytestmark = S3_GROUP
SEGMENT, STORED, NONCE = 65536, 65552, 16


class Seen:
    """What was asked for of blobs."""

    def __init__(self, requests):
        asked = [r for r in requests if r.operation == "GetObject" and "/blobs/" in r.target]
        self.requests = len(asked)
        self.bytes = sum(r.size for r in asked)
        self.blobs = {r.target.rsplit("/", 1)[1].split("?")[0] for r in asked}


@pytest.fixture
def proxied(request, tmp_path, weed):
    """A site on a real server that is read through a proxy."""
    site = make_site(request, tmp_path, "seaweedfs")
    site.source.mkdir()
    with Proxy(weed) as proxy:
        site.endpoint = proxy.endpoint

        def seen(*command, **kwargs):
            before = len(proxy.requests)
            done = site.run(*command, **kwargs)
            return done, Seen(proxy.requests[before:])

        site.seen = seen
        yield site


def frames_of(site, path):
    """The blob, its header's length, and offset and length of each frame that holds something of a file."""
    store = open_store(site.endpoint, site.bucket, site.prefix, **site.keys())
    with copied_snapshot(store, load_identities(site.key), "latest") as (_, copy):
        entry = resolve(copy, [bytes(path)])
        return copy.execute(
            "SELECT DISTINCT hex(b.hash), b.size, b.header_length, c.frame_offset, c.frame_length FROM entry_chunks AS ec"
            " JOIN chunks AS c ON c.id = ec.chunk JOIN blobs AS b ON b.id = c.blob WHERE ec.entry = ?",
            (entry.id,),
        ).fetchall()


def test_a_small_file_out_of_a_large_blob_costs_its_frame(proxied, tmp_path):
    site = proxied
    rng = random.Random(1)
    for n in range(24):
        (site.source / f"large {n:02}").write_bytes(rng.randbytes(1_500_000))
    (site.source / "large 20 small").write_bytes(rng.randbytes(5_000))
    site.backup()
    path = site.source / "large 20 small"
    ((blob, size, header, offset, length),) = frames_of(site, path)
    assert size > 15_000_000
    segments = (offset + length - 1) // SEGMENT - offset // SEGMENT + 1
    needed = header + NONCE + segments * STORED
    assert needed < 1_300_000
    for command in (
        ["fetch", *site.where, "latest", path, "-"],
        ["fetch", *site.where, "latest", path, tmp_path / "got"],
        ["restore", *site.where, "latest", tmp_path / "part", "--include", path],
    ):
        _, seen = site.seen(*command, **({"encoding": "latin1"} if command[-1] == "-" else {}))
        assert seen.blobs == {blob.lower()}
        assert (seen.requests, seen.bytes) == (2, needed)
    assert (
        (tmp_path / "got").read_bytes()
        == path.read_bytes()
        == site.restored(tmp_path / "part").joinpath(path.name).read_bytes()
    )


def test_a_dry_run_says_what_the_run_asks_for(proxied, tmp_path):
    """Of all, of a part, of an update: exactly, each blob once though hundreds of files share it, nothing twice."""
    site = proxied
    site.configure(chunk_size="256KiB", blob_size_limit="4MiB")
    rng = random.Random(2)
    shared = rng.randbytes(40_000)
    for folder in ("a", "b", "c"):
        (site.source / folder).mkdir()
        for n in range(12):
            (site.source / folder / f"{n:02}").write_bytes(rng.randbytes(rng.choice([10_000, 700_000, 1_500_000])))
        for n in range(80):
            (site.source / folder / f"shared {n}").write_bytes(shared)
    (site.source / "c/several blobs").write_bytes(rng.randbytes(9_000_000))
    site.backup()

    def both(target, *options):
        said = json.loads(site.restore(target, "--dry-run", "--json", *options).stdout)["left"]
        _, seen = site.seen("restore", *site.where, "latest", target, *options)
        assert (len(seen.blobs), seen.requests, seen.bytes) == (said["blobs"], said["requests"], said["fetched_bytes"])
        return said, seen

    said, seen = both(tmp_path / "all")
    assert describe(site.restored(tmp_path / "all")) == describe(site.source)
    assert said["fetched_bytes"] <= said["blob_bytes"] < said["bytes"]
    everything = seen.blobs
    said, seen = both(tmp_path / "part", "--include", site.source / "a")
    assert seen.blobs < everything
    content = sum((site.source / "a" / f"{n:02}").stat().st_size for n in range(12))
    assert content < said["fetched_bytes"] < content + (3 << 20)
    at = site.restored(tmp_path / "all")
    (at / "c/several blobs").unlink()
    (at / "a/03").write_bytes(b"changed")
    said, seen = both(tmp_path / "all", "--force")
    assert (said["files"], seen.requests > 0) == (2, True)


def test_what_lies_together_is_asked_for_together(proxied, tmp_path):
    """A directory of many small files: one range, and the header."""
    site = proxied
    rng = random.Random(3)
    for folder, count, size in (("a", 40, 300_000), ("many", 200, 20_000), ("z", 40, 300_000)):
        (site.source / folder).mkdir()
        for n in range(count):
            (site.source / folder / str(n)).write_bytes(rng.randbytes(size))
    site.backup()
    _, seen = site.seen("restore", *site.where, "latest", tmp_path / "out", "--include", site.source / "many")
    assert seen.requests <= 2 * len(seen.blobs) <= 4
    assert seen.bytes < 200 * 20_000 + (3 << 20)
    assert describe(site.restored(tmp_path / "out") / "many") == describe(site.source / "many")
