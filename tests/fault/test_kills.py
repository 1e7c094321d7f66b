"""P7: kill it anywhere; the next run goes on. Nothing is uploaded twice, no finished bundle read again, the spool ends clean.

A breakpoint in the environment makes a real `vaultik backup` kill itself (and so its workers) at a
given step of a given bundle. The breakpoints are set by a sitecustomize module of the test's own.
"""

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import prefork
from tests.support.run import Run
from tests.support.site import Site
from tests.support.tree import describe
from vaultik.backup.read import BundleReader
from vaultik.index import bundles, chunks
from vaultik.model import ChunkId

KILLER = """
import os, signal, sys
POINT, COUNT = os.environ.get("KILL_AT", ""), int(os.environ.get("KILL_COUNT", "1"))
LOG = os.environ.get("PUT_LOG")

def install():
    import vaultik.backup.session as session
    import vaultik.backup.chunk as chunk
    import vaultik.backup.read as reading
    import vaultik.backup.upload as upload
    import vaultik.backup.seal as seal
    import vaultik.backup.commit as commit
    import vaultik.backup.layer as layer
    import vaultik.backup.sealed_snapshot as sealed_snapshot
    if os.environ.get("LAYERED"):
        # However small the tree is.
        layer.layers.LEAST_ROWS = 0
    import vaultik.store.local as local
    counts = {}
    def at(point):
        counts[point] = counts.get(point, 0) + 1
        if point == POINT and counts[point] == COUNT:
            os.killpg(os.getpgid(0), signal.SIGKILL)
    def around(owner, name, point):
        inner = getattr(owner, name)
        def wrapped(*args, **kwargs):
            at(point + ":before")
            result = inner(*args, **kwargs)
            at(point + ":after")
            return result
        setattr(owner, name, wrapped)
    around(session.Session, "scan", "scan")
    around(session.Session, "plan", "plan")
    around(chunk, "seal", "stream")
    around(chunk.bundles, "set_chunked", "chunked row")
    around(session.Session, "chunk", "chunk")
    around(seal, "_finish_file", "rename")
    around(session.Session, "seal", "seal")
    around(session.Session, "upload", "upload")
    around(upload.bundles, "set_uploaded", "uploaded row")
    around(layer, "_put_layer", "put layer")
    around(layer.layers, "add", "layer row")
    around(sealed_snapshot, "_seal_db", "seal db")
    around(commit, "_put_db", "put db")
    around(commit.state, "set_pending", "pending row")
    around(commit, "commit_base", "base row")
    around(session.Session, "finish", "finish")
    put = local.LocalStore.put
    def logged(self, key, body, **kwargs):
        stored = put(self, key, body, **kwargs)
        if LOG:
            with open(LOG, "a") as file:
                file.write(f"{stored} {key}\\n")
        at("put:after")
        return stored
    local.LocalStore.put = logged
    read = reading.BundleReader._open
    def opened(self, parent, name):
        if LOG:
            with open(LOG + ".read", "a") as file:
                file.write(f"{name.decode()}\\n")
        return read(self, parent, name)
    reading.BundleReader._open = opened
"""
RUNNER = "import killer; killer.install(); from vaultik.cli.main import main; main()"
POINTS = [
    f"{point}:{when}"
    for point in (
        "scan", "plan", "stream", "chunked row", "chunk", "rename", "seal", "upload", "uploaded row",
        "put layer", "layer row", "seal db", "pending row", "put db", "base row", "finish",
    )
    for when in ("before", "after")
]  # fmt: skip


@pytest.fixture
def site(tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="2MiB")
    site.source.mkdir()
    rng = random.Random(5)
    for n in range(120):
        path = site.source / f"file {n:03}"
        path.write_bytes(rng.randbytes(rng.randint(1, 150_000)))
        os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    (site.source / "large").write_bytes(rng.randbytes(7_000_000))
    os.utime(site.source / "large", ns=(1, 1_600_000_000_000_000_000))
    return site


def run_killed(site, point, count=1, workers=1, *, layered=False):
    env = site.environment(
        PYTHONPATH=f"{site.tmp}:{os.getcwd()}",
        KILL_AT=point,
        KILL_COUNT=str(count),
        PUT_LOG=str(site.tmp / "puts"),
        LAYERED="1" * layered,
    )
    command = [*site.command()[:1], "-c", RUNNER, "backup", str(site.config), "--json", "--workers", str(workers)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, start_new_session=True)


def assert_nothing_twice(site):
    stored = [line.split(" ", 1)[1] for line in (site.tmp / "puts").read_text().splitlines() if line.startswith("True")]
    blobs = [key for key in stored if key.startswith("blobs/")]
    assert len(blobs) == len(set(blobs))
    refused = [line for line in (site.tmp / "puts").read_text().splitlines() if line.startswith("False blobs/")]
    assert refused == []


