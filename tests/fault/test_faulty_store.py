"""Every call that a backup, a restore, a prune or a verification makes of its store may fail in every way, alone or in groups.

What is done ends right or with an error that says why in one line; nothing that was committed is lost; and the next
time without faults mends all. What a store that lies may cost is told in `tests.support.faulty_store`.
"""

import random

import pytest

from tests.support.backup_scenes import Backup, EarlyBackup, FirstBackup, PutOnlyBackup
from tests.support.faulty_store import FAULTS
from tests.support.machine import HISTORIES
from tests.support.maintain_scenes import Prune, Verify, VerifyBytes, VerifyDeep
from tests.support.restore_scenes import Restore, RestoreOne, Update
from tests.support.scenes import scene
from vaultik.backup import plan
from vaultik.maintain import verify

GROUPS = int(HISTORIES or 24)
SCENES = [
    FirstBackup, Backup, PutOnlyBackup, EarlyBackup, Restore, RestoreOne, Update, Prune, Verify, VerifyBytes, VerifyDeep,
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_after_the_other(monkeypatch):
    """Each file is a blob of its own, and calls have their order."""
    monkeypatch.setattr(plan, "PIECES_PER_BUNDLE", 1)
    monkeypatch.setattr(verify, "_SIDE_BY_SIDE", 1)
    monkeypatch.setattr(verify, "_DEEP_SIDE_BY_SIDE", 1)


@pytest.mark.parametrize("kind", SCENES, ids=lambda kind: kind.__name__)
def test_every_call_may_meet_every_fault(kind):
    with scene(kind) as it:
        for number, call in enumerate(it.count()):
            for fault in FAULTS[call.method]:
                assert [one.fault for one in it.live({number: fault}, seed=number)] == [fault]


@pytest.mark.parametrize("kind", SCENES, ids=lambda kind: kind.__name__)
def test_calls_may_meet_several(kind):
    chance = random.Random(kind.__name__)
    with scene(kind) as it:
        calls = it.count()
        for seed in range(GROUPS):
            numbers = chance.sample(range(len(calls)), min(len(calls), chance.randint(2, 5)))
            script = {number: chance.choice(FAULTS[calls[number].method]) for number in numbers}
            assert it.live(script, seed)
