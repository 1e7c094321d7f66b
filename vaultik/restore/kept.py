"""Which attributes a restore gives back, and in whose names. What is left out is neither set nor compared."""

from __future__ import annotations

from typing import NamedTuple

from vaultik.restore.owners import Owners

OWNER = "owner"
MODE = "mode"
TIMES = "times"
XATTRS = "xattrs"
ACLS = "acls"
FLAGS = "flags"

CLASSES = (OWNER, MODE, TIMES, XATTRS, ACLS, FLAGS)
"""What can be left out. An ACL is a part of the mode and goes with it; file capabilities are xattrs."""


class Kept(NamedTuple):
    """What a restore keeps."""

    owners: Owners = Owners()
    without: frozenset[str] = frozenset()
    """Classes that are left out: those files get what any new file gets, those that are there keep what they have."""

    def has(self, what: str) -> bool:
        """Tell whether a class is given back."""
        return what not in self.without and not (what == ACLS and MODE in self.without)
