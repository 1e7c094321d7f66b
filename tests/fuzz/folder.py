"""A folder in memory for targets that read files; it goes when the process does."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def private_folder():
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="vaultik-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
