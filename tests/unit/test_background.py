"""A daemon's end after it was ready: told in its log, and written to nobody's file."""

import subprocess
import sys
import time

SCRIPT = """
import os, sys
from pathlib import Path
from vaultik.daemon import background, log
from vaultik.errors import VaultikError

victim, lines = map(Path, sys.argv[1:])
logger = log.to_file(lines)

def serve(ready):
    ready()
    for _ in range(8):
        os.open(victim, os.O_CREAT | os.O_RDWR, 0o600)
    raise VaultikError("FUSE ended it")

background.start(serve, keep=log.descriptors(logger))
"""


def test_what_fails_later_is_logged_and_written_nowhere_else(tmp_path):
    victim, lines = tmp_path / "victim", tmp_path / "log"
    subprocess.run([sys.executable, "-c", SCRIPT, victim, lines], check=True, timeout=60)
    until = time.monotonic() + 20
    while not lines.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert lines.read_text().endswith(" ERROR FUSE ended it\n")
    assert victim.read_bytes() == b""
