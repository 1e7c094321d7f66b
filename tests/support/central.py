"""Runs of both commands that a central luigid may see."""

import json
import os
import random
import signal
import subprocess

import pytest

from tests.support.luigid import write_cfg
from tests.support.site import BIN, Site


def make_host(tmp, **settings):
    tmp.mkdir(exist_ok=True)
    site = Site(tmp, blob_size_limit="1MiB", chunk_size="64KiB", **settings)
    fill(site, 4)
    return site


def fill(site, megabytes):
    rng = random.Random(str(site.source) + str(megabytes))
    for number in range(megabytes * 5):
        path = site.source / f"file-{megabytes}-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(200_000))


def environment(site, url, name="web-1"):
    return site.environment(LUIGI_CONFIG_PATH=str(write_cfg(site.tmp / "central.cfg", url, site.config, name)))


def ways(workers=2):
    """Both commands, as `begin` takes them."""
    return pytest.mark.parametrize("way", [["backup"], ["luigi", "--workers", str(workers)]], ids=["vaultik", "luigi"])


def begin(site, url, way, name="web-1"):
    command, *options = way
    if command == "luigi":
        command = [
            BIN / "luigi",
            "--module",
            "vaultik.tasks",
            *(options if "--module" in options else ["Backup", *options]),
        ]
    else:
        command = site.command(command, site.config, *options)
    return subprocess.Popen(
        command,
        env=environment(site, url, name),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, code=0, limit_s=120):
    try:
        out, said = ended(process, limit_s)
    finally:
        end(process)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{said}"
    assert "Traceback" not in said
    return out, said


def ended(process, limit_s):
    """Wait for the end. A process that was stopped in the middle of a fork may need to be told twice to go on."""
    for _ in range(limit_s // 2):
        try:
            return process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGCONT)
    raise AssertionError("it never ended")


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(site, url, way, code=0, name="web-1"):
    return finish(begin(site, url, way, name), code)


def snapshots(site):
    return json.loads(site.run("snapshots", *site.where, "--json").stdout)


def halt(process, daemon, family="UploadBlob", status="DONE"):
    """Stop a run, with all its processes, when a task of a family has a status on luigid."""
    try:
        daemon.wait_for(family, status)
        os.killpg(process.pid, signal.SIGSTOP)
        assert process.poll() is None, "it was over before it was stopped"
    except BaseException:
        end(process)
        raise


def go_on(process):
    os.killpg(process.pid, signal.SIGCONT)
