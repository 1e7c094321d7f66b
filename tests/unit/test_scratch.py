"""Temporary directories hold names in the clear: they go at the end, and after a kill with the next."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from vaultik.scratch import ScratchDirectory

KILLED = """
import os, signal
from vaultik.scratch import ScratchDirectory
scratch = ScratchDirectory()
(scratch.path / "names").write_text("secret")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def where(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_private_and_goes_at_the_end(where):
    with ScratchDirectory() as scratch:
        assert scratch.path.parent == where
        assert scratch.path.stat().st_mode & 0o777 == 0o700
        (scratch.path / "file").touch()
    assert list(where.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(where):
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(where.glob("*/names"))) == 1
    with ScratchDirectory() as scratch:
        assert list(where.iterdir()) == [scratch.path]


def test_one_in_use_stays_and_so_does_what_is_not_ours(where):
    (where / ".vaultik-scratch-link").symlink_to(where)
    (where / "vaultik-files").mkdir()
    with ScratchDirectory() as first:
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            with ScratchDirectory():
                assert first.path.exists()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert sorted(path.name for path in where.iterdir()) == [".vaultik-scratch-link", "vaultik-files"]


def test_one_that_another_swept_before_it_was_locked_is_made_again(monkeypatch):
    make = tempfile.mkdtemp
    made = []

    def swept(**options):
        made.append(make(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with ScratchDirectory() as scratch:
        assert str(scratch.path) == made[1]
        assert scratch.path.exists()
