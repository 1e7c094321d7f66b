"""A part of a snapshot into a tree that is in use: what only leads there is nobody's business."""

import json
import os
import sqlite3
import stat
import subprocess
from contextlib import closing

import pytest

from tests.support.site import Site
from tests.support.tree import flags_of
from vaultik.restore.asked import Asked
from vaultik.restore.session import RestoreSession
from vaultik.secrets import load_identities
from vaultik.store.open import open_store


@pytest.fixture
def site(tmp_path):
    """home/me/mail/letter and home/me/new/below/file, of which the target has the first."""
    site = Site(tmp_path)
    for way in ("home/me/mail", "home/me/new/below"):
        (site.source / way).mkdir(parents=True)
    (site.source / "home/me/mail/letter").write_text("x")
    (site.source / "home/me/new/below/file").write_text("y")
    (site.source / "home/me/new").chmod(0o711)
    site.backup()
    site.restore(tmp_path / "out", "--exclude", "new")
    at = site.restored(tmp_path / "out")
    (at / "home/me/mail/letter").write_text("changed")
    (at / "home/me").chmod(0o700)
    (at / "home").chmod(0o500)
    os.utime(at / "home", ns=(1, 1))
    os.setxattr(at / "home/me", "user.mine", b"1")
    yield site
    subprocess.run(["chattr", "-R", "-ia", tmp_path / "out"], check=False, capture_output=True)


def facts(path):
    st = path.stat()
    return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, os.listxattr(path)


def part(site):
    return ["--force", "--include", site.source / "home/me/mail/letter", "--include", site.source / "home/me/new/below"]


def begin(site, target, include):
    """Begin a restore, as far as directories are made and opened."""
    session = RestoreSession(
        lambda: open_store(site.endpoint, site.bucket, site.prefix),
        load_identities(site.key),
        Asked(target, "latest", include=include, force=True),
    )
    session.begin()
    session.fetch_snapshot()
    session.compare()
    session.leave()


def alter(target, **changes):
    begun = target / ".vaultik-restore/begun.json"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | changes))


@pytest.mark.parametrize("no_rights", [False, True])
@pytest.mark.parametrize("ways", ["at once", "in two tries", "given up", "another boot", "another shape", "torn"])
def test_directories_that_only_lead_there_keep_what_they_have(site, tmp_path, no_rights, ways):
    target, at = tmp_path / "out", site.restored(tmp_path / "out")
    before = {name: facts(at / name) for name in ("home", "home/me")}
    include = [os.fspath(path) for path in part(site)[2::2]]
    if ways != "at once":
        begin(site, target, include[1:] if ways == "given up" else include)
        assert stat.S_IMODE((at / "home/me/new").stat().st_mode) == 0o700, "made, and not finished"
    if ways == "another shape":
        alter(target, shape="another")
    if ways in ("another boot", "torn"):
        alter(target, boot="another")
    if ways == "torn":
        with closing(sqlite3.connect(target / ".vaultik-restore/plan.sqlite")) as plan:
            plan.execute("INSERT INTO loosened VALUES (999999, 16)")
            plan.execute("DELETE FROM entries WHERE parent IS NOT NULL")
            plan.commit()
    site.restore(target, *part(site), no_rights=no_rights)
    assert (at / "home/me/mail/letter").read_text() == "x"
    assert (at / "home/me/new/below/file").read_text() == "y"
    assert stat.S_IMODE((at / "home/me/new").stat().st_mode) == 0o711, "it was made"
    if ways != "torn":
        assert {name: facts(at / name) for name in before} == before
        assert (at / "home").stat().st_mtime_ns == 1


def test_what_somebody_does_to_them_between_two_tries_stays(site, tmp_path):
    target, at = tmp_path / "out", site.restored(tmp_path / "out")
    (at / "home/me/mail/letter").unlink()
    (at / "home/me/mail/letter").mkdir()
    (at / "home/me/mail/letter/full").write_text("x")
    subprocess.run(["chattr", "+i", at / "home/me"], check=True)
    try:
        site.restore(target, *part(site), "--without", "flags", code=1)
        assert "i" in flags_of(at / "home/me")
    finally:
        subprocess.run(["chattr", "-i", at / "home/me"], check=True)
    (at / "home/me/mail/letter/full").unlink()
    (at / "home/me").chmod(0o750)
    (at / "home").chmod(0o711)
    site.restore(target, *part(site), "--without", "flags")
    assert (at / "home/me/mail/letter").read_text() == "x"
    assert [stat.S_IMODE((at / name).stat().st_mode) for name in ("home", "home/me")] == [0o711, 0o750]
    assert "i" not in flags_of(at / "home/me")


@pytest.mark.parametrize("becomes", [0o500, 0o711])
def test_one_that_a_plain_user_had_to_open_is_closed_again_unless_somebody_changed_it(
    site, tmp_path, monkeypatch, becomes
):
    target, home = tmp_path / "out", site.restored(tmp_path / "out") / "home"
    session = RestoreSession(
        lambda: open_store(site.endpoint, site.bucket, site.prefix),
        load_identities(site.key),
        Asked(target, "latest", include=[os.fspath(path) for path in part(site)[2::2]], force=True),
    )
    session.begin()
    session.fetch_snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        session.compare()
    session.leave()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700, "opened"
    if becomes != 0o500:
        home.chmod(becomes)
    site.restore(target, *part(site))
    assert stat.S_IMODE(home.stat().st_mode) == becomes


def test_no_file_inherits_flags_of_a_directory_that_keeps_its_own(site, tmp_path):
    (site.source / "home/me/mail/another").write_text("x")
    site.backup()
    mail = site.restored(tmp_path / "out") / "home/me/mail"
    (mail / "letter").unlink()
    subprocess.run(["chattr", "+A", mail], check=True)
    names = ("letter", "another")
    include = [part for name in names for part in ("--include", site.source / "home/me/mail" / name)]
    site.restore(tmp_path / "out", "--force", *include)
    assert "A" in flags_of(mail)
    assert ["A" in flags_of(mail / name) for name in names] == [False, False]


def test_what_is_asked_for_itself_gets_what_the_snapshot_has(site, tmp_path):
    site.restore(tmp_path / "out", "--force", "--include", site.source / "home")
    at = site.restored(tmp_path / "out")
    assert facts(at / "home") == facts(site.source / "home")
    assert facts(at / "home/me") == facts(site.source / "home/me")