def assert_whole(site, target):
    site.restore(target)
    assert describe(site.restored(target)) == describe(site.source)
    assert list(site.spool.iterdir()) == []
    names = {path.name for path in site.blobs()}
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in site.blobs())
    with sqlite3.connect(site.index) as index:
        known = {row[0].hex() for row in index.execute("SELECT hash FROM blobs WHERE uploaded = 1")}
    assert known <= names


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_step_the_next_run_goes_on(site, tmp_path, point):
    count = 2 if point.startswith(("stream", "chunk", "rename", "seal:", "upload")) else 1
    killed = run_killed(site, point, count, layered=True)
    assert killed.returncode == -signal.SIGKILL, f"never reached {point}: {killed.stderr}"
    done = run_killed(site, "", layered=True)
    assert done.returncode == 0, done.stderr
    assert_nothing_twice(site)
    assert_whole(site, tmp_path / "out")


def test_a_finished_bundle_is_not_read_again(site):
    run_killed(site, "seal:before", count=2)
    with sqlite3.connect(site.index) as index:
        rows = index.execute("SELECT name FROM entries WHERE id IN (SELECT entry FROM changed)")
        waiting = {row[0].decode() for row in rows}
    before = (site.tmp / "puts.read").read_text().splitlines()
    run_killed(site, "")
    again = (site.tmp / "puts.read").read_text().splitlines()[len(before) :]
    assert before
    assert set(again) <= waiting
    assert len(again) < 122


def test_a_finished_bundle_that_shares_chunks_with_an_interrupted_one_is_not_read_again(site):
    """What the interrupted one claimed comes back when it is streamed again: nothing else has to be read for it."""
    for path in site.source.iterdir():
        path.unlink()
    data = random.Random(1).randbytes(1_900_000)
    for name in ("a", "b"):
        (site.source / name).write_bytes(data)
        os.utime(site.source / name, ns=(1, 1_600_000_000_000_000_000))
    time.sleep(0.1)  # a ctime of this very tick would have them read again
    run = Run(site)
    run.session.scan()
    first, second = bundles.wave_bundles(run.session.index(), run.session.run, run.session.next_wave())
    reader = run.session.index()
    (name,) = (part.name.decode() for part in bundles.get_slices(reader, first))
    # The first one claims everything and is killed; the second finds it claimed and ends.
    stream = BundleReader(reader, bundles.get_slices(reader, first), run.session.chunker, started=0, largest=1 << 30)
    found = [(ChunkId(hashlib.sha256(raw.data).digest()), len(raw.data)) for raw in stream.chunks()]
    stream.close()
    chunks.claim(run.session.claims(), first, found)
    run.session.chunk(second)
    run.session.close()
    run_killed(site, "")
    assert (site.tmp / "puts.read").read_text().splitlines() == [name]


def test_random_kills_of_a_whole_process_group(site, tmp_path):
    rng = random.Random(11)
    env = site.environment(PYTHONPATH=f"{site.tmp}:{os.getcwd()}", PUT_LOG=str(site.tmp / "puts"))
    for _ in range(12):
        command = [*site.command()[:1], "-c", RUNNER, "backup", str(site.config), "--json", "--workers", "2"]
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.2, 1.2))
        prefork.kill_group(process.pid)
        process.wait()
    done = run_killed(site, "", workers=2)
    assert done.returncode == 0, done.stderr
    assert_nothing_twice(site)
    assert_whole(site, tmp_path / "out")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_polite_signal_ends_it_with_its_code_and_leaves_no_child(site, tmp_path, signum, workers):
    (site.source / "huge").write_bytes(random.Random(1).randbytes(120_000_000))
    process = subprocess.Popen(
        site.command("backup", site.config, "--workers", workers),
        env=site.environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: site.spool.exists() and any(site.spooled()))
    process.send_signal(signum)
    _, said = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[signum], said
    assert "Traceback" not in said
    wait_for(lambda: not alive(process.pid))
    (site.source / "huge").unlink()
    site.backup()
    assert_whole(site, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_polite_signal_ends_the_luigi_command_as_politely(site, tmp_path, workers):
    (site.source / "huge").write_bytes(random.Random(1).randbytes(120_000_000))
    process = site.begin_luigi("Backup", "--workers", workers)
    wait_for(lambda: site.spool.exists() and any(site.spooled()))
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert said.splitlines()[0] == "vaultik: terminated"
    assert "Traceback" not in said
    wait_for(lambda: not alive(process.pid))
    (site.source / "huge").unlink()
    site.luigi("Backup")
    assert_whole(site, tmp_path / "out")


def test_children_die_with_a_killed_parent_and_free_the_lock(site):
    (site.source / "huge").write_bytes(random.Random(1).randbytes(120_000_000))
    process = subprocess.Popen(
        site.command("backup", site.config, "--workers", 2), env=site.environment(), start_new_session=True
    )
    wait_for(lambda: site.spool.exists() and any(site.spooled()))
    process.kill()
    process.wait()
    wait_for(lambda: not alive(process.pid))
    site.backup()


def alive(group):
    """Tell whether a process of the group still runs."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")
