"""Run a command and tell what it took: wall and CPU time, and the memory of all its processes together."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = "vaultik-bench"
"""What is made and removed lies in a folder of this name, below whatever was given for it."""
_SAMPLE_S = 0.1


class Taken(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    """User and system time of it and its children."""
    peak_mb: float
    """PSS of all its processes: shared pages counted once. Sampled ten times a second."""
    said: str


def run(command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Taken:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    peak = 0.0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, cwd=cwd, stdout=log, stderr=log, start_new_session=True
        )
        ended = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not ended.wait(_SAMPLE_S):
                peak = max(peak, _pss_mb(process.pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        process.wait()
        wall = time.perf_counter() - began
        ended.set()
        sampler.join()
        log.seek(0)
        said = log.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak, said)


def size_mb(path: Path) -> float:
    """Return what a file, or all files below a directory, come to."""
    files = [path] if path.is_file() else [Path(at, name) for at, _, names in os.walk(path) for name in names]
    return sum(file.lstat().st_size for file in files) / 1e6


def _pss_mb(group: int) -> float:
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                with (folder / "smaps_rollup").open() as file:
                    total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024
