"""Luigi's memory of a run doesn't grow with the run."""

import pytest

from tests.support.site import Site
from tests.support.tree import compare
from vaultik.backup import plan
from vaultik.config import load_config
from vaultik.index import bundles
from vaultik.tasks.build import PoliteWorker
from vaultik.tasks.run import run_backup

WAVES = 5


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_wave_needed_is_forgotten_with_it(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(plan, "PIECES_PER_BUNDLE", 1)
    site = Site(tmp_path)
    site.source.mkdir()
    for number in range(WAVES * bundles.BUNDLES_PER_WAVE):
        (site.source / str(number)).write_bytes(b"%d" % number)
    known = []
    handle = PoliteWorker._handle_next_task

    def count(self):
        handle(self)
        state = self._scheduler._state
        known.append((
            len(self._scheduled_tasks), len(self._add_task_history), len(list(state.get_active_tasks())),
            sum(len(worker.tasks) for worker in state.get_active_workers()),
        ))  # fmt: skip

    monkeypatch.setattr(PoliteWorker, "_handle_next_task", count)
    run = run_backup(load_config(site.config), host="here", workers=workers).run
    assert run.counts["blobs"] == WAVES * bundles.BUNDLES_PER_WAVE
    tasks_of_a_wave = 3 * bundles.BUNDLES_PER_WAVE
    assert all(max(counted) < 1.5 * tasks_of_a_wave for counted in zip(*[k[:1] + k[2:] for k in known], strict=True))
    assert max(history for _, history, *_ in known) < 3 * tasks_of_a_wave
    site.restore(tmp_path / "out")
    assert compare(site.source, site.restored(tmp_path / "out")) == []
