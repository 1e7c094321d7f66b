"""--salvage: what can be read of a damaged file comes back under another name, with what is lost told by its ranges."""

import json
import os
import random
import re
import stat
import subprocess

import pytest

from tests.support.restores import leftovers
from tests.support.run import restore_into
from tests.support.site import Site
from tests.support.snapshots import blobs_of
from tests.support.tree import describe
from vaultik.restore import salvage
from vaultik.restore.asked import Asked
from vaultik.secrets import load_identities
from vaultik.store.open import open_store

SALVAGED = ".vaultik-salvaged"


def make(tmp, *more, damaged=True):
    """Files over several blobs, of which one is missing and one has a broken byte in its middle."""
    site = Site(tmp, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    rng = random.Random(5)
    for name, size in (("large", 3_000_000), ("whole", 500_000), *more):
        (site.source / name).write_bytes(rng.randbytes(size))
    with (site.source / "large").open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"after a hole")
    (site.source / "large").chmod(0o6750)
    os.link(site.source / "large", site.source / "linked")
    for n in range(30):
        (site.source / f"small {n}").write_bytes(rng.randbytes(10_000))
    site.backup()
    if damaged:
        damage(site)
    return site


def damage(site):
    missing, broken = blobs_of(site, b"large")[1:3]
    missing.unlink()
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)


@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    return make(tmp_path_factory.mktemp("hurt"))


def check(site, at, report, names=SALVAGED):
    """Nothing wrong is under its own name; what is salvaged is right but for the ranges that are told to be lost."""
    assert report["damaged"]
    paths = {os.path.basename(entry["path"]): entry for entry in report["salvaged"]}
    damaged = {os.path.basename(entry["path"]) for entry in report["damaged"]}
    assert paths.keys() <= damaged
    for path in site.source.iterdir():
        if path.name not in damaged:
            assert (at / path.name).read_bytes() == path.read_bytes()
            continue
        assert not (at / path.name).exists()
        if path.name not in paths:
            continue
        place = at / (path.name + names)
        assert paths[path.name]["as"]["path"].endswith(place.name)
        content, got = path.read_bytes(), place.read_bytes()
        assert len(got) == len(content)
        last = 0
        for offset, size in paths[path.name]["lost"]:
            assert size > 0
            assert got[last:offset] == content[last:offset]
            assert got[offset : offset + size] == bytes(size) != content[offset : offset + size]
            last = offset + size
        assert got[last:] == content[last:]
    return paths


def test_the_readable_parts_come_back_under_another_name(hurt, tmp_path):
    plain = json.loads(hurt.restore(tmp_path / "plain", "--json", code=4).stdout)
    assert not list((tmp_path / "plain").rglob("*salvaged*"))
    report = json.loads(hurt.restore(tmp_path / "out", "--salvage", "--json", code=4).stdout)
    # Of a file that two blobs damage the reason is whichever is read first.
    assert [one["path"] for one in plain["damaged"]] == [one["path"] for one in report["damaged"]]
    own = dict.fromkeys(("salvaged", "target", "damaged"))
    assert {**plain, **own} == {**report, **own}
    at = hurt.restored(tmp_path / "out")
    paths = check(hurt, at, report)
    assert paths.keys() & {"large", "linked"}
    assert not paths.keys() & {f"small {n}" for n in range(30)}
    assert leftovers(tmp_path / "out") == []
    for name in paths:
        assert not stat.S_IMODE((at / (name + SALVAGED)).stat().st_mode) & 0o6000
    said = hurt.restore(tmp_path / "told", "--salvage", code=4).stderr
    for entry in report["salvaged"]:
        offset, size = entry["lost"][0]
        assert f"{tmp_path}/told{entry['as']['path']}: what could be read of it; zeros are in place of bytes" in said
        assert f"{offset} to {offset + size - 1}" in said


def test_an_update_salvages_and_never_takes_what_stands_there(hurt, tmp_path):
    """Also with --delete: what was salvaged now stays, what stands there under that name is the snapshot's or goes."""
    done = hurt.restore(tmp_path / "out", code=4)
    assert "with --force tries again, and with --salvage keeps what can be read" in done.stderr
    at = hurt.restored(tmp_path / "out")
    report = json.loads(hurt.restore(tmp_path / "out", "--force", "--salvage", "--json", code=4).stdout)
    names = {name: (at / (name + SALVAGED)).read_bytes() for name in check(hurt, at, report)}
    again = json.loads(hurt.restore(tmp_path / "out", "--force", "--delete", "--salvage", "--json", code=4).stdout)
    check(hurt, at, again, SALVAGED + "-2")
    assert {path.name for path in at.iterdir() if "salvaged" in path.name} == {n + SALVAGED + "-2" for n in names}
    assert again["removed"] == len(names)


def test_a_name_that_is_taken_or_long(tmp_path):
    long = "n" * 255
    site = make(tmp_path, (long, 2_000_000), (f"large{SALVAGED}", 10), (f"linked{SALVAGED}", 10))
    blobs_of(site, long.encode())[0].unlink()
    report = json.loads(site.restore(tmp_path / "out", "--salvage", "--json", code=4).stdout)
    at = site.restored(tmp_path / "out")
    assert (at / f"large{SALVAGED}").read_bytes() == (site.source / f"large{SALVAGED}").read_bytes()
    places = {os.path.basename(entry["as"]["path"]) for entry in report["salvaged"]}
    assert "n" * (255 - len(SALVAGED)) + SALVAGED in places
    assert len(places & {f"large{SALVAGED}-2", f"linked{SALVAGED}-2"}) == 1
    assert len(places) == 2
    assert all((at / name).exists() for name in places)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_name_of_the_snapshot_s_own_that_comes_later(tmp_path, force):
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    (site.source / "large").write_bytes(random.Random(5).randbytes(3_000_000))
    (site.source / f"large{SALVAGED}").symlink_to(f"large{SALVAGED}-2")
    (site.source / f"large{SALVAGED}-2").touch()
    site.backup()
    blobs_of(site, b"large")[1].unlink()
    report = json.loads(site.restore(tmp_path / "out", "--salvage", "--json", *force, code=4).stdout)
    at = site.restored(tmp_path / "out")
    assert not report["failed"]
    assert os.readlink(at / f"large{SALVAGED}") == f"large{SALVAGED}-2"
    assert check(site, at, report, f"{SALVAGED}-3")


