"""What a backup, a restore, a prune and a verification make of a real server whose answers go wrong at random.

As in `test_faulty_store`, but for the requests themselves: some are outlasted, some end what is done.
"""

import contextlib
import functools
import itertools
import random

import pytest
from botocore.retries.standard import ExponentialBackoff

from tests.conftest import S3_GROUP, make_site
from tests.support.proxy import Proxy
from tests.support.run import Run, restore_into, verify_all
from tests.support.tree import describe
from tests.support.world import read_files
from vaultik.backup import commit
from vaultik.core.identity import Identity
from vaultik.errors import VaultikError
from vaultik.maintain import verify
from vaultik.maintain.prune import STEPS, PruneSession
from vaultik.maintain.request import parse_request
from vaultik.restore.asked import Asked
from vaultik.store import s3, s3_body
from vaultik.store.open import open_store

pytestmark = S3_GROUP

ALWAYS = ["reset", "reset-late", "lost", "500", "503", "403", "404"]
BODIES = {"GetObject": ["cut", "short", "truncate", "empty", "lengthen", "flip"]}
FAULTS = {
    "PutObject": [*ALWAYS, "409", "flip-sent"],
    "GetObject": [*ALWAYS, *BODIES["GetObject"]],
    "HeadObject": ALWAYS,
    "ListObjectsV2": [*ALWAYS, "cut", "truncate", "empty"],
    "DeleteObjects": [*ALWAYS, "cut", "truncate", "empty"],
}


@pytest.fixture(autouse=True)
def in_order_and_without_pauses(monkeypatch):
    monkeypatch.setattr(verify, "_SIDE_BY_SIDE", 1)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    monkeypatch.setattr(commit, "_PAUSES_S", (0, 0, 0))
    monkeypatch.setattr(s3, "_CONFLICT_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(s3_body, "_PAUSES_S", (0.0, 0.0, 0.0))


class Place:
    """A host, its bucket behind a proxy, and what can be done with it."""

    def __init__(self, site, proxy):
        self.site, self.proxy = site, proxy
        self.identities = [Identity(site.identity)]
        self.open = functools.partial(open_store, site.endpoint, site.bucket, site.prefix, **site.keys())

    def backup(self):
        run = Run(self.site)
        try:
            return run.all()
        finally:
            run.session.end()

    def restore(self, target, **asked):
        return restore_into(self.open, self.identities, Asked(target, "latest", **asked))

    def verify(self, state):
        return verify_all(self.open, self.identities, state)

    def prune(self):
        session = PruneSession(self.open, self.identities, parse_request({"last": "1"}, grace="0", exclusive=True))
        try:
            session.plan()
            for step in STEPS:
                session.delete(step)
        finally:
            session.remove()

    @contextlib.contextmanager
    def failing(self, chance, faults=FAULTS):
        """Some of the requests meet a fault; what ends of it ends with one line."""

        def fault(operation, _request):
            return chance.choice(faults[operation]) if chance.random() < 0.3 else "pass"

        self.proxy.script = {name: itertools.repeat(functools.partial(fault, name)) for name in faults}
        try:
            yield
        except VaultikError as exc:
            assert "\n" not in f"{exc} {exc.hint or ''}"
        finally:
            self.proxy.script = {}


@pytest.mark.parametrize("seed", range(2))
def test_what_goes_wrong_at_random_is_mended_by_the_next_time(request, tmp_path, weed, seed):
    chance = random.Random(seed)
    site = make_site(request, tmp_path, "seaweedfs")
    site.source.mkdir()
    with Proxy(weed) as proxy:
        site.configure(s3={**site.settings["s3"], "endpoint": proxy.endpoint})
        site.endpoint = proxy.endpoint
        place = Place(site, proxy)
        for day in range(2):
            for name in ("same", str(day)):
                (site.source / name).write_bytes(random.Random(name).randbytes(100_000))
            with place.failing(chance):
                place.backup()
            place.backup()
            with place.failing(chance):
                place.prune()
            place.prune()
            # One of its own: a prune without grace drops what a verification would miss.
            memory = tmp_path / f"memory {day}"
            with place.failing(chance):
                place.verify(memory)
            assert place.verify(memory).problems == []
            for number, faults in enumerate([FAULTS, BODIES, BODIES]):
                out = tmp_path / f"out {day} {number}"
                with place.failing(chance, faults):
                    place.restore(out)
                found = read_files(site.restored(out))
                whole = {name: data for name, data in found.items() if not name.startswith(".vaultik-")}
                assert whole.items() <= read_files(site.source).items()
                # What came damaged takes a look at what is there.
                assert place.restore(out, force=True, checksum=True).damaged == []
                assert describe(site.restored(out)) == describe(site.source)
        assert proxy.faults() > 5
