"""`restore --dry-run` says what the run then does, whatever state the target is in."""

import json
import os
import subprocess

import pytest

from tests.support.disks import made
from tests.support.site import Site
from vaultik.restore.asked import Asked
from vaultik.restore.session import RestoreSession
from vaultik.secrets import load_identities
from vaultik.store.open import open_store


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    (site.source / "big").write_bytes(os.urandom(5 << 20))
    (site.source / "small").write_text("small")
    site.backup()
    return site


def dry_run(site, target, *more, **kwargs):
    return json.loads(site.restore(target, "--dry-run", "--json", *more, **kwargs).stdout)


def test_of_an_unfinished_one_it_is_about_what_is_left(site, tmp_path):
    """Of the snapshot that was begun, not of the newest by now; what is in an unfinished file counts."""
    target = tmp_path / "out"
    whole = dry_run(site, target)
    session = RestoreSession(
        lambda: open_store(site.endpoint, site.bucket, site.prefix), load_identities(site.key), Asked(target, "latest")
    )
    session.begin()
    session.fetch_snapshot()
    session.compare()
    wave = session.next_wave()
    session.restore_blob(session.wave_blobs(wave)[0])
    session.leave()
    (site.source / "new").write_text("new")
    site.backup()
    state = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (target / ".vaultik-restore").iterdir()}
    plan = dry_run(site, target)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (target / ".vaultik-restore").iterdir()}
    assert after == state
    assert plan["snapshot"] == whole["snapshot"]
    assert 0 < plan["left"]["blobs"] < whole["left"]["blobs"]
    assert plan["left"]["fetched_bytes"] < whole["left"]["fetched_bytes"]
    assert plan["replace"] == plan["remove"] == []
    other = dry_run(site, target, "--force", "--exclude", "new")
    assert other["snapshot"] > whole["snapshot"], "that gives the unfinished one up"
    done = json.loads(site.restore(target, "--json").stdout)
    assert done["snapshot"] == whole["snapshot"]
    assert (site.restored(target) / "big").read_bytes() == (site.source / "big").read_bytes()


def test_what_somebody_changed_meanwhile_stays_and_is_not_said_to_go(site, tmp_path):
    target = tmp_path / "out"
    site.restore(target)
    (site.restored(target) / "small").write_text("mine")
    plan = dry_run(site, target, "--force")
    assert [path["path"] for path in plan["replace"]] == [f"{site.source}/small"]
    assert plan["left"]["files"] == 1


def test_whoever_reads_it_may_stop(site, tmp_path):
    """A reader that has gone is no fault of the target's."""
    for n in range(3000):
        (site.source / f"{'n' * 100} {n}").touch()
    site.backup()
    target = tmp_path / "out"
    site.restore(target)
    for path in site.restored(target).glob("n*"):
        path.write_text("mine")
    command = site.command("restore", *site.where, "latest", target, "--force", "--dry-run")
    run = subprocess.Popen(command, env=site.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline().startswith("would replace ")
    run.stdout.close()
    assert (run.stderr.read(), run.wait()) == ("", 141)
    run.stderr.close()


def test_what_was_salvaged_stays(site, tmp_path):
    target = tmp_path / "out"
    at = site.restored(target)
    (at / "small").mkdir(parents=True)
    (at / "small/mine").write_text("mine")
    max(site.blobs(), key=lambda path: path.stat().st_size).unlink()
    site.restore(target, "--force", "--salvage", code=4)
    assert (target / ".vaultik-restore").exists(), "something else failed too"
    plan = dry_run(site, target, "--force", "--salvage")
    assert plan["left"]["files"] == 1
    assert plan["replace"] == [], "a directory that isn't empty doesn't give way"
    plan = dry_run(site, target, "--force", "--salvage", "--delete")
    assert [path["path"] for path in plan["remove"]] == [f"{site.source}/small/"]
    assert [path["path"] for path in plan["replace"]] == [f"{site.source}/small"]


def test_what_it_may_not_look_into_is_no_failure(site, tmp_path):
    closed = site.source / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    closed.chmod(0)
    try:
        site.backup()
    finally:
        closed.chmod(0o700)
    target = tmp_path / "out"
    site.restore(target, no_rights=True)
    site.restore(target, "--force", "--dry-run", no_rights=True)
    site.restore(target, "--force", no_rights=True)
    (site.restored(target) / "closed").chmod(0o700)


def test_what_could_not_be_read_replaces_nothing(site, tmp_path):
    secret = site.source / "secret"
    secret.write_text("x")
    secret.chmod(0)
    site.run("backup", site.config, code=3, no_rights=True)
    at = site.restored(tmp_path / "out")
    at.mkdir(parents=True)
    (at / "secret").write_text("mine")
    plan = dry_run(site, tmp_path / "out", "--force")
    assert plan["replace"] == []
    site.restore(tmp_path / "out", "--force")
    assert (at / "secret").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_on_a_file_system_that_keeps_whole_seconds(site, tmp_path):
    with made(tmp_path / "usb", "ext2"):
        site.restore(tmp_path / "usb/out")
        plan = dry_run(site, tmp_path / "usb/out", "--force")
        assert plan["replace"] == []
        assert plan["left"]["files"] == 0


def test_a_name_that_is_too_long_is_the_targets(site, tmp_path):
    done = site.restore(tmp_path / ("n" * 300), "--dry-run", code=1)
    assert "target" in done.stderr
    assert "File name too long" in done.stderr
