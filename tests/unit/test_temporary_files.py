"""What SQLite puts aside while it sorts lies where all other temporary files do."""

import os
import subprocess
import sys

SCRIPT = """
import contextlib, os, sys
assert "sqlite3" not in sys.modules
from vaultik.cli.main import main
sys.argv = ["vaultik", "--version"]
with contextlib.suppress(SystemExit):
    main()
import sqlite3
db = sqlite3.connect(":memory:")
db.execute("PRAGMA temp_store = FILE")
db.execute("PRAGMA cache_size = 10")
many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT i, hex(randomblob(20)) AS h FROM n"
rows = db.execute(f"SELECT * FROM ({many}) ORDER BY h")
next(rows)
print([os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")])
"""


def test_sqlite_sorts_in_the_temporary_directory():
    """By itself it would take /var/tmp."""
    names = ("SQLITE_TMPDIR", "TMPDIR", "TEMP", "TMP")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert "'/tmp/etilqs_" in done.stdout
