"""Restores that are killed, cut off or out of space go on: what is fetched again is counted before a real server."""

import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support import prefork
from tests.support.prefork import kill_group
from tests.support.proxy import Proxy
from tests.support.restores import leftovers
from tests.support.tree import describe, make_tree
from vaultik.restore.asked import Asked
from vaultik.restore.session import RestoreSession
from vaultik.secrets import load_identities
from vaultik.store.open import open_store

pytestmark = S3_GROUP


def fill(source, seed):
    make_tree(source)
    rng = random.Random(seed)
    for n in range(20):
        (source / f"random {n:02}").write_bytes(rng.randbytes(rng.randint(1, 300_000)))
    (source / "several blobs").write_bytes(rng.randbytes(7_000_000))


def blob_requests(requests):
    return [request for request in requests if request.operation == "GetObject" and "/blobs/" in request.target]


@pytest.fixture
def proxied(request, tmp_path, weed):
    """A site on a real server, seen through a proxy whose script each test sets."""
    site = make_site(request, tmp_path, "seaweedfs", chunk_size="64KiB", blob_size_limit="2MiB")
    with Proxy(weed) as proxy:
        site.endpoint = proxy.endpoint
        yield site, proxy


@pytest.mark.parametrize("count", [2, 7])
def test_no_blob_that_was_used_is_downloaded_again(proxied, tmp_path, count):
    """Killed when it asks for one more: those before are not asked for again, and this one is."""
    site, proxy = proxied
    fill(site.source, 2)
    site.configure(s3={**site.settings["s3"], "endpoint": f"http://127.0.0.1:{proxy.target}"})
    site.backup()
    run = None
    left = itertools.count(count, -1)

    def kill(request):
        if "/blobs/" in request.target and next(left) == 1:
            prefork.kill_group(run.pid)
            run.wait()
            return "reset"
        return "pass"

    proxy.script["GetObject"] = itertools.repeat(kill)
    command = site.command("restore", *site.where, "latest", tmp_path / "out", "--workers", "1")
    run = subprocess.Popen(command, env=site.environment(), start_new_session=True)
    run.wait()
    assert run.returncode == -signal.SIGKILL
    first = {request.target for request in blob_requests(proxy.requests)}
    assert len(first) == count
    in_flight = blob_requests(proxy.requests)[-1].target
    seen = len(proxy.requests)
    site.restore(tmp_path / "out")
    second = {request.target for request in blob_requests(proxy.requests[seen:])}
    assert second & first == {in_flight}
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)
    assert leftovers(tmp_path / "out") == []


def test_what_a_bad_line_damaged_is_asked_for_again(proxied, tmp_path):
    """A blob comes with another bit, a kill with the next: it comes whole the next time, and isn't looked for elsewhere."""
    site, proxy = proxied
    fill(site.source, 2)
    site.configure(s3={**site.settings["s3"], "endpoint": f"http://127.0.0.1:{proxy.target}"})
    site.backup()
    site.backup()
    run = None
    asked = itertools.count(1)

    def spoil(request):
        if "/blobs/" not in request.target:
            return "pass"
        if next(asked) == 1:
            return "flip"
        kill_group(run.pid)
        return "reset"

    proxy.script["GetObject"] = itertools.repeat(spoil)
    command = site.command("restore", *site.where, "latest", tmp_path / "out", "--workers", "1")
    run = subprocess.Popen(command, env=site.environment(), start_new_session=True)
    assert run.wait() == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(tmp_path / "out/.vaultik-restore/plan.sqlite")) as plan:
        assert plan.execute("SELECT count(*) FROM failures WHERE kind = 1").fetchone()[0] > 0
    proxy.script = {}
    seen = len(proxy.requests)
    site.restore(tmp_path / "out")
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)
    assert not [r for r in proxy.requests[seen:] if ".sqlite." in r.target], "it has its snapshot, and needs no other"
    assert leftovers(tmp_path / "out") == []


