"""Look the locked packages up among the known vulnerabilities, by pip-audit.

    audit.py PIP_AUDIT REPORT [ARGUMENT...]

pip-audit ends with 0 and "No known vulnerabilities found" also where the service knows none of the packages, and with
1 for what it found and for what it could not ask alike. Here only what was looked up, all of it, is called sound.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn


def main(pip_audit: str, report: str, *arguments: str) -> None:
    """Run it and tell what came of it; exits with 1 unless every package was looked up and nothing is known of any."""
    path = Path(report)
    path.unlink(missing_ok=True)
    command = [pip_audit, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-o", report]
    done = subprocess.run([*command, *arguments], stderr=subprocess.PIPE, text=True, check=False)
    if not path.exists():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line for line in said if line.startswith("ERROR:")), said[-1])
        _fail(f"the advisory service can't be reached, nothing was looked up: {reason}")
    packages = json.loads(path.read_text())["dependencies"]
    missed = [package for package in packages if "skip_reason" in package]
    known = [line for package in packages for line in _known(package)]
    print(*known, sep="\n", end="\n" * bool(known))
    if missed:
        _fail(
            f"the advisory service told nothing of {len(missed)} of {len(packages)} packages: {missed[0]['skip_reason']}"
        )
    if known:
        _fail(f"known vulnerabilities: {len(known)}")
    print(f"audit: {len(packages)} packages, nothing known of any")


def _known(package: dict[str, Any]) -> list[str]:
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'nothing'}"
        for found in package.get("vulns", ())
    ]


def _fail(message: str) -> NoReturn:
    sys.exit(f"audit: {message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
