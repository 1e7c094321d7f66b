"""Every clause of the rule is needed: with any one of them taken out, a history breaks a snapshot that it else keeps.

Each history is one that the clause is there for, turn by turn; it is lived twice.
"""

import contextlib
import math

import pytest

from tests.support import world as worlds
from tests.support.world import DAY, HOUR, World
from vaultik.backup import commit, reconcile
from vaultik.core.names import DB_SUFFIX
from vaultik.errors import VaultikError
from vaultik.maintain import keep, prune


def a_host(world, **settings):
    """A host whose first snapshot is ten days old and holds one file."""
    host = world.add_host(**settings)
    host.write("old", 3_000)
    host.backup()
    world.pass_time(10 * DAY)
    return host


def uploaded(host):
    """Let a host upload what is new and be killed before it commits."""
    before = len(host.world.blobs())
    run = host.begin()
    while len(host.world.blobs()) == before:
        run.step()
    host.kill()


def until(actor, owner, name):
    """Let an actor go on until it is about to call a function."""
    reached = []
    original = getattr(owner, name)

    def stopping(*args, **kwargs):
        if not reached:
            reached.append(True)
            actor.pause()
        return original(*args, **kwargs)

    setattr(owner, name, stopping)
    try:
        while not reached:
            assert actor.step(), f"it ended and never called {name}"
    finally:
        setattr(owner, name, original)
    return actor


def before_the_put(host):
    return until(host.begin(), commit, "_put_db")


def before_the_first_delete(world, **options):
    return until(world.begin_prune(last=1, **options), prune.PruneSession, "delete")


def go_on(actor):
    """A run or a prune may fail, if only nothing breaks."""
    with contextlib.suppress(VaultikError):
        actor.finish()


# -- histories, and what is taken out for each ---------------------------------------------------------------


def own_blobs_of_long_ago(world):
    host = a_host(world)
    host.write("new", 3_000)
    uploaded(host)
    world.pass_time(7.1 * DAY)
    run = before_the_put(host)
    world.prune(last=1)
    go_on(run)


def without_the_reliance(patch):
    patch.setattr(reconcile, "RELIANCE_S", 10**9)


def a_put_only_clone_has_dropped_a_file(world):
    host = a_host(world, put_only=True)
    twin = world.clone(host)
    (twin.source / "old").unlink()
    twin.write("other", 3_000)
    twin.backup()
    world.pass_time(8 * DAY)
    world.prune(last=1)
    go_on(host.begin())


def the_base_is_dropped_while_its_blobs_still_stand(world):
    host = a_host(world)
    twin = world.clone(host)
    (twin.source / "old").unlink()
    twin.write("other", 3_000)
    twin.backup()
    world.pass_time(8 * DAY)
    pruning = before_the_first_delete(world)
    first = next(key for key in world.objects if key.endswith(DB_SUFFIX))
    while first in world.objects:
        pruning.step()
    go_on(host.begin())
    go_on(pruning)


def without_the_base_in_the_listing(patch):
    class Anything(dict):
        def __contains__(self, key):
            return True

    original = reconcile._snapshot_dbs
    patch.setattr(reconcile, "_snapshot_dbs", lambda *args: Anything(original(*args)))
    patch.setattr(reconcile, "_is_superseded", lambda *_: False)
    patch.setattr(reconcile, "_adopt", lambda *_: False)


def a_clone_has_written_since_the_base(world):
    host = a_host(world)
    twin = world.clone(host)
    (twin.source / "old").unlink()
    twin.write("other", 3_000)
    twin.backup()
    world.pass_time(8 * DAY)
    pruning = before_the_first_delete(world)
    go_on(host.begin())
    go_on(pruning)


def without_a_look_for_others(patch):
    patch.setattr(reconcile, "_is_superseded", lambda *_: False)


def a_put_long_after_its_listing(world):
    host = a_host(world)
    host.write("new", 3_000)
    uploaded(host)
    world.pass_time(5.9 * DAY)
    run = before_the_put(host)
    world.pass_time(1.5 * DAY)
    world.prune(last=1)
    go_on(run)


def without_the_fence(patch):
    patch.setattr(reconcile, "FENCE_S", 10**9)


def a_machine_that_is_saved_before_the_put(world):
    host = a_host(world)
    host.write("new", 3_000)
    run = before_the_put(host)
    world.pass_time(8 * DAY, standing_still=True)
    world.prune(last=1)
    go_on(run)


def without_the_fence_by_the_store_s_time(patch):
    original = worlds._Session.reconcile
    patch.setattr(worlds._Session, "reconcile", lambda self: original(self)._replace(expires=math.inf))


def a_machine_that_is_saved_before_its_last_look(world):
    host = a_host(world)
    host.write("new", 3_000)
    run = until(host.begin(), worlds, "commit_snapshot")
    world.pass_time(7.2 * DAY, standing_still=True)
    until(run, commit, "_put_db")
    world.pass_time(HOUR)
    world.prune(last=1)
    go_on(run)


def a_manifest_as_old_as_the_grace(world):
    """The second try finds all blobs in a fresh listing, and the manifest of the first one swept."""
    host = a_host(world)
    run = before_the_put(host)
    world.pass_time(7.1 * DAY)
    world.prune(last=1)
    go_on(run)


def without_a_look_at_the_first_listing(patch):
    patch.setattr(commit, "_is_out_of_date", lambda *_: False)