def test_no_file_that_is_done_is_fetched_again_after_a_lost_connection(proxied, tmp_path):
    """One blob of many files, cut off again and again: what is fetched anew is what its unfinished files need."""
    site, proxy = proxied
    site.source.mkdir()
    rng = random.Random(3)
    for n in range(160):
        (site.source / f"file {n:03}").write_bytes(rng.randbytes(60_000))
    site.configure(
        chunk_size="1MiB",
        blob_size_limit="16MiB",
        s3={**site.settings["s3"], "endpoint": f"http://127.0.0.1:{proxy.target}"},
    )
    site.backup()

    def cut(request):
        return "cut" if "/blobs/" in request.target else "pass"

    proxy.script["GetObject"] = itertools.repeat(cut)
    done = site.restore(tmp_path / "out", code=1)
    assert "the store broke off its answer" in done.stderr
    assert "Traceback" not in done.stderr
    size = max(request.size for request in blob_requests(proxy.requests))
    at = site.restored(tmp_path / "out")
    before = {path: path.stat().st_ino for path in at.glob("file *")}
    assert 40 < len(before) < 160
    seen = len(proxy.requests)
    proxy.script.clear()
    site.restore(tmp_path / "out")
    fetched = sum(request.size for request in blob_requests(proxy.requests[seen:]))
    assert fetched < (160 - len(before)) * 60_000 + (2 << 20) < size
    assert {path: path.stat().st_ino for path in before} == before
    assert describe(at) == describe(site.source)
    assert leftovers(tmp_path / "out") == []


def used_blobs(target):
    """What an unfinished restore has noted as read."""
    with contextlib.closing(sqlite3.connect(target / ".vaultik-restore/plan.sqlite")) as plan:
        rows = plan.execute(
            "SELECT hex(b.hash) FROM reads AS r JOIN blobs AS b ON b.id = r.blob WHERE r.done"
        ).fetchall()
    return {name.lower() for (name,) in rows}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_nor_after_a_full_disk(proxied, tmp_path):
    site, proxy = proxied
    fill(site.source, 4)
    site.configure(s3={**site.settings["s3"], "endpoint": f"http://127.0.0.1:{proxy.target}"})
    site.backup()
    (tmp_path / "out").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", tmp_path / "out"], check=True)
    try:
        done = site.restore(tmp_path / "out", "--workers", "1", code=1)
        assert "No space left" in done.stderr
        used = used_blobs(tmp_path / "out")
        assert len(used) > 2
        subprocess.run(["mount", "-o", "remount,size=64m", tmp_path / "out"], check=True)
        seen = len(proxy.requests)
        site.restore(tmp_path / "out")
        again = {request.target.rsplit("/", 1)[1] for request in blob_requests(proxy.requests[seen:])}
        assert again
        assert not again & used
        assert describe(site.restored(tmp_path / "out")) == describe(site.source)
        assert leftovers(tmp_path / "out") == []
    finally:
        subprocess.run(["umount", "-l", tmp_path / "out"], check=True)


def test_an_update_fetches_only_what_differs(proxied, tmp_path):
    """Files that are equal cost nothing; a blob is asked for those bytes of it that the others need."""
    site, proxy = proxied
    fill(site.source, 5)
    site.configure(s3={**site.settings["s3"], "endpoint": f"http://127.0.0.1:{proxy.target}"})
    site.backup()
    site.restore(tmp_path / "out")
    at = site.restored(tmp_path / "out")
    seen = len(proxy.requests)
    site.restore(tmp_path / "out", "--force")
    assert blob_requests(proxy.requests[seen:]) == []
    (at / "random 01").write_text("x")
    (at / "many/1/file 1").unlink()
    seen = len(proxy.requests)
    report = json.loads(site.restore(tmp_path / "out", "--force", "--json").stdout)
    assert report["unchanged"] == report["files"] - 2
    assert 0 < sum(request.size for request in blob_requests(proxy.requests[seen:])) < 2_000_000
    assert describe(at) == describe(site.source)


def test_killed_in_the_midst_of_its_plan(local_site, tmp_path, monkeypatch):
    """By luigi with two workers one process makes the plan anew, and another one has looked at the old one."""
    make_tree(local_site.source)
    local_site.backup()
    identities = load_identities(local_site.key)
    session = RestoreSession(
        lambda: open_store(local_site.endpoint, local_site.bucket, local_site.prefix),
        identities,
        Asked(tmp_path / "out", "latest"),
    )
    monkeypatch.setattr(
        Asked, "make_plan", lambda _self, copy, _narrow: (copy.commit(), os.kill(os.getpid(), signal.SIGKILL))
    )
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            session.begin()
            session.fetch_snapshot()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out/.vaultik-restore/plan.sqlite").exists()
    where = ["--endpoint", local_site.endpoint, "--bucket", local_site.bucket, "--prefix", local_site.prefix]
    local_site.luigi("Restore", *where, "--target", str(tmp_path / "out"), "--workers", "2")
    assert describe(local_site.restored(tmp_path / "out")) == describe(local_site.source)
    assert leftovers(tmp_path / "out") == []
