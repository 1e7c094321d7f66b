"""A snapshot whose DB, or a layer of it, is lost: the error names the nearest that can be restored, and they can."""

import contextlib
import json
import re

import pytest

from tests.support.site import Site
from tests.support.snapshots import open_own
from vaultik.secrets import load_identities


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three snapshots; the last two may build on what the first doesn't have."""
    site = Site(tmp_path_factory.mktemp("three"))
    site.source.mkdir()
    site.ids = []
    for count in (60, 10_000, 3):
        for n in range(count):
            (site.source / f"{'name' * 20} {count} {n}").touch()
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


def test_a_missing_db(three, tmp_path):
    first, second, third = three.ids
    with away(*objects_of(three, second, DB)):
        done = three.restore(tmp_path / "out", snapshot=second, code=4)
        assert f"snapshot {second}: its DB is missing, only its manifest is left" in done.stderr
        assert named(done) == [first, third]
        assert not (tmp_path / "out").exists()
        with away(*objects_of(three, third, DB)):
            assert named(three.run("ls", *three.where, third, code=4)) == [first]
    with away(*objects_of(three, second)):
        done = three.restore(tmp_path / "out", snapshot=second, code=2)
        assert "none of that id" in done.stderr
        assert named(done) == [first, third]


def test_a_damaged_db(three, tmp_path):
    first, second, third = three.ids
    (db,) = objects_of(three, third, DB)
    whole = db.read_bytes()
    db.write_bytes(whole[:100])
    try:
        done = three.run("ls", *three.where, "latest", code=4)
        assert f"snapshot {third}" in done.stderr
        assert named(done) == [second]
        said = json.loads(three.restore(tmp_path / "out", "--json", code=4).stdout)
        assert second in said["hint"]
        with away(*objects_of(three, first), *objects_of(three, second)):
            assert "no other snapshot" in three.restore(tmp_path / "out", code=4).stderr
    finally:
        db.write_bytes(whole)


def test_a_lost_layer_names_those_that_do_not_need_it(three, tmp_path):
    (db,) = objects_of(three, three.ids[2], DB)
    with contextlib.closing(open_own(db.read_bytes(), load_identities(three.key))) as own:
        layers = [row[0].hex() for row in own.execute("SELECT hash FROM layers ORDER BY place")]
    with away(next(path for path in three.blobs() if path.name == layers[-1])):
        done = three.restore(tmp_path / "out", snapshot=three.ids[2], code=4)
        assert f"layer {layers[-1]}: missing" in done.stderr
        sound = [s for s in three.ids[:2] if three.run("ls", *three.where, s, code=None).returncode == 0]
        assert named(done) == sound == [three.ids[0]]
