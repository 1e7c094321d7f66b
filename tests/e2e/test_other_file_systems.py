"""Restores onto file systems with rules of their own: what they can't take is named, nothing is overwritten, all else comes back."""

import json
import os
import shutil
import subprocess

import pytest

from tests.support import odd_fs
from tests.support.forge import forge
from tests.support.restores import leftovers
from tests.support.site import Site
from tests.support.tree import compare, describe

NEEDS_FUSE = pytest.mark.skipif(
    odd_fs.missing() is not None, reason=f"no file system can be made up: {odd_fs.missing()}"
)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


def where(site, target):
    """The source below a target; paths of the tests themselves are too long for some."""
    return site.restored(target)


def failed(site, report):
    return {os.path.relpath(entry["path"], site.source): entry["reason"] for entry in report["failed"]}


@pytest.fixture
def twins(site):
    """Names that differ in case only, as files, directories, links and by an accent; and an innocent rest."""
    for name in ("Foo", "foo", "other"):
        (site.source / name / "deep").mkdir(parents=True)
        (site.source / name / "same").write_text(f"same in {name}")
        (site.source / name / "deep" / name).write_text(name)
    for name in ("Makefile", "makefile", "MAKEFILE", "\u00c9t\u00e9", "\u00e9t\u00e9", "alone"):
        (site.source / name).write_text(f"this is {name}")
    os.link(site.source / "alone", site.source / "Linked")
    os.link(site.source / "alone", site.source / "linked")
    os.symlink("Foo", site.source / "LINK")
    (site.source / "link").mkdir()
    site.backup()
    return site


GROUPS = [
    {"Foo", "foo"},
    {"Makefile", "makefile", "MAKEFILE"},
    {"\u00c9t\u00e9", "\u00e9t\u00e9"},
    {"Linked", "linked"},
    {"LINK", "link"},
]


def check_twins(site, at, report):
    """One of each group stands there, as it is in the source; the others are named with it."""
    lost = failed(site, report)
    for group in GROUPS:
        (kept,) = group - lost.keys()
        for name in group - {kept}:
            assert f"takes its name for {kept}," in lost[name]
        assert os.listdir(at).count(kept) == 1
        assert describe(at / kept) == describe(site.source / kept) if kept in ("Foo", "foo") else True
        if (site.source / kept).is_file():
            assert (at / kept).read_text() == (site.source / kept).read_text()
    assert len(lost) == sum(len(group) - 1 for group in GROUPS)
    assert "3 entries below it" in lost[({"Foo", "foo"} & lost.keys()).pop()]
    assert set(os.listdir(at)) == set(os.listdir(site.source)) - lost.keys()
    assert describe(at / "other") == describe(site.source / "other")
    assert (at / "alone").stat().st_nlink == 2


@NEEDS_FUSE
def test_names_that_are_one_there(twins, tmp_path):
    site = twins
    with odd_fs.odd_fs(tmp_path / "odd", "--fold"):
        target = tmp_path / "odd/out"
        report = json.loads(site.restore(target, "--json", code=1).stdout)
        check_twins(site, where(site, target), report)
        assert report["entries"] == len(list(target.rglob("*"))) + 1
        assert leftovers(target) == []
        before = describe(where(site, target))
        again = json.loads(site.restore(target, "--force", "--delete", "--json", code=1).stdout)
        assert again["failed"] == report["failed"]
        assert again["removed"] == 0
        assert describe(where(site, target)) == before
        said = site.restore(tmp_path / "odd/told", code=1).stderr
        assert "on another file system" in said
        fetched = site.run("fetch", *site.where, "latest", site.source, tmp_path / "odd/got", "--json", code=1)
        check_twins(site, tmp_path / "odd/got", json.loads(fetched.stdout))
    site.restore(tmp_path / "plain")
    assert describe(site.restored(tmp_path / "plain")) == describe(site.source)


@NEEDS_FUSE
def test_another_spelling_is_replaced_only_if_that_is_asked_for(site, tmp_path):
    (site.source / "README").write_text("new")
    (site.source / "sub").mkdir()
    site.backup()
    with odd_fs.odd_fs(tmp_path / "odd", "--fold"):
        at = where(site, tmp_path / "odd/out")
        (at / "SUB").mkdir(parents=True)
        (at / "readme").write_text("what was there")
        site.restore(tmp_path / "odd/out", code=1)
        assert (at / "readme").read_text() == "what was there"
        site.restore(tmp_path / "odd/out", "--force", "--delete")
        assert (at / "README").read_text() == "new"
        assert len(os.listdir(at)) == 2


