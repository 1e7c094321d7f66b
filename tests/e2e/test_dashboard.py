"""What somebody who looks after a fleet sees: luigid's page in a real browser while hosts are backed up."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.browser import browser
from tests.support.luigid import luigid, write_cfg
from tests.support.site import Site

HOSTS = ("web-1", "db-1", "mail-1")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture
def central(tmp_path):
    with luigid(tmp_path / "luigid") as daemon:
        yield daemon


def begin(tmp, name, url, megabytes):
    folder = tmp / name
    folder.mkdir()
    site = Site(folder, blob_size_limit="1MiB", chunk_size="64KiB")
    site.source.mkdir()
    rng = random.Random(name)
    for number in range(megabytes * 5):
        (site.source / f"{number}").write_bytes(rng.randbytes(200_000))
    cfg = write_cfg(folder / "luigi.cfg", url, site.config, name)
    return subprocess.Popen(
        site.command("backup", site.config, "--workers", 2, "--quiet"),
        env=site.environment(LUIGI_CONFIG_PATH=str(cfg)),
        start_new_session=True,
    )


def rows(page):
    """The table of tasks as the page shows it: a list of cells each."""
    script = "[...document.querySelectorAll('#taskTable tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    return page.evaluate(script)


def test_the_dashboard_shows_a_fleet_while_it_is_backed_up(central, page, tmp_path):
    runs = []
    try:
        runs += [begin(tmp_path, name, central.url, 12) for name in HOSTS]
        for name in HOSTS:
            central.wait_until(lambda name=name: is_under_way(central, name))
        for run in runs:
            os.killpg(run.pid, signal.SIGSTOP)
            assert run.poll() is None, "it was over before anybody could look"
        # What was on its way when they were stopped.
        central.wait_until(lambda: settled(central))
        page.open(f"{central.url}/static/visualiser/index.html#length=100")
        page.wait_for("document.querySelectorAll('#taskTable tbody tr').length > 20")
        shown = rows(page)
        families = {row[1] for row in shown}
        assert {"Backup", "Wave", "ChunkFile", "SealBlob", "UploadBlob"} <= families, families
        for name in HOSTS:
            assert any(f"host={name}" in " ".join(row) for row in shown), name
        if place := os.environ.get("VAULTIK_PICTURE"):
            # VAULTIK_PICTURE=docs/dashboard.png makes the one in the README.
            page.open("about:blank")
            page.open(f"{central.url}/static/visualiser/index.html#order=1,asc&length=25")
            page.wait_for("document.querySelectorAll('#taskTable tbody tr').length > 20")
            page.picture(Path(place))
        see_progress(central, page)
        see_waves(central, page)
    finally:
        for run in runs:
            go_on(run)
    assert [run.returncode for run in runs] == [0, 0, 0]
    page.open("about:blank")
    page.open(f"{central.url}/static/visualiser/index.html#length=100")
    page.wait_for("document.body.innerText.includes('WriteSnapshotDB')")


def go_on(run):
    """A process that was stopped in the middle of a fork may need to be told twice."""
    for _ in range(60):
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=2)
            return
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def is_under_way(central, name):
    """A blob of a host is uploaded, and how far the host is has been told: a message, and then a percentage."""
    is_uploaded = any(task["params"].get("host") == name for task in central.of_family("UploadBlob", "DONE").values())
    roots = [key for key, task in central.of_family("Backup").items() if task["params"]["host"] == name]
    return is_uploaded and any(
        central.api("get_task_progress_percentage", task_id=root)["progressPercentage"] is not None for root in roots
    )


def settled(central, seen=[]):  # noqa: B006 - what it saw the last time
    seen.append({key: task["status"] for key, task in central.tasks().items()})
    return len(seen) > 1 and seen[-1] == seen[-2]


def see_progress(central, page):
    """The message and the bar of a host, behind the icon of its root."""
    (root, name) = next((key, task["params"]["host"]) for key, task in central.of_family("Backup").items())
    page.wait_for(f"""(() => {{
        const icon = [...document.querySelectorAll('#taskTable .statusMessage')].find(i => i.dataset.taskId == '{root}');
        if (icon) icon.click();
        return Boolean(icon);
    }})()""")
    told = page.wait_for(
        "(m => m && m.innerText.includes('bundles') && m.innerText)(document.querySelector('#statusMessageModal.in'))"
    )
    assert f"host={name}" in told
    assert re.search(r"wave 1 of 1: \d+ of 12 bundles, [\d.]+ M?B of 12\.0 MB read, [\d.]+ M?B stored", told), told
    assert re.search(r"\d+%", told)
    page.evaluate("$('.modal').modal('hide')")


def see_waves(central, page):
    """The graph of a host: its wave, and the steps of bundles below it."""
    (root, *_) = central.of_family("Backup")
    page.open("about:blank")
    page.open(f"{central.url}/static/visualiser/index.html#tab=graph&taskId={root}&visType=svg")
    graph = "document.querySelector('#dependencyGraph').textContent"
    text = page.wait_for(f"(t => t.includes('UploadBlob') && t.includes('Wave') && t)({graph})")
    assert "Backup" in text


def test_make_fleet_shows_three_hosts_and_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fleet"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = ""
        while "The dashboard:" not in said:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        url = said.split()[-1]
        with urllib.request.urlopen(f"{url}/static/visualiser/index.html", timeout=20) as answer:
            assert b"Luigi" in answer.read()
        rest, _ = process.communicate(timeout=300)
        assert process.returncode == 0, rest
        for name in HOSTS:
            assert len(re.findall(rf"^  {name} +\d{{8}}T\d{{6}}Z-", rest, re.MULTILINE)) == 2, rest
        assert list(tmp_path.iterdir()) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