def a_file_that_went_comes_back(world):
    """No clause can be taken out here: a snapshot lists all that the index keeps, so what it forgets nobody relies on."""
    host = a_host(world)
    host.write("other", 3_000, seed="other")
    host.backup()
    (host.source / "other").unlink()
    host.backup()
    world.pass_time(8 * DAY)
    pruning = before_the_first_delete(world)
    host.write("other", 3_000, seed="other")
    go_on(host.begin())
    go_on(pruning)


def a_run_of_days_beside_a_clone(world):
    host = a_host(world)
    twin = world.clone(host)
    (twin.source / "old").unlink()
    twin.write("other", 3_000)
    twin.backup()
    world.pass_time(5.5 * DAY)
    host.write("new", 3_000)
    before = len(world.blobs())
    run = host.begin()
    while len(world.blobs()) == before:
        run.step()
    world.pass_time(2 * DAY)
    world.prune(last=1)
    go_on(run)


def without_a_second_look(patch):
    original = worlds._Session.reconcile
    found = {}

    def once(self):
        if self.run_id not in found:
            found[self.run_id] = original(self)
        return found[self.run_id]._replace(until=math.inf, expires=math.inf)

    patch.setattr(worlds._Session, "reconcile", once)


def a_prune_between_a_listing_and_its_put(world):
    host = a_host(world)
    host.write("new", 3_000)
    run = before_the_put(host)
    world.pass_time(HOUR)
    world.prune(last=1)
    go_on(run)


def without_the_grace_for_blobs(patch):
    patch.setattr(prune.PruneSession, "_cut", lambda *_: math.inf)


def a_base_that_a_clone_supersedes_just_now(world):
    host = a_host(world)
    twin = world.clone(host)
    (twin.source / "old").unlink()
    twin.write("other", 3_000)
    host.write("new", 3_000)
    run = before_the_put(host)
    twin.backup()
    world.pass_time(2 * HOUR)
    world.prune(last=1)
    go_on(run)


def without_former_newest_ones(patch):
    original = keep.superseded_at
    patch.setattr(
        keep,
        "superseded_at",
        lambda found, grace_s: [end if end == math.inf else 0 for end in original(found, grace_s)],
    )


def a_prune_that_takes_a_week(world):
    host = a_host(world)
    actor = until(world.begin_prune(last=1), prune.PruneSession, "_list_blobs")
    world.pass_time(HOUR)
    host.write("new", 3_000)
    host.backup()
    world.pass_time(8 * DAY)
    go_on(actor)


def with_a_late_now(patch):
    patch.setattr(prune.PruneSession, "_cut", lambda self, *_: self.store().now() - self._request.grace_s)


def a_prune_killed_in_the_middle(world):
    host = a_host(world)
    host.write("old", 4_000)
    host.backup()
    world.pass_time(8 * DAY)
    pruning = before_the_first_delete(world)
    before = len(world.objects)
    while len(world.objects) == before:
        pruning.step()
    pruning.kill()


def with_blobs_deleted_first(patch):
    patch.setattr(prune, "STEPS", (prune.BLOBS, prune.SNAPSHOTS, prune.MANIFESTS, prune.ORPHANS))
    patch.setattr(worlds, "STEPS", prune.STEPS)


def a_run_beside_a_prune_without_grace(world):
    host = a_host(world)
    host.write("new", 3_000)
    run = before_the_put(host)
    world.pass_time(60)
    world.prune(last=1, grace="0")
    go_on(run)


def with_manifests_by_the_short_grace(patch):
    original = prune.PruneSession._doom
    patch.setattr(prune.PruneSession, "_doom", lambda *args: original(*args[:-1], args[-1] + 8 * DAY))


def without_the_newest_db(patch):
    patch.setattr(prune.PruneSession, "_cut", lambda self, _decision, now: now - self._request.grace_s)


CLAUSES = [
    (own_blobs_of_long_ago, without_the_reliance),
    (a_put_only_clone_has_dropped_a_file, without_the_reliance),
    (the_base_is_dropped_while_its_blobs_still_stand, without_the_base_in_the_listing),
    (a_clone_has_written_since_the_base, without_a_look_for_others),
    (a_put_long_after_its_listing, without_the_fence),
    (a_run_of_days_beside_a_clone, without_a_second_look),
    (a_prune_between_a_listing_and_its_put, without_the_grace_for_blobs),
    (a_base_that_a_clone_supersedes_just_now, without_former_newest_ones),
    (a_prune_that_takes_a_week, with_a_late_now),
    (a_prune_killed_in_the_middle, with_blobs_deleted_first),
    (a_run_beside_a_prune_without_grace, without_the_newest_db),
    (a_run_beside_a_prune_without_grace, with_manifests_by_the_short_grace),
    (a_machine_that_is_saved_before_the_put, without_the_fence_by_the_store_s_time),
    (a_machine_that_is_saved_before_its_last_look, without_the_fence_by_the_store_s_time),
    (a_manifest_as_old_as_the_grace, without_a_look_at_the_first_listing),
]


@pytest.mark.parametrize("history", [*dict(CLAUSES), a_file_that_went_comes_back], ids=lambda history: history.__name__)
def test_nothing_breaks(history, tmp_path):
    with World(tmp_path, top_rows=4).clocks() as world:
        history(world)
        world.check()


@pytest.mark.parametrize(("history", "take_out"), CLAUSES, ids=lambda value: value.__name__)
def test_without_the_clause_a_snapshot_breaks(history, take_out, tmp_path, monkeypatch):
    take_out(monkeypatch)
    with World(tmp_path, top_rows=4).clocks() as world, pytest.raises(AssertionError, match=r"is gone|refers to it"):
        history(world)
        world.check()
