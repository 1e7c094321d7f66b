"""What is tested is pinned: every dependency is locked, with a hash, at a version that pyproject.toml allows."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
FILES = ("build", "dev", "runtime", "tools")


def locked(name):
    """The requirements of a lock by name, each with the hashes that stand below it."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / f"requirements/{name}.txt").read_text(), flags=re.MULTILINE)
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split(" --hash=")
        requirement = Requirement(requirement)
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, [h.strip() for h in hashes]))
    return found


def holds(requirement, python):
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("build", PROJECT["build-system"]["requires"]),
        ("runtime", RUNTIME),
        ("dev", [*RUNTIME, *EXTRAS["test"], *EXTRAS["dev"]]),
        ("tools", (ROOT / "requirements/tools.in").read_text().splitlines()[1:]),
    ],
)
def test_every_dependency_is_locked_at_one_version_that_it_may_have(name, wanted, python):
    lock = locked(name)
    assert wanted
    for text in wanted:
        dependency = Requirement(text)
        if holds(dependency, python):
            fitting = [r for r, _ in lock[canonicalize_name(dependency.name)] if holds(r, python)]
            (version,) = [spec.version for r in fitting for spec in r.specifier]
            assert dependency.specifier.contains(version, prereleases=True), (text, version)


@pytest.mark.parametrize("name", FILES)
def test_what_is_locked_is_one_version_with_hashes_and_names_no_place(name):
    lock = locked(name)
    assert lock
    for entries in lock.values():
        for requirement, hashes in entries:
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
            assert hashes
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", found) for found in hashes), requirement
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|-f |file:|/(tmp|root|home|work)/", text)


def test_what_runs_is_what_is_tested():
    runtime, dev = locked("runtime"), locked("dev")
    assert runtime.items() <= dev.items()
    for name in locked("build").keys() & dev.keys():
        assert locked("build")[name] == dev[name]


AUDITS = {
    "sound": ({"name": "good", "version": "1", "vulns": []}, 0, "1 packages, nothing known"),
    "known": (
        {"name": "bad", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
        1,
        "bad 1: X-1, fixed in 2",
    ),
    "unknown": ({"name": "odd", "skip_reason": "not found"}, 1, "told nothing of 1 of 1 packages: not found"),
    "unreachable": (None, 1, "can't be reached, nothing was looked up: ERROR: no way"),
}


@pytest.mark.parametrize("case", AUDITS)
def test_an_audit_calls_sound_only_what_was_looked_up(tmp_path, case):
    """pip-audit itself says "No known vulnerabilities found" of what its service doesn't know."""
    package, code, words = AUDITS[case]
    report, given = tmp_path / "report.json", tmp_path / "given.json"
    report.write_text("of an earlier run")
    given.write_text(json.dumps({"dependencies": [package]}))
    program = tmp_path / "pip-audit"
    end = "echo noise >&2; echo ERROR: no way >&2; exit 1" if package is None else f"cp {given} {report}"
    program.write_text(f"#!/bin/sh\n{end}\n")
    program.chmod(0o700)
    script = [sys.executable, ROOT / "requirements/audit.py", program, report]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == code
