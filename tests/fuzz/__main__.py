"""`make fuzz`: every target for its share of the time, each in a process of its own, and what came of it."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.fuzz.engine import TARGETS, save_under_way

_GRACE_S = 60


def main():
    """Print a line for each target; exit 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="for all targets together")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where findings go")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    asked = parser.parse_args()
    share = max(1, asked.seconds // len(asked.targets))
    print(f"{len(asked.targets)} targets, {share} s each, seed {asked.seed}", flush=True)
    print(f"{'target':<12} {'inputs':>9} {'per s':>7} {'peak MiB':>8} {'slowest':>8}  outcomes", flush=True)
    found = [finding for name in asked.targets for finding in _target(name, share, asked.seed, asked.found)]
    for finding in found:
        print(f"FINDING {finding}")
    sys.exit(1 if found else 0)


def _target(name, seconds, seed, folder):
    """Run a target and print its line. Returns its findings."""
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(seed), f"{seconds}s", str(folder)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = child.communicate(timeout=seconds + _GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return [f"{name}: it never ends: {save_under_way(name, folder)}"]
    if child.returncode:
        reason = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit {child.returncode}"
        return [f"{name}: {reason}: {save_under_way(name, folder)}"]
    facts = json.loads(out)
    outcomes = ", ".join(f"{kind} {count:,}" for kind, count in sorted(facts["kinds"].items()))
    rate, slowest = facts["executions"] / seconds, facts["slowest_s"] * 1000
    print(
        f"{name:<12} {facts['executions']:>9,} {rate:>7,.0f} {facts['peak_mib']:>8} {slowest:>5.0f} ms  {outcomes}",
        flush=True,
    )
    return [f"{name}: {finding}, in {folder}" for finding in facts["findings"]]


if __name__ == "__main__":
    main()