@NEEDS_FUSE
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_another_file_system_below_the_target(site, tmp_path):
    (site.source / "sub/deep").mkdir(parents=True)
    for name in ("Makefile", "makefile"):
        (site.source / name).write_text(name)
        (site.source / "sub/deep" / name).write_text(name)
    site.backup()
    at = where(site, tmp_path / "out")
    (at / "sub").mkdir(parents=True)
    with odd_fs.odd_fs(tmp_path / "odd", "--fold"):
        subprocess.run(["mount", "--bind", tmp_path / "odd", at / "sub"], check=True)
        try:
            report = json.loads(site.restore(tmp_path / "out", "--force", "--json", code=1).stdout)
            assert list(failed(site, report)) == ["sub/deep/makefile"]
            assert {name: (at / name).read_text() for name in ("Makefile", "makefile", "sub/deep/Makefile")} == {
                "Makefile": "Makefile",
                "makefile": "makefile",
                "sub/deep/Makefile": "Makefile",
            }
            assert os.listdir(at / "sub/deep") == ["Makefile"]
        finally:
            subprocess.run(["umount", "-l", at / "sub"], check=True)


def test_a_directory_that_would_take_its_own_names_for_each_other(site, tmp_path):
    """No such directory can have been backed up; on ext4 the second would overwrite the first."""
    (site.source / "sub/below").mkdir(parents=True)
    for name in ("Makefile", "makefile"):
        (site.source / "sub/below" / name).write_text(name)
    site.backup()
    forge(site, f"UPDATE entries SET inode_flags = {0x40000000} WHERE name = CAST('sub' AS BLOB)")
    report = json.loads(site.restore(tmp_path / "out", "--json", code=1).stdout)
    assert list(failed(site, report)) == ["sub/below/makefile"]
    assert os.listdir(where(site, tmp_path / "out") / "sub/below") == ["Makefile"]


@NEEDS_FUSE
def test_a_name_like_the_states_own(site, tmp_path):
    (site.source / "plan.sqlite").write_text("planted")
    site.backup()
    top = str(tmp_path).split("/")[1]
    forge(
        site,
        f"UPDATE entries SET name = CAST('.Vaultik-Restore' AS BLOB) WHERE name = CAST('{top}' AS BLOB) AND parent = 1",
    )
    with odd_fs.odd_fs(tmp_path / "odd", "--fold"):
        done = site.restore(tmp_path / "odd/out", code=1)
        assert "/.Vaultik-Restore: this file system takes its name for .vaultik-restore" in done.stderr
        assert os.listdir(tmp_path / "odd/out") == []


@NEEDS_FUSE
def test_names_that_are_too_long_there(site, tmp_path):
    (site.source / ("d" * 70)).mkdir()
    (site.source / ("d" * 70) / "below").write_text("x")
    for name in ("f" * 61, "g" * 60, "h"):
        (site.source / name).write_text(name)
    site.backup()
    with odd_fs.odd_fs(tmp_path / "odd", "--longest", 60):
        report = json.loads(
            site.run("fetch", *site.where, "latest", site.source, tmp_path / "odd/out", "--json", code=1).stdout
        )
        lost = failed(site, report)
        assert lost["f" * 61] == lost["d" * 70] == "File name too long"
        assert set(lost) == {"f" * 61, "d" * 70, "d" * 70 + "/below"}
        assert sorted(os.listdir(tmp_path / "odd/out")) == ["g" * 60, "h"]


@NEEDS_FUSE
def test_a_memory_card(site, tmp_path):
    """No links, owners, attributes: what can't be had is named or counted, each file's content is there."""
    for n in range(20):
        (site.source / f"file {n}").write_bytes(os.urandom(1000 * n))
    os.setxattr(site.source / "file 1", "user.note", b"x")
    os.symlink("file 1", site.source / "link")
    os.link(site.source / "file 2", site.source / "second name")
    os.mkfifo(site.source / "fifo")
    site.backup()
    with odd_fs.odd_fs(tmp_path / "odd", "--plain"):
        report = json.loads(site.restore(tmp_path / "odd/out", "--json", code=1).stdout)
        at = where(site, tmp_path / "odd/out")
        assert failed(site, report).keys() >= {"link"}
        assert report["refused"]["extended attribute"] == 1
        assert report["refused"]["special file"] == 1
        for path in at.iterdir():
            assert path.read_bytes() == (site.source / path.name).read_bytes()
        done = {"link", "fifo", "file 2", "second name"} - failed(site, report).keys()
        assert set(os.listdir(at)) == set(os.listdir(site.source)) - failed(site, report).keys() - {"fifo"}
        assert "file 2" in done or "second name" in done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system without xattrs")
def test_without_xattrs_it_says_once_how_many(site, tmp_path):
    for n in range(5):
        (site.source / str(n)).write_text("x")
        os.setxattr(site.source / str(n), "user.note", b"x")
    site.backup()
    (tmp_path / "ram").mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", tmp_path / "ram"], check=True)
    try:
        done = site.restore(tmp_path / "ram/out")
        assert "extended attribute: could not be set 5 times" in done.stderr
        at = where(site, tmp_path / "ram/out")
        for path in site.source.iterdir():
            os.removexattr(path, "user.note")
        assert compare(site.source, at) == []
        assert leftovers(tmp_path / "ram/out") == []
    finally:
        subprocess.run(["umount", "-l", tmp_path / "ram"], check=True)
        shutil.rmtree(tmp_path / "ram")
