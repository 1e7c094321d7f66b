"""Which snapshot `latest` is: the newest complete one, whatever copying did to the objects' times."""

import json
import os
import shutil

import pytest

from tests.support.site import Site, other_host


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


def back_up(site, text):
    (site.source / "f").write_text(text)
    return site.backup()["snapshot"]


def latest(site, *arguments, **kwargs):
    return site.run("fetch", *site.where, "latest", site.source / "f", "-", *arguments, **kwargs)


def test_a_store_that_was_copied_in_another_order(site):
    """Newest object first, so that its time is the oldest."""
    ids = [back_up(site, text) for text in ("1", "2", "3")]
    for age, snapshot in enumerate(ids):
        for path in site.objects(".age"):
            if path.name.startswith(snapshot):
                os.utime(path, (10**9 + 100 * (3 - age),) * 2)
    assert latest(site).stdout == "3"
    rows = json.loads(site.run("snapshots", *site.where, "--json").stdout)
    assert [row["snapshot"] for row in rows] == ids


def test_two_sources_of_one_host_are_told_apart(site, tmp_path):
    back_up(site, "one")
    shutil.move(site.state, tmp_path / "first")
    back_up(site, "two")
    done = latest(site, code=2)
    assert "2 sources of host" in done.stderr
    sources = [row["source"] for row in json.loads(site.run("snapshots", *site.where, "--json").stdout)]
    assert sorted(latest(site, "--host", source).stdout for source in sources) == ["one", "two"]


def test_the_snapshots_of_one_host(site):
    def listed(*arguments, code=0):
        done = site.run("snapshots", *site.where, "--json", *arguments, code=code)
        return [(row["snapshot"], row["source"], row.get("host")) for row in json.loads(done.stdout)]

    other_host(site, "web")
    other_host(site, "mail")
    # Made within a second, maybe: their order is anybody's guess.
    rows = {row[2]: row for row in listed()}
    first, second = rows["web"], rows["mail"]
    assert listed("--host", "mail") == [second]
    assert listed("--host", first[1]) == [first]
    done = site.run("snapshots", *site.where, "--host", "mial", code=2)
    assert "'mial'" in done.stderr
    assert "mail, web" in done.stderr
    # Whose a damaged one is nobody knows: it is not left out.
    (manifest,) = (p for p in site.objects(".manifest.zst.age") if p.name.startswith(second[0]))
    manifest.chmod(0o600)
    manifest.write_bytes(b"damaged")
    assert {row[0] for row in listed("--host", "web", code=4)} == {first[0], second[0]}
    done = site.run("fetch", *site.where, "latest", "/", "-", code=4)
    assert f"name one by its id: {', '.join(sorted((first[0], second[0])))}" in done.stderr
    site.env["VAULTIK_PRIVATE_KEY"] = ""
    assert listed("--host", first[1]) == [(*first[:2], None)]
    done = site.run("snapshots", *site.where, "--host", "web", code=2)
    assert "only sources are known" in done.stderr
    (database,) = (p for p in site.objects(".sqlite.zst.age") if p.name.startswith(second[0]))
    database.unlink()
    assert f"note: {second[0]}: only its manifest is stored" in site.run("snapshots", *site.where).stderr
