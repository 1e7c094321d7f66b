"""Every target with a few hundred inputs that are always the same, and with those that once were findings."""

import json
import os
import subprocess
import sys
import types

import pytest

from tests.fuzz import engine

EXECUTIONS = 150
ROOT = engine.Path(__file__).parents[2]


@pytest.mark.parametrize("name", engine.TARGETS)
def test_only_documented_errors_within_memory(tmp_path, name):
    """In a process of its own: what it may take is bounded by the kernel."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.engine", name, "1", str(EXECUTIONS), tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    told = "\n".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert facts["findings"] == [], told
    assert facts["executions"] >= EXECUTIONS
    # Both sides are seen: what is refused, and what is taken, so that what lies behind is reached as well.
    assert facts["kinds"]["taken"] > 0
    assert name == "blob" or len(facts["kinds"]) > 1


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in engine.TARGETS for path in engine.corpus(name)], ids=lambda at: getattr(at, "name", at)
)  # fmt: skip
def test_what_was_found_stays_refused(name, path):
    module = engine.load(name)
    with pytest.raises(module.DOCUMENTED):
        module.target(path.read_bytes())


class TestTheEngineItself:
    """What it must not miss."""

    def run(self, target, **changes):
        module = types.SimpleNamespace(
            DOCUMENTED=(ValueError,),
            seeds=lambda: [b"seed"],
            mutate=lambda data, rng: data + rng.randbytes(1),
            target=target,
        )
        vars(module).update(changes)
        return engine.run(module, "none", executions=50)

    def test_an_error_that_is_not_documented(self, tmp_path):
        def target(data):
            if len(data) == 6:
                raise KeyError("x")
            raise ValueError("too short" if len(data) < 6 else "too long")

        report = self.run(target)
        (finding,) = report.findings
        assert finding.startswith("KeyError at test_targets.py:")
        assert report.kinds["FINDING KeyError"] >= 1
        assert report.kinds["ValueError"] >= 1
        (path,) = engine.save(report.findings, "none", tmp_path)
        assert len(path.read_bytes()) == 6
        assert "KeyError" in (tmp_path / f"{path.name}.txt").read_text()

    def test_memory_beyond_the_bound(self):
        def taking(size):
            return lambda data: bytearray(size) if data == b"seed" else None

        assert next(iter(self.run(taking(engine.MEMORY + (64 << 20))).findings)).startswith("MemoryError")
        assert self.run(taking(engine.MEMORY // 2)).findings == {}

    def test_an_allocation_that_failed_and_was_called_a_fault_of_the_input(self):
        def target(_data):
            raise ValueError("zstd frame: Allocation error : not enough memory")

        assert len(self.run(target).findings) == 1

    def test_what_never_ends(self, monkeypatch):
        def target(data):
            while len(data) == 4:
                pass

        monkeypatch.setattr(engine, "CPU_S", 0.2)
        assert next(iter(self.run(target).findings)).startswith("Endless")

    def test_the_same_seed_makes_the_same_inputs(self):
        runs = []
        for _ in range(2):
            runs.append([])
            self.run(runs[-1].append)
        assert runs[0] == runs[1]
        assert len(set(runs[0])) > 20
