"""A snapshot whose DB, or a layer of it, is lost: the error names the nearest that can be restored, and they can."""

import contextlib
import json
import os
import re

import pytest

from tests.support.site import Site
from tests.support.snapshots import open_own
from vaultik.secrets import load_identities


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Four snapshots, of which the last two build on one layer."""
    site = Site(tmp_path_factory.mktemp("lost"))
    site.source.mkdir()
    site.ids = []
    for count in (60, 10_000, 3, 4):
        for n in range(count):
            path = site.source / f"{'name' * 20} {count} {n}"
            path.touch()
            # What is newer than two seconds is looked at again by the next run, and would be in its DB.
            os.utime(path, (1, 1))
        site.ids.append(site.backup()["snapshot"])
    return site


@contextlib.contextmanager
def away(*paths):
    """These objects are lost meanwhile."""
    for path in paths:
        path.rename(path.with_name(f"aside-{path.name}"))
    yield
    for path in paths:
        path.with_name(f"aside-{path.name}").rename(path)


def objects_of(site, snapshot, suffix=""):
    return [path for path in site.objects(suffix) if path.name.startswith(snapshot)]


def named(done):
    """The snapshots that a hint names."""
    (hint,) = re.findall(r"hint: .*", done.stderr)
    return re.findall(r"\d{8}T\d{6}Z-[0-9a-f]{8}", hint)


DB = ".sqlite.zst.age"


def test_a_missing_db(stored, tmp_path):
    first, second, third, _ = stored.ids
    with away(*objects_of(stored, second, DB)):
        done = stored.restore(tmp_path / "out", snapshot=second, code=4)
        assert f"snapshot {second}: its DB is missing, only its manifest is left" in done.stderr
        assert named(done) == [first, third]
        assert not (tmp_path / "out").exists()
    with away(*objects_of(stored, first, DB)):
        assert named(stored.run("ls", *stored.where, first, code=4))[-1] == stored.ids[3]
    with away(*objects_of(stored, second)):
        done = stored.restore(tmp_path / "out", snapshot=second, code=2)
        assert "none of that id" in done.stderr
        assert named(done) == [first, third]


def test_a_damaged_db(stored, tmp_path):
    *before, third, last = stored.ids
    (db,) = objects_of(stored, last, DB)
    whole = db.read_bytes()
    db.write_bytes(whole[:100])
    try:
        done = stored.run("ls", *stored.where, "latest", code=4)
        assert f"snapshot {last}" in done.stderr
        assert named(done) == [third]
        said = json.loads(stored.restore(tmp_path / "out", "--json", code=4).stdout)
        assert third in said["hint"]
        with away(*(path for one in (*before, third) for path in objects_of(stored, one))):
            assert "no other snapshot" in stored.restore(tmp_path / "out", code=4).stderr
    finally:
        db.write_bytes(whole)


def test_a_lost_layer_names_those_that_do_not_need_it(stored, tmp_path):
    (db,) = objects_of(stored, stored.ids[3], DB)
    with contextlib.closing(open_own(db.read_bytes(), load_identities(stored.key))) as own:
        layers = [row[0].hex() for row in own.execute("SELECT hash FROM layers ORDER BY place")]
    with away(next(path for path in stored.blobs() if path.name == layers[-1])):
        done = stored.restore(tmp_path / "out", snapshot=stored.ids[3], code=4)
        assert f"layer {layers[-1]}: missing" in done.stderr
        sound = [one for one in stored.ids[:3] if stored.run("ls", *stored.where, one, code=None).returncode == 0]
        assert stored.ids[2] not in sound
        assert named(done) == sound[-1:]
