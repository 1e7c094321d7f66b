"""What a person asked a restore for, and the parts of one that are made accordingly."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.errors import ConfigError, RestoreError, SelectionError
from vaultik.restore import plan
from vaultik.restore.attributes import AttributeWriter
from vaultik.restore.kept import TIMES, Kept
from vaultik.restore.likeness import Likeness
from vaultik.restore.state import STATE
from vaultik.restore.sweep import Sweeper, spared_inodes
from vaultik.restore.target import Target
from vaultik.snapshot.read import get_meta
from vaultik.snapshot.tree import ROOT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vaultik.core.sshsig import Signer
    from vaultik.restore.state import Begun
    from vaultik.store.base import Store

_EVERYTHING = Kept()


class Asked(NamedTuple):
    """What was asked for."""

    target: Path
    """Directory to restore into."""
    spec: str
    """Which snapshot (`snapshot.find.select`)."""
    host: str | None = None
    """For `latest` where a prefix holds several."""
    include: Sequence[str] = ()
    """Patterns of what is wanted; none is all."""
    exclude: Sequence[str] = ()
    """Patterns of what isn't."""
    force: bool = False
    """Restore into a directory that isn't empty: what is equal stays, what differs is replaced."""
    delete: bool = False
    """Remove what the snapshot doesn't have, among what is wanted."""
    checksum: bool = False
    """Tell what is equal by its bytes, not by size and time."""
    identities: Sequence[Path] = ()
    """The files of the identities in use, which are never removed."""
    signers: Sequence[Signer] | None = None
    """Whose signature the snapshot must have; None if that doesn't matter."""
    keeps: Kept = _EVERYTHING
    """Which attributes are given back, and in whose names; it may change between two tries, as how what is there is treated."""
    salvage: bool = False
    """Keep what can be read of damaged files, under other names."""

    def check(self) -> None:
        """Check that it makes sense.

        Raises:
            ConfigError: it doesn't.
        """
        if self.delete and not self.force:
            raise ConfigError(
                "--delete: removes what is in TARGET, so it needs --force",
                hint="look first with --force --delete --dry-run",
            )

    def choice(self, location: str) -> dict[str, Any]:
        """Return what another try must ask for to go on; how it treats what is there may change."""
        return {
            "store": location,
            "snapshot": self.spec,
            "host": self.host,
            "include": list(self.include),
            "exclude": list(self.exclude),
            # What was fetched without a look at who signed it, or with others to believe, is not what is asked for.
            **({} if self.signers is None else {"signers": hashlib.sha256(repr(self.signers).encode()).hexdigest()}),
        }

    def check_names(self, names: set[str]) -> None:
        """Check that a restore may begin in a directory that has these names in it.

        Raises:
            RestoreError: it isn't empty.
        """
        if names - {STATE} and not self.force:
            raise RestoreError(
                f"target {self.target}: not empty",
                hint="name an empty or new directory, or pass --force to update this one",
            )

    def check_complete(self, copy: sqlite3.Connection) -> None:
        """Check that a snapshot tells what may be removed, if anything shall be.

        Raises:
            SelectionError: it doesn't.
        """
        meta = get_meta(copy)
        if self.delete and not meta["complete"]:
            raise SelectionError(
                f"snapshot {meta['snapshot']}: of a backup that had not ended, so it doesn't tell what may be removed",
                hint="restore it without --delete, or take a complete one",
            )

    def make_plan(
        self, copy: sqlite3.Connection, narrow: Callable[[sqlite3.Connection], None] = lambda _copy: None
    ) -> None:
        """Plan in a copied snapshot to restore what is asked for, `narrow` as `plan.make_plan` has it.

        Raises:
            ConfigError, SelectionError: as `plan.make_plan`, `check_complete`.
        """
        self.check_complete(copy)
        plan.make_plan(copy, ROOT, include=self.include, exclude=self.exclude, narrow=narrow)

    def open_target(
        self, copy: sqlite3.Connection, store: Store, begun: Begun | None, likeness: Likeness, home: Path | None = None
    ) -> Target:
        """Open the target; without `force` only what this restore itself left may be replaced.

        Args:
            copy: the copied snapshot and its plan.
            store: where it comes from.
            begun: what was begun there.
            likeness: what compares.
            home: the target as it was found first, if it was: its path may lead elsewhere by now.

        Raises:
            RestoreError: it can't be opened.
        """
        token = begun.token if begun is not None else ""
        if not self.force:
            return Target(copy, home or self.target, ROOT, token, may_replace=likeness.is_ours)
        target = Target(copy, home or self.target, ROOT, token)
        target.empty = self.sweeper(copy, store, target).empty
        return target

    def likeness(self, copy: sqlite3.Connection, begun: Begun | None, times: Callable[[int], int]) -> Likeness:
        """Return what compares; by bytes, if that is asked for or what is there may not be what was written."""
        deep = self.checksum or (begun is not None and begun.is_in_doubt)
        return Likeness(copy, times, deep=deep, any_time=not self.keeps.has(TIMES))

    def attributes(self, copy: sqlite3.Connection) -> AttributeWriter:
        """Return what sets attributes, and compares them."""
        return AttributeWriter(copy, self.keeps)

    def sweeper(self, copy: sqlite3.Connection, store: Store, target: Target) -> Sweeper:
        """Return what removes leftovers and, with `delete`, what the snapshot doesn't have.

        Raises:
            SelectionError: as `check_complete`; `delete` may have been given only when a restore goes on.
        """
        self.check_complete(copy)
        selection = plan.Selection(self.include, self.exclude) if self.delete else None
        return Sweeper(copy, target, selection, spare=STATE.encode(), spared=spared_inodes(store, self.identities))
