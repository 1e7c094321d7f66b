"""A spool that loses or damages what lies in it, recipients that change between two steps, stores that are gone."""

import fcntl
import os
import signal
import subprocess

import pytest

from tests.support.run import Run, seal
from tests.support.site import Site
from vaultik.backup.session import Session
from vaultik.core.identity import generate
from vaultik.errors import LocalIndexError
from vaultik.index import bundles


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "file").write_bytes(os.urandom(300_000))
    return site


def killed_after_chunking(site, steps=("chunk",)):
    """A run that ends between two tasks, with a bundle on its way."""
    run = Run(site)
    run.session.scan()
    (bundle,) = bundles.wave_bundles(run.session.index(), run.session.run, run.session.next_wave())
    for step in steps:
        {"chunk": Session.chunk, "seal": seal}[step](run.session, bundle)
    run.session.close()
    (spooled,) = site.spooled()
    return spooled


def comes_back(site, tmp_path, *arguments):
    site.restore(tmp_path / "out", *arguments)
    assert (site.restored(tmp_path / "out") / "file").read_bytes() == (site.source / "file").read_bytes()
    assert site.spooled() == []


@pytest.mark.parametrize("steps", [("chunk",), ("chunk", "seal")])
@pytest.mark.parametrize("damage", ["empty", "short", "zeros", "flipped", "gone"])
def test_what_was_damaged_in_the_spool_is_read_again(site, tmp_path, steps, damage):
    """As a power cut leaves it: the row says sealed, the file isn't what it was."""
    spooled = killed_after_chunking(site, steps)
    data = bytearray(spooled.read_bytes())
    data[1000] ^= 1
    changed = {"empty": b"", "short": data[:50], "zeros": bytes(len(data)), "flipped": bytes(data)}
    if damage == "gone":
        spooled.unlink()
    else:
        spooled.write_bytes(changed[damage])
    assert site.backup()["exit_code"] == 0
    comes_back(site, tmp_path)


def test_a_recipient_that_changed_between_chunking_and_sealing(site, tmp_path):
    killed_after_chunking(site)
    identity, recipient = generate()
    site.configure(age_recipient=recipient)
    site.backup()
    site.key.write_text(identity)
    comes_back(site, tmp_path)


def test_a_spool_that_loses_everything_is_given_up(site):
    """Something deletes whatever appears in the spool: the run ends, and says what is wrong."""
    run = Run(site)
    run.session.scan()
    chunk = run.session.chunk

    def chunk_and_lose(bundle):
        chunk(bundle)
        for path in site.spooled():
            path.unlink()

    run.session.chunk = chunk_and_lose
    with pytest.raises(LocalIndexError, match="doesn't stay what it was"):
        run.rest()
    run.session.close()


def test_two_configs_may_name_the_same_spool(tmp_path):
    """Two indexes in one directory: the default spool is beside both."""
    sites = [Site(tmp_path / name) if (tmp_path / name).mkdir() is None else None for name in ("a", "b")]
    for site in sites:
        site.source.mkdir()
        for n in range(40):
            (site.source / str(n)).write_bytes(os.urandom(500_000))
        site.configure(index_path=str(tmp_path / f"both/{site.tmp.name}.sqlite"), blob_size_limit="16MiB")
    for _ in range(3):
        runs = [subprocess.Popen(s.command("backup", s.config, "--cron"), env=s.environment()) for s in sites]
        assert [run.wait() for run in runs] == [0, 0]
        for site in sites:
            (site.source / "0").write_bytes(os.urandom(20_000_000))
    for site in sites:
        site.restore(tmp_path / f"out-{site.tmp.name}")


def test_a_store_that_is_not_mounted_is_not_made_anew(site, tmp_path):
    site.backup()
    (site.store / "vault").rename(tmp_path / "aside")
    done = site.run("backup", site.config, "--cron", code=1)
    assert "no bucket vault" in done.stderr
    assert "mounted" in done.stderr
    assert not (site.store / "vault").exists()
    (tmp_path / "aside").rename(site.store / "vault")
    site.backup()


def test_blobs_that_are_gone_are_told_to_cron_too(site, tmp_path):
    site.backup()
    for blob in site.blobs():
        blob.unlink()
    done = site.run("backup", site.config, "--cron")
    assert "1 blob" in done.stderr
    assert "no longer in file://" in done.stderr
    comes_back(site, tmp_path)


def test_a_file_under_a_lease_is_waited_for(site, tmp_path):
    """As a file server holds them: the holder is told, lets go, and the file is read."""
    held = os.open(site.source / "file", os.O_RDWR)
    fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGUSR2)
    before = signal.signal(signal.SIGUSR2, lambda *_: fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK))
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert site.backup()["unreadable"] == 0
    finally:
        signal.signal(signal.SIGUSR2, before)
        os.close(held)
    comes_back(site, tmp_path)
