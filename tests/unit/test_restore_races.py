"""What somebody does to a target while a restore into it goes on, between two of its steps."""

import errno
import os
import shutil
import subprocess

import pytest

from tests.support.site import Site
from vaultik.core.identity import Identity
from vaultik.restore.asked import Asked
from vaultik.restore.session import RestoreSession
from vaultik.store.local import LocalStore


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


class Steps:
    """A restore, of which a test decides when it goes on."""

    def __init__(self, site, target, **asked):
        self.session = RestoreSession(
            lambda: LocalStore(site.store, site.bucket, site.prefix),
            [Identity(site.identity)],
            Asked(target, "latest", force=True, **asked),
        )
        self.session.begin()
        self.session.fetch_snapshot()
        self.session.compare()

    def go_on(self):
        while (wave := self.session.next_wave()) is not None:
            for blob in self.session.wave_blobs(wave):
                self.session.restore_blob(blob)
        return self

    def end(self):
        try:
            self.session.finish()
            report = self.session.report()
            self.session.end(report)
            return report
        finally:
            self.session.leave()


def there_already(site, target):
    """A file that is in the target, with other attributes than it shall have."""
    file = site.source / "file"
    file.write_text("content")
    file.chmod(0o640)
    site.backup()
    there = site.restored(target) / "file"
    there.parent.mkdir(parents=True)
    shutil.copy2(file, there)
    there.chmod(0o604)
    return there


def test_a_link_that_is_made_meanwhile_keeps_its_attributes(site, tmp_path):
    there = there_already(site, tmp_path / "out")
    steps = Steps(site, tmp_path / "out").go_on()
    os.link(there, tmp_path / "link")
    report = steps.end()
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o604
    assert report.failed == [(os.fsencode(site.source / "file"), "was changed while it was restored")]
    site.restore(tmp_path / "out", "--force")
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o604
    assert there.stat().st_mode & 0o777 == 0o640


def test_what_took_a_files_place_meanwhile_is_not_taken_for_it(site, tmp_path):
    there = there_already(site, tmp_path / "out")
    steps = Steps(site, tmp_path / "out").go_on()
    (tmp_path / "other").write_text("other's")
    (tmp_path / "other").chmod(0o600)
    there.unlink()
    os.link(tmp_path / "other", there)
    assert len(steps.end().failed) == 1
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "other").read_text() == "other's"


def test_another_directory_under_the_targets_path_is_left_alone(site, tmp_path):
    (site.source / "file").write_text("content")
    site.backup()
    target, other = tmp_path / "out", tmp_path / "other"
    mine = site.restored(other) / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    target.mkdir()
    (target / "before").write_text("so it is no fresh one")
    steps = Steps(site, target, delete=True)
    target.rename(tmp_path / "moved")
    target.symlink_to(other)
    assert steps.go_on().end().failed == []
    assert os.listdir(mine.parent) == ["mine"]
    assert os.listdir(other) == [mine.relative_to(other).parts[0]]
    assert (site.restored(tmp_path / "moved") / "file").read_text() == "content"
    assert not (tmp_path / "moved/.vaultik-restore").exists()


def test_a_directory_is_private_before_anything_comes_into_it(site, tmp_path):
    private = site.source / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("private by its directory alone")
    site.backup()
    there = site.restored(tmp_path / "out") / "private"
    there.mkdir(parents=True)
    there.chmod(0o755)
    steps = Steps(site, tmp_path / "out").go_on()
    assert (there / "file").exists()
    assert there.stat().st_mode & 0o777 == 0o700
    assert steps.end().failed == []


def test_where_no_acl_can_be_set_the_group_gets_nothing_by_it(site, tmp_path, monkeypatch):
    """With an ACL the group bits are the most that anybody in it may, not what the group may."""
    file = site.source / "file"
    file.write_text("for user 1, not for the group")
    file.chmod(0o600)
    subprocess.run(["setfacl", "-m", "u:1:rw", file], check=True)
    assert file.stat().st_mode & 0o777 == 0o660
    site.backup()
    original = os.setxattr

    def setxattr(path, name, *args, **kwargs):
        if os.fsencode(name).startswith(b"system.posix_acl_"):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return original(path, name, *args, **kwargs)

    monkeypatch.setattr(os, "setxattr", setxattr)
    report = Steps(site, tmp_path / "out").go_on().end()
    assert (site.restored(tmp_path / "out") / "file").stat().st_mode & 0o777 == 0o600
    assert report.refused == {"ACL": 1}
