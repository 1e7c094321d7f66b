"""What is damaged where a snapshot says it is comes from other blobs, if other snapshots name some that have it."""

import json
import os
import random

import pytest

from tests.support.restores import leftovers
from tests.support.run import restore_into
from tests.support.site import Site
from tests.support.snapshots import blobs_of
from vaultik.errors import StoreAccessError
from vaultik.restore.asked import Asked
from vaultik.secrets import load_identities
from vaultik.store.local import LocalStore


@pytest.fixture(scope="module")
def healed(tmp_path_factory):
    """Two snapshots; then all blobs of the first are damaged, and what the source still has was stored anew."""
    tmp_path = tmp_path_factory.mktemp("healed")
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    rng = random.Random(7)
    for n in range(20):
        (site.source / f"small {n}").write_bytes(rng.randbytes(20_000))
    (site.source / "large").write_bytes(rng.randbytes(3_000_000))
    (site.source / "gone since").write_bytes(rng.randbytes(1_500_000))
    site.old = site.backup()["snapshot"]
    site.content = {path.name: path.read_bytes() for path in site.source.iterdir()}
    (site.source / "gone since").unlink()
    missing, *broken = [*blobs_of(site, b"large"), blobs_of(site, b"gone since")[0], *blobs_of(site, b"small 1")]
    for blob in dict.fromkeys(broken):
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    missing.unlink()
    report = site.run("verify", *site.where, "--state", tmp_path / "seen", "--json", code=4).stdout
    (tmp_path / "report.json").write_text(report)
    site.backup("--heal", tmp_path / "report.json")
    return site


def test_an_older_snapshot_takes_what_was_healed(healed, tmp_path):
    site = healed
    done = site.restore(tmp_path / "out", "--json", snapshot=site.old, code=4)
    report = json.loads(done.stdout)
    assert {os.path.basename(entry["path"]) for entry in report["damaged"]} == {"gone since"}
    assert any("had been stored anew" in note["text"] for note in report["notes"])
    at = site.restored(tmp_path / "out")
    for name in site.content.keys() - {"gone since"}:
        assert (at / name).read_bytes() == site.content[name]
    assert leftovers(tmp_path / "out") == []
    site.run("fetch", *site.where, site.old, site.source / "large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == site.content["large"]
    said = site.restore(tmp_path / "salvaged", "--salvage", snapshot=site.old, code=4).stderr
    assert "gone since.vaultik-salvaged: what could be read of it" in said
    assert (site.restored(tmp_path / "salvaged") / "large").read_bytes() == site.content["large"]
    site.restore(tmp_path / "part", "--include", site.source / "large", "--workers", "2", snapshot=site.old)


def test_another_snapshot_that_can_not_be_read_is_no_trouble(healed, tmp_path):
    site = healed
    others = [path for path in site.objects(".sqlite.zst.age") if not path.name.startswith(site.old)]
    whole = {path: path.read_bytes() for path in others}
    try:
        for path in others:
            os.truncate(path, 50)
        report = json.loads(site.restore(tmp_path / "out", "--json", snapshot=site.old, code=4).stdout)
    finally:
        for path, data in whole.items():
            path.write_bytes(data)
    assert len(report["damaged"]) > 1
    assert leftovers(tmp_path / "out") == []


class Listed(LocalStore):
    """A store that refuses to list once it was asked for a blob."""

    is_refused = False

    def open(self, key, **kwargs):
        self.is_refused |= key.startswith("blobs/")
        return super().open(key, **kwargs)

    def children(self, prefix=""):
        if self.is_refused:
            raise StoreAccessError("refused, on purpose")
        return super().children(prefix)


def test_who_may_not_list_any_more_has_what_he_has(healed, tmp_path):
    site = healed
    store = Listed(site.store, site.bucket, site.prefix)
    report = restore_into(lambda: store, load_identities(site.key), Asked(tmp_path / "out", site.old))
    assert store.is_refused
    assert {os.path.basename(path) for path, _ in report.damaged} > {b"gone since"}
    assert not any("stored anew" in text for _, text in report.notes)