class Killed(BaseException):
    pass


def salvaging(site, target):
    asked = Asked(target, "latest", salvage=True)
    store = open_store(site.endpoint, site.bucket, site.prefix)
    return restore_into(lambda: store, load_identities(site.key), asked)


def killed_at_its_name(site, target, monkeypatch, *, named):
    real = salvage.rename_new

    def rename(*args):
        if named:
            real(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(salvage, "rename_new", rename)
        with pytest.raises(Killed):
            salvaging(site, target)


@pytest.mark.parametrize("named", [False, True])
def test_killed_around_its_name_it_leaves_one(hurt, tmp_path, monkeypatch, named):
    killed_at_its_name(hurt, tmp_path / "out", monkeypatch, named=named)
    report = salvaging(hurt, tmp_path / "out")
    there = [path.name for path in hurt.restored(tmp_path / "out").iterdir() if "salvaged" in path.name]
    assert there in ([f"large{SALVAGED}"], [f"linked{SALVAGED}"])
    assert [one.place for one in report.salvaged] == [os.fsencode(hurt.source / there[0])]
    assert {path for path, _ in report.damaged} > {os.fsencode(hurt.source / name) for name in ("large", "linked")}
    assert leftovers(tmp_path / "out") == []


def test_what_can_be_read_by_then_is_no_salvage(tmp_path, monkeypatch):
    """Killed when it knew what is lost; by the next try the blobs are right again."""
    site = make(tmp_path, damaged=False)
    sound = {path: path.read_bytes() for path in site.blobs()}
    damage(site)
    killed_at_its_name(site, tmp_path / "out", monkeypatch, named=False)
    for path, data in sound.items():
        path.write_bytes(data)
    report = salvaging(site, tmp_path / "out")
    assert report.damaged == report.salvaged == []
    assert describe(site.restored(tmp_path / "out")) == describe(site.source)


def test_a_first_try_without_it_is_no_obstacle(hurt, tmp_path):
    """Damage that was noted before is looked at once more for what can be read."""
    target = tmp_path / "out"
    (hurt.restored(target) / "whole").mkdir(parents=True)
    (hurt.restored(target) / "whole/mine").write_text("mine")
    hurt.restore(target, "--force", code=4)
    assert (target / ".vaultik-restore").exists()
    (hurt.restored(target) / "whole/mine").unlink()
    (hurt.restored(target) / "whole").rmdir()
    report = json.loads(hurt.restore(target, "--salvage", "--json", code=4).stdout)
    assert check(hurt, hurt.restored(target), report)
    assert leftovers(target) == []


class TestFetch:
    def test_one_file(self, hurt, tmp_path):
        done = hurt.run(
            "fetch", *hurt.where, "latest", hurt.source / "large", tmp_path / "got", "--salvage", "--json", code=4
        )
        report = json.loads(done.stdout)
        assert not (tmp_path / "got").exists()
        (one,) = report["salvaged"]
        assert one["as"]["path"] == f"{tmp_path}/got{SALVAGED}"
        content, got = (hurt.source / "large").read_bytes(), (tmp_path / f"got{SALVAGED}").read_bytes()
        for offset, size in one["lost"]:
            content = content[:offset] + bytes(size) + content[offset + size :]
        assert got == content
        said = hurt.run(
            "fetch", *hurt.where, "latest", hurt.source / "large", tmp_path / "got", "--salvage", code=4
        ).stderr
        assert f"{tmp_path}/got{SALVAGED}-2: what could be read of it" in said
        assert list(tmp_path.glob(".vaultik-*")) == []

    def test_a_directory(self, hurt, tmp_path):
        done = hurt.run("fetch", *hurt.where, "latest", hurt.source, tmp_path / "got", "--salvage", "--json", code=4)
        report = json.loads(done.stdout)
        check(hurt, tmp_path / "got", report)
        for one in report["salvaged"]:
            assert os.path.exists(one["as"]["path"])

    def test_standard_output_gets_zeros(self, hurt):
        def run(*options):
            command = hurt.command("fetch", *hurt.where, "latest", hurt.source / "large", "-", *options)
            done = subprocess.run(command, env=hurt.environment(), capture_output=True, check=False)
            assert done.returncode == 4
            return done.stdout, done.stderr.decode()

        content = (hurt.source / "large").read_bytes()
        got, said = run()
        assert "--salvage goes on" in said
        assert content.startswith(got)
        got, said = run("--salvage")
        ranges = re.search(r"zeros are in place of bytes ([^\n]*)", said)[1]
        for first, last in (map(int, one) for one in re.findall(r"(\d+) to (\d+)", ranges)):
            assert got[first : last + 1] == bytes(last + 1 - first) != content[first : last + 1]
            content = content[:first] + bytes(last + 1 - first) + content[last + 1 :]
        assert got == content
        assert got.strip(b"\0")
