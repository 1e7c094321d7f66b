"""SIGKILL at random moments of restores and updates, by the command and by luigi: the end is as if nothing had been.

`make soak` kills a thousand times; with -rP it says what came of it.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import S3_GROUP, make_site
from tests.support import prefork
from tests.support.restores import leftovers
from tests.support.site import BIN
from tests.support.tree import describe, edit_tree, make_tree

KILLS = int(os.environ.get("VAULTIK_KILLS", "16"))
_LUIGI_BEGINS_S = 1.0
BOTH = ["directory", pytest.param("seaweedfs", marks=S3_GROUP)]


def fill(source, seed):
    make_tree(source)
    rng = random.Random(seed)
    for n in range(15):
        (source / f"random {n:02}").write_bytes(rng.randbytes(rng.randint(1, 300_000)))
    (source / "several blobs").write_bytes(rng.randbytes(4_000_000))


def arguments(site, target, workers, *more):
    """The command's arguments, and luigi's."""
    where = ["--bucket", site.bucket, "--prefix", site.prefix, "--endpoint", site.endpoint, "--target", str(target)]
    ours = ["restore", *site.where, "latest", target, "--quiet", "--workers", workers, *more]
    return ours, ["--module", "vaultik.tasks", "Restore", *where, "--workers", str(workers), *more]


def run_for(site, arguments, seconds):
    """Let a command run for so long, then kill all of it. Returns whether it was through by then."""
    if arguments[0] == "restore":
        code, _, said = prefork.run_for(arguments, site.environment(), seconds)
    else:
        code, said = luigi_for(site, arguments, seconds)
    assert "Traceback" not in said, said
    assert code in (0, -signal.SIGKILL), said
    return code == 0


def luigi_for(site, arguments, seconds):
    run = subprocess.Popen(
        [BIN / "luigi", *arguments], env=site.environment(LUIGI_CONFIG_PATH=str(site.tmp / "luigi.cfg")),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        said = run.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        prefork.kill_group(run.pid)
        said = run.communicate()[1]
    return run.returncode, said.decode()


@pytest.fixture(scope="module", params=BOTH)
def calm(request, tmp_path_factory):
    """A site with two snapshots; the older one restored, with something more in it, and the newer one undisturbed."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    site = make_site(request, tmp_path, request.param, chunk_size="64KiB", blob_size_limit="2MiB")
    site.env["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    fill(site.source, 1)
    site.backup()
    site.restore(tmp_path / "older")
    at = site.restored(tmp_path / "older")
    shutil.rmtree(at / ("d" * 150))  # cp can't copy it
    (at / "extra/below").mkdir(parents=True)
    (at / "extra/below/file").write_text("x")
    edit_tree(site.source)
    site.backup()
    site.restore(tmp_path / "calm")
    shutil.copy("luigi.cfg", tmp_path)
    return site, describe(tmp_path / "calm")


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again(calm, tmp_path, workers):
    site, expected = calm
    rng = random.Random(workers)
    target = tmp_path / "out"
    kills = KILLS // 8 * (1 if "://127" in site.endpoint else 3)
    killed = ended = 0
    more = None
    began = time.monotonic()
    assert run_for(site, arguments(site, tmp_path / "calm", workers)[0], 600)
    lasts = time.monotonic() - began
    while killed < kills or more is not None:
        if more is None:
            more = [[], ["--force", "--delete"]][ended % 2]
            if more:
                subprocess.run(["cp", "-a", site.tmp / "older", target], check=True)
        ours, luigis = arguments(site, target, workers, *more)
        command, longest = rng.choices([(ours, lasts), (luigis, lasts + _LUIGI_BEGINS_S)], [4, 1])[0]
        through = run_for(site, command, rng.uniform(0, 0.8 * longest) if killed < kills else 600)
        killed += not through
        if through or (not more and had_ended(target)):
            check(site, target, expected)
            shutil.rmtree(target)
            ended += 1
            more = None
    assert os.listdir(site.tmp / "tmp") == []
    kind = site.endpoint.partition(":")[0]
    sys.stdout.write(f"{kind}, workers {workers}: {killed} restores and updates killed, {ended} came to their end\n")


def had_ended(target):
    """Whether a kill came after all was done, and the record of it gone: the same command would find a full directory."""
    state = target / ".vaultik-restore"
    if (state / "begun.json").exists() or not target.exists() or set(os.listdir(target)) <= {state.name}:
        return False
    if state.exists():
        state.rmdir()
    return True


def check(site, target, expected):
    """All is as undisturbed, holes too, and nothing is left behind."""
    assert describe(target) == expected
    assert leftovers(target) == []
    assert (site.restored(target) / "sparse").stat().st_blocks <= (site.source / "sparse").stat().st_blocks
