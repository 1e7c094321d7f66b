"""Every clause of the rule is needed: with any one of them taken out, some history breaks a snapshot.

Which histories those are is found by search, so this takes long; `make soak` runs it.
"""

import math
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.history.test_histories import STEPS, Histories, NoGrace, PutOnly
from tests.support import world
from vaultik.backup import reconcile
from vaultik.backup.session import Session
from vaultik.index import chunks
from vaultik.maintain import keep, prune

SEARCHED = int(os.environ.get("VAULTIK_CLAUSES", "0"))
"""How many histories are searched for one that breaks."""


def no_lease(patch):
    """Rely on what this index uploaded and never committed, however long ago."""
    patch.setattr(reconcile, "RELIANCE_S", 10**9)


def no_base_in_the_listing(patch):
    """Rely on the base without looking whether its DB still stands."""

    class Anything(dict):
        def __contains__(self, key):
            return True

    original = reconcile._snapshot_dbs
    patch.setattr(reconcile, "_snapshot_dbs", lambda *args: Anything(original(*args)))
    patch.setattr(reconcile, "_adopt", lambda *_: False)
    patch.setattr(reconcile, "_is_superseded", lambda *_: False)


def no_look_for_others(patch):
    """Rely on the base although a clone has written since."""
    patch.setattr(reconcile, "_is_superseded", lambda *_: False)


def no_fence(patch):
    """Put the DB however long after the listing."""
    patch.setattr(reconcile, "FENCE_S", 10**9)


def no_forgetting(patch):
    """Keep in the index what the snapshot doesn't refer to."""
    patch.setattr(chunks, "forget_unreferenced", lambda _index: None)


def no_second_look(patch):
    """Judge the commit by the listing of the run's start."""
    original = Session.reconcile
    found = {}

    def once(self):
        if self.run_id not in found:
            found[self.run_id] = original(self)
        return found[self.run_id]._replace(until=math.inf)

    patch.setattr(Session, "reconcile", once)


def no_grace_for_blobs(patch):
    """Free what nobody refers to however young it is."""
    patch.setattr(prune.PruneSession, "_cut", lambda *_: math.inf)


def no_former_newest(patch):
    """Keep only what the rules name and the newest."""
    patch.setattr(
        keep,
        "superseded_at",
        lambda snapshots, grace_s: [e if e == math.inf else 0 for e in ORIGINAL_ENDS(snapshots, grace_s)],
    )


ORIGINAL_ENDS = keep.superseded_at


def blobs_listed_first(patch):
    """List the blobs, and then the snapshots."""
    original = prune.PruneSession.plan

    def plan(self):
        listed = list(prune.inventory.iter_blobs(self.store()))
        patch.setattr(prune.inventory, "iter_blobs", lambda _store: iter(listed))
        try:
            original(self)
        finally:
            patch.setattr(prune.inventory, "iter_blobs", ITER_BLOBS)

    patch.setattr(prune.PruneSession, "plan", plan)


ITER_BLOBS = prune.inventory.iter_blobs


def blobs_deleted_first(patch):
    """Delete blobs before the snapshots that refer to them."""
    patch.setattr(prune, "STEPS", (prune.BLOBS, prune.SNAPSHOTS, prune.MANIFESTS, prune.ORPHANS))
    patch.setattr(world, "STEPS", prune.STEPS)


def no_newest_db(patch):
    """With --grace 0: free blobs that are newer than the newest snapshot."""
    patch.setattr(prune.PruneSession, "_cut", lambda self, _decision, now: now - self._request.grace_s)


CLAUSES = [
    (no_lease, Histories),
    (no_lease, PutOnly),
    (no_base_in_the_listing, Histories),
    (no_look_for_others, Histories),
    (no_fence, Histories),
    (no_forgetting, Histories),
    (no_second_look, Histories),
    (no_grace_for_blobs, Histories),
    (no_former_newest, Histories),
    (blobs_listed_first, Histories),
    (blobs_deleted_first, Histories),
    (no_newest_db, NoGrace),
]


@pytest.mark.skipif(not SEARCHED, reason="make soak searches for it")
@pytest.mark.parametrize(("take_out", "kind"), CLAUSES, ids=lambda v: v.__name__)
def test_without_it_a_snapshot_breaks(take_out, kind, monkeypatch):
    take_out(monkeypatch)
    with pytest.raises(AssertionError, match=r"is gone|refers to it"):
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=SEARCHED,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
