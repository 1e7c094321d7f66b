"""Feeds a target with what its mutator makes: the loop, what counts as a finding, and the limits that make one.

A target may raise what it documents, and nothing else. What it says is taken for where it came: an input with a
new kind of message, its numbers aside, joins those that are changed further. Memory and CPU time are bounded by
the kernel: a MemoryError, or an input that never ends, is a finding like any other.

Why not atheris: most of the reading is SQLite's, zstd's and msgspec's, whose branches it doesn't see. Where it does
(40 s each, branches of `config` and PyYAML, and of age headers): this loop 595 and 53, atheris alone 572 and 52, atheris
with these mutators 633 and 53. The mutators do it, not the feedback; and this runs on every Python, with no wheel to wait for.
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.mutation import splice

TARGETS = (
    "age_header", "age_payload", "frames", "chunk_table", "manifest", "names", "identity", "config", "heal_report", "blob",
    "snapshot_db", "layers",
)  # fmt: skip
MEMORY = 320 << 20
"""Bytes of data that a target may take beyond what there is when it begins."""
CPU_S = 20
"""Of one input; the slowest takes far less than a tenth."""
_NO_MEMORY = re.compile("allocation error|not enough memory|out of memory", re.IGNORECASE)
"""As zstd and SQLite say it: no fault of the input's, then."""
_KEPT = 400
_FINDINGS = 20


class Endless(BaseException):
    """An input took more CPU time than any may."""


class Report:
    """What came of a target's inputs."""

    def __init__(self, name):
        self.name = name
        self.executions = 0
        self.kinds = Counter()
        self.slowest_s = 0.0
        self.findings = {}

    def facts(self):
        return {
            "target": self.name,
            "executions": self.executions,
            "kinds": dict(self.kinds),
            "slowest_s": self.slowest_s,
            "peak_mib": _status("VmHWM") >> 20,
            "findings": list(self.findings),
        }


def load(name):
    return importlib.import_module(f"tests.fuzz.targets.{name}")


def corpus(name):
    """Inputs that once were findings."""
    return sorted((Path(__file__).parent / "found" / name).glob("*"))


def run(module, name, *, seed=0, executions=None, seconds=None, under_way=None):
    """Feed a target its seeds, what was found before, and then changes of these.

    Args:
        module: the target's.
        name: the target's.
        seed: of the changes.
        executions: how many inputs, or
        seconds: for how long.
        under_way: an open file that holds each input, behind its length, for a death that leaves nothing else.
    """
    rng, report = random.Random(f"{name} {seed}"), Report(name)
    kept = [*module.seeds(), *(path.read_bytes() for path in corpus(name))]
    seen, queue, first = set(), list(kept), list(kept)
    end = time.monotonic() + seconds if seconds else None
    with limits():
        while queue or (time.monotonic() < end if end else report.executions < executions):
            data = queue.pop(0) if queue else _next(module, rng.choice((first, kept)), rng)
            if under_way is not None:
                # Never shorter: a file system may wait for the disk where a file is cut.
                os.pwrite(under_way, len(data).to_bytes(8, "little") + data, 0)
            said = _one(module, data, report)
            if said not in seen:
                seen.add(said)
                kept.append(data)
                del kept[: max(0, len(kept) - _KEPT)]
            if len(report.findings) >= _FINDINGS:
                break
    return report


def _next(module, kept, rng):
    data = rng.choice(kept)
    if rng.random() < 0.05:
        return splice(data, rng.choice(kept), rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = module.mutate(data, rng)
    return data


def _one(module, data, report):
    """Look at one input. Returns what tells its kind from others."""
    began = time.process_time()
    try:
        with _cpu_limit():
            module.target(data)
        kind, said = "taken", ""
    except module.DOCUMENTED as exc:
        kind, said = type(exc).__name__, str(exc)
        if _NO_MEMORY.search(said):
            _note(report, data, exc)
    except (Exception, Endless) as exc:  # noqa: BLE001 - that is what is looked for
        kind, said = f"FINDING {type(exc).__name__}", _place(exc)
        _note(report, data, exc)
    report.executions += 1
    report.kinds[kind] += 1
    report.slowest_s = max(report.slowest_s, time.process_time() - began)
    return kind, re.sub(r"[0-9a-f]{8,}|\d+|'[^']*'|`[^`]*`", "#", said)[:200]


def _note(report, data, exc):
    report.findings.setdefault(
        f"{type(exc).__name__} at {_place(exc)}", (data, "".join(traceback.format_exception(exc)))
    )


def _place(exc):
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def save(findings, name, folder):
    """Write findings down as files. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for data, told in findings.values():
        path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        path.with_name(f"{path.name}.txt").write_text(told, errors="backslashreplace")
        paths.append(path)
    return paths


def save_under_way(name, folder):
    """Write down the input that ended a process. Returns its path."""
    held = (folder / f"{name}.under-way").read_bytes()
    data = held[8:][: int.from_bytes(held[:8], "little")]
    (path,) = save({"": (data, "it ended the process\n")}, name, folder)
    return path


@contextlib.contextmanager
def limits():
    """Bound, in the block, the data of this process: what asks for more gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _cpu_limit():
    signal.signal(signal.SIGPROF, _endless)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _endless(_number, _frame):
    raise Endless


def _status(field):
    """A number of bytes from what the kernel says of this process."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)[1]) << 10


def main():
    """One target in a process of its own; the report goes to standard output."""
    name, seed, amount, folder = sys.argv[1:]
    unit = "seconds" if amount.endswith("s") else "executions"
    under_way = Path(folder) / f"{name}.under-way"
    under_way.parent.mkdir(parents=True, exist_ok=True)
    module = load(name)
    with under_way.open("wb") as file:
        report = run(module, name, seed=int(seed), under_way=file.fileno(), **{unit: int(amount.rstrip("s"))})
    save(report.findings, name, Path(folder))
    under_way.unlink()
    print(json.dumps(report.facts()))


if __name__ == "__main__":
    main()
