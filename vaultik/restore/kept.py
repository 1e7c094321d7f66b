"""Which attributes a restore gives back, and in whose names. What is left out is neither set nor compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import ConfigError
from vaultik.restore.owners import Owners, parse_owners

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def parse_kept(
    users: Sequence[str], groups: Sequence[str], without: Sequence[str], *, numeric: bool, no_owner: bool
) -> Kept:
    """Return what the options say.

    Args:
        users: as `parse_owners`.
        groups: likewise.
        without: classes that are left out, one or several with commas between them in each.
        numeric: as `parse_owners`.
        no_owner: the owner is left out too.

    Raises:
        ConfigError: one can't be read, or they contradict each other.
    """
    left_out = {part.strip() for text in without for part in text.split(",")} | ({OWNER} if no_owner else set())
    for name in sorted(left_out):
        if name not in CLASSES:
            raise ConfigError(f"--without {name}: no class of attributes", hint=f"one of {', '.join(CLASSES)}")
    if OWNER in left_out and (numeric or users or groups):
        raise ConfigError("--no-owner: leaves nothing to map or number", hint="give one or the other")
    return Kept(parse_owners(users, groups, numeric=numeric), frozenset(left_out))
