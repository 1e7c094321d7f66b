"""What lies on the host between runs is this user's alone, and nobody's link stands for it."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.site import Site
from vaultik.backup import spool
from vaultik.core.ids import source8
from vaultik.daemon.pid_file import PidFile
from vaultik.directories import make_private, others_may_write
from vaultik.errors import LocalIndexError
from vaultik.index import db
from vaultik.index.lock import RunLock

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    (site.source / "file").write_bytes(os.urandom(300_000))
    return site


def open_index(path):
    db.open_index(path).close()


def take_lock(path):
    RunLock(path).release()


def take_pid_file(path):
    PidFile(path).remove()


USERS = {"index.sqlite": open_index, "index.sqlite.lock": take_lock, "index.sqlite.pid": take_pid_file}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_every_file_is_0600_in_directories_that_are_0700(tmp_path, umask):
    """Whatever the umask is, and also for the directories on the way."""
    index = tmp_path / "a/b/index.sqlite"
    before = os.umask(umask)
    try:
        connection, lock, pid = db.open_index(index), RunLock(index), PidFile(index)
        connection.execute("INSERT INTO state VALUES ('a', 1)")
        pid.write()
        spool.make_spool(tmp_path / "c/spool", tmp_path / "c/spool/ab")
        spool.create(tmp_path / "c/spool/ab/1.part").close()
        found = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.name for path in found} == {
            "1.part", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.sqlite.lock", "index.sqlite.pid",
        }  # fmt: skip
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for path in ("a", "a/b", "c", "c/spool", "c/spool/ab"):
            assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700, path
        connection.close()
        lock.release()
        pid.remove()
    finally:
        os.umask(before)


def test_a_daemon_that_runs_leaves_nothing_that_others_may_read(site):
    with Daemon(site, before=["sh", "-c", 'umask 0; exec "$@"', "sh"]) as daemon:
        daemon.wait_for_snapshot()
        for path in (site.state, *site.state.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
        assert (site.state / "index.sqlite.pid").exists()


@pytest.fixture(params=["there", "not there"])
def victim(request, tmp_path):
    if request.param == "there":
        (tmp_path / "victim").write_text("precious")
    yield tmp_path / "victim"
    if request.param == "there":
        assert (tmp_path / "victim").read_text() == "precious"
    else:
        assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", USERS)
def test_a_link_in_a_files_place_is_not_followed(tmp_path, name, victim):
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(LocalIndexError, match="symbolic links"):
        USERS[name](tmp_path / "index.sqlite")


@pytest.mark.parametrize("name", ["index.sqlite-wal", "index.sqlite-shm", "index.sqlite-journal"])
def test_nor_in_the_place_of_one_of_sqlites(tmp_path, name, victim):
    """It refuses the link, or removes it as it would an old log."""
    (tmp_path / name).symlink_to(victim)
    with contextlib.suppress(LocalIndexError):
        open_index(tmp_path / "index.sqlite")


def test_a_link_in_a_spool_files_place_is_not_followed(tmp_path):
    spool.make_spool(tmp_path, tmp_path / "spool")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "spool/1.part").symlink_to(tmp_path / "victim")
    spool.create(tmp_path / "spool/1.part").close()
    assert not (tmp_path / "spool/1.part").is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"


def test_of_a_linked_directory_nothing_is_removed(site, tmp_path):
    """The spool's own folder is vaultik's to make: a link there is somebody else's."""
    site.backup()
    folder = site.spool / source8((site.state / "index.sqlite.source").read_text().strip())
    folder.rmdir() if folder.exists() else None
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ("ab" * 32)).write_text("precious")
    folder.symlink_to(victim)
    done = site.run("backup", site.config, code=1)
    assert f"spool {folder}: Too many levels of symbolic links" in done.stderr
    assert (victim / ("ab" * 32)).read_text() == "precious"


class TestADirectoryThatEverybodyMayWriteIn:
    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o703])
    @pytest.mark.parametrize("user", USERS.values())
    def test_is_no_place_for_an_index(self, tmp_path, user, mode):
        """A sticky bit keeps others from removing what is there, not from being there first."""
        place = tmp_path / "open"
        place.mkdir()
        place.chmod(mode)
        with pytest.raises(LocalIndexError, match="open: everybody may write in it") as caught:
            user(place / "index.sqlite")
        assert (f"chmod o-w {place}" in caught.value.hint) == (mode != 0o1777), "never of a directory like /tmp"
        assert list(place.iterdir()) == []
        user(place / "below/index.sqlite")

    def test_is_told_of_by_the_commands(self, site, tmp_path):
        place = tmp_path / "open"
        place.mkdir()
        place.chmod(0o1777)
        for changes in ({"index_path": str(place / "index.sqlite")}, {"spool_dir": str(place)}):
            site.configure(**changes)
            done = site.run("backup", site.config, code=1)
            assert f"vaultik: {place}: everybody may write in it" in done.stderr
            assert "hint: name a directory below it" in done.stderr
            site.configure(index_path=str(site.index))
        assert list(place.iterdir()) == []

    @AS_ROOT
    def test_a_link_there_that_is_another_users_is_not_followed(self, tmp_path):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o1777)
        (tmp_path / "victim").mkdir()
        link = tmp_path / "open/spool"
        link.symlink_to(tmp_path / "victim")
        spool.make_spool(link, link / "ab")  # this user's own: a larger disk, as it may be
        os.lchown(link, NOBODY, NOBODY)
        with pytest.raises(LocalIndexError, match="symbolic links"):
            spool.make_spool(link, link / "ab")


def test_everybody_who_may_write_is_an_error_of_check(site):
    site.backup()
    site.state.chmod(0o1777)
    said = site.run("check", site.config, code=1).stdout
    assert f"FAIL  index: {site.state}: everybody may write in it" in said
    assert "chmod" not in said


def test_a_group_that_may_write_is_a_warning_of_check(site):
    site.backup()
    assert "may write" not in site.run("check", site.config).stdout
    site.state.chmod(0o770)
    said = site.run("check", site.config).stdout
    assert f"warn  index: {site.state}: others than this user may write in it" in said
    assert f"chmod go-w {site.state}" in said
    site.backup()


@AS_ROOT
def test_a_directory_of_another_user_is_theirs_to_write(tmp_path):
    assert not others_may_write(tmp_path)
    os.chown(tmp_path, NOBODY, -1)
    assert others_may_write(tmp_path)


def test_what_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private(Path(tmp_path / "file/below"))
