"""A file that had its owner and mode already, and couldn't get its name, is restored by the next try."""

import os
import random

import pytest

from tests.support.restores import leftovers
from tests.support.site import Site


@pytest.mark.parametrize("no_rights", [False, True])
def test_what_was_in_the_way_is_gone(tmp_path, no_rights):
    if os.geteuid():
        pytest.skip("only root gives files away")
    site = Site(tmp_path, chunk_size="64KiB", blob_size_limit="1MiB")
    site.source.mkdir()
    (site.source / "large").write_bytes(random.Random(5).randbytes(3_000_000))
    (site.source / "large").chmod(0o444)
    if not no_rights:
        os.chown(site.source / "large", 54321, 54321)
    site.backup()
    at = site.restored(tmp_path / "out")
    (at / "large/mine").mkdir(parents=True)
    site.restore(tmp_path / "out", "--force", code=1, no_rights=no_rights)
    (at / "large/mine").rmdir()
    (at / "large").rmdir()
    site.restore(tmp_path / "out", no_rights=no_rights)
    assert (at / "large").read_bytes() == (site.source / "large").read_bytes()
    assert leftovers(tmp_path / "out") == []
