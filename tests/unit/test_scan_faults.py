"""What can't be read, what vanishes, and what changes between the scan and the reading."""

import os
import socket

import pytest

from tests.support.run import Run
from tests.support.site import Site
from vaultik.errors import SourceError
from vaultik.index import runs


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def listed(site):
    lines = site.run("ls", *site.where, "latest", site.source, "-R").stdout.splitlines()
    return {line.removeprefix(f"{site.source}/") for line in lines}


def test_a_directory_that_may_not_be_listed_is_kept_without_what_is_in_it(site, tmp_path):
    fill(site.source, "open/a", "shut/b", "shut/deep/c")
    site.backup()
    (site.source / "shut").chmod(0o100)
    summary = site.backup(code=3, no_rights=True)
    assert summary["unreadable"] == 1
    assert listed(site) == {"open", "open/a", "shut"}
    (site.source / "shut").chmod(0o700)
    site.backup()
    assert listed(site) == {"open", "open/a", "shut", "shut/b", "shut/deep", "shut/deep/c"}
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "shut/deep/c").read_text() == "shut/deep/c"


def test_a_directory_that_may_not_be_entered_is_named_once(site):
    """With r and without x it gives its names, but nothing of what they are."""
    fill(site.source, "a", "dim/b", "dim/c")
    site.backup()
    (site.source / "dim").chmod(0o400)
    done = site.run("backup", site.config, "--cron", code=3, no_rights=True)
    assert done.stderr == f"vaultik: {site.source}/dim: Permission denied\n"
    assert listed(site) == {"a", "dim"}


def test_a_parent_that_may_only_be_passed_through_is_no_obstacle(site, tmp_path):
    fill(tmp_path, "closed/inner/a")
    site.configure(source_dirs=[str(tmp_path / "closed/inner")])
    (tmp_path / "closed").chmod(0o100)
    site.backup(no_rights=True)
    (tmp_path / "closed").chmod(0o700)
    assert site.run("fetch", *site.where, "latest", tmp_path / "closed/inner/a", "-").stdout == "closed/inner/a"


def test_a_source_that_may_not_be_opened_fails_and_commits_nothing(site):
    fill(site.source, "a")
    site.backup()
    site.source.chmod(0)
    done = site.run("backup", site.config, code=1, no_rights=True)
    assert str(site.source) in done.stderr
    assert len(site.objects(".sqlite.zst.age")) == 1
    site.source.chmod(0o700)
    site.backup()
    assert len(site.objects(".sqlite.zst.age")) == 2


def test_a_source_that_vanishes_during_the_scan_fails(site, tmp_path):
    fill(tmp_path, "outer/one/a", "outer/two/b")
    site.configure(source_dirs=[str(tmp_path / "outer/one"), str(tmp_path / "outer/two")])
    run = Run(site)
    (tmp_path / "outer/two/b").unlink()
    (tmp_path / "outer/two").rmdir()
    with pytest.raises(SourceError, match="outer/two: No such file"):
        run.session.scan()
    run.session.close()


def test_the_leader_of_a_hard_link_vanishes_before_it_is_read(site, tmp_path):
    fill(site.source, "a")
    os.link(site.source / "a", site.source / "b")
    site.backup()
    (site.source / "a").write_text("changed meanwhile")
    run = Run(site)
    run.session.scan()
    (site.source / "a").unlink()
    problems = run.rest()
    assert [p.kind for p in problems if p.kind == runs.UNREADABLE] == []
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "b").read_text() == "changed meanwhile"


def test_a_hard_linked_file_that_is_one_hole_comes_to_an_end(site, tmp_path):
    with (site.source / "hole").open("wb") as file:
        file.truncate(5_000_000)
    os.link(site.source / "hole", site.source / "other")
    os.utime(site.source / "hole", (10**9, 10**9))
    site.backup()
    assert site.backup()["files_read"] == 0
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "other").stat().st_size == 5_000_000


def test_a_file_that_vanishes_is_neither_kept_nor_an_error(site):
    fill(site.source, "a", "b")
    run = Run(site)
    run.session.scan()
    (site.source / "a").unlink()
    assert [p.kind for p in run.rest()] == [runs.VANISHED]
    assert listed(site) == {"b"}


def test_a_file_is_replaced_by_what_has_no_content(site):
    fill(site.source, "pipe", "socket", "directory", "link")
    run = Run(site)
    run.session.scan()
    for name in ("pipe", "socket", "directory", "link"):
        (site.source / name).unlink()
    os.mkfifo(site.source / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(site.source / "socket"))
    (site.source / "directory").mkdir()
    (site.source / "link").symlink_to("/etc/passwd")
    run.rest()
    assert "link" not in listed(site)
    site.backup()
    lines = site.run("ls", *site.where, "latest", site.source, "-l").stdout
    assert "link -> /etc/passwd" in lines
    assert listed(site) == {"pipe", "socket", "directory", "link"}


def test_a_file_shrinks_and_grows_between_scan_and_reading(site, tmp_path):
    (site.source / "shrinks").write_bytes(b"x" * 3_000_000)
    (site.source / "grows").write_bytes(b"y")
    run = Run(site)
    run.session.scan()
    (site.source / "shrinks").write_bytes(b"x" * 10)
    (site.source / "grows").write_bytes(b"y" * 4_000_000)
    run.rest()
    site.restore(tmp_path / "out")
    restored = site.restored(tmp_path / "out")
    assert (restored / "shrinks").read_bytes() == b"x" * 10
    assert (restored / "grows").read_bytes() == b"y" * 4_000_000
