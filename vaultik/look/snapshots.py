"""Which snapshots are looked at, and their copies, for as long as that takes."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import IntegrityError, NoMatchingIdentityError, SelectionError
from vaultik.restore.scratch import temporary_errors
from vaultik.scratch import ScratchDirectory
from vaultik.snapshot.find import list_snapshots, read_manifest, select, with_its_size
from vaultik.snapshot.kept import KeptLayers
from vaultik.snapshot.read import fetch_snapshot
from vaultik.snapshot.signed import check_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.core.manifest import Manifest
    from vaultik.core.sshsig import Signer
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_FREE_BYTES = 256 << 20
_TIMES = 8


class Choice(NamedTuple):
    """What is looked at, and what can't be."""

    chosen: list[FoundSnapshot]
    """As they were named; all of them by source, and then by the time at which they were begun."""
    foreign: int
    """How many of all snapshots are for other identities."""
    damaged: list[IntegrityError]
    """Why others of all can't be looked at."""


def choose(
    store: Store,
    identities: Sequence[Identity],
    specs: Sequence[str] = (),
    host: str | None = None,
    signers: Sequence[Signer] | None = None,
    each: Callable[[FoundSnapshot, Manifest], None] = lambda _found, _facts: None,
) -> Choice:
    """Return the snapshots that are meant: those that are named, or else all that can be looked at.

    Args:
        store: where.
        identities: any of which may open them.
        specs: as `select` takes them.
        host: of a host alone: its name, or a source's 8 digits.
        signers: whose signature they must have, None if that doesn't matter.
        each: called with each of all that is chosen, and its manifest, by id.

    Raises:
        SelectionError: there is none; or as `select`.
        NoMatchingIdentityError: the identities open none.
        IntegrityError, SignatureError: one that is named can't be looked at, or none can.
        StoreError: the store failed.
    """
    if specs:
        named = (select(store, spec, identities, host, signers) for spec in specs)
        return Choice(list(dict.fromkeys(named)), 0, [])
    choice = Choice([], 0, [])
    for found in list_snapshots(store):
        try:
            facts = read_manifest(store, found, identities)
            one = with_its_size(store, found, facts.dbs[0][1])
            if host not in (None, facts.host, found.source8):
                continue
            if signers is not None:
                check_signed(one, facts, signers)
            choice.chosen.append(one)
            each(one, facts)
        except NoMatchingIdentityError:
            choice = choice._replace(foreign=choice.foreign + 1)
        except IntegrityError as exc:
            choice.damaged.append(exc)
    if not choice.chosen:
        _raise_none(store, choice, host)
    choice.chosen.sort(key=lambda found: (found.source8, found.name.snapshot))
    return choice


def _raise_none(store: Store, choice: Choice, host: str | None) -> None:
    if choice.damaged:
        raise choice.damaged[0]
    if choice.foreign:
        raise NoMatchingIdentityError(
            "the identity opens none of these snapshots",
            hint="give the identity whose recipient the backups were made for",
        )
    what = "no snapshot" if host is None else f"no snapshot of host {host!r}"
    raise SelectionError(f"{what} in {store.location}", hint="vaultik snapshots lists what there is")


def iter_copied(
    store: Store,
    identities: Sequence[Identity],
    snapshots: Sequence[FoundSnapshot],
    directory: Path,
    damaged: Callable[[IntegrityError], None] | None = None,
) -> Iterator[tuple[FoundSnapshot, sqlite3.Connection]]:
    """Yield copies of snapshots one after the other; each goes when the next is asked for.

    Args:
        store: where they lie.
        identities: any of which may open them.
        snapshots: which.
        directory: a private temporary one.
        damaged: told why one is left out; None to raise that.

    Raises:
        IntegrityError, NoMatchingIdentityError, StoreError, RestoreError: as `copied_to`.
    """
    kept = KeptLayers(directory / "layers")
    for found in snapshots:
        path = directory / "copy"
        try:
            copied_to(store, identities, found, directory, path, kept)
        except IntegrityError as exc:
            if damaged is None:
                raise
            damaged(exc)
        else:
            with closing(sqlite3.connect(path)) as copy:
                yield found, copy
        path.unlink(missing_ok=True)


def copied_to(
    store: Store,
    identities: Sequence[Identity],
    found: FoundSnapshot,
    directory: Path,
    copy: Path,
    kept: KeptLayers | None = None,
) -> None:
    """Copy one snapshot to a file in a private temporary directory.

    Args:
        store: where it lies.
        identities: any of which may open it.
        found: which.
        directory: the temporary directory.
        copy: where to; nothing is there yet.
        kept: as `fetch_snapshot` has it.

    Raises:
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    with temporary_errors():
        fetch_snapshot(store, found, identities, directory, copy, kept)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a private temporary directory for the time of the block.

    Raises:
        RestoreError: there is no place for it, or its disk is full, in the block as well.
    """
    with ExitStack() as stack:
        with temporary_errors():
            directory = stack.enter_context(ScratchDirectory()).path
        with sqlite_errors():
            yield directory


def size_of(copy: sqlite3.Connection, schema: str = "main") -> int:
    """Return the size of a copy in bytes."""
    (pages,) = copy.execute(f"PRAGMA {schema}.page_count").fetchone()
    (page,) = copy.execute(f"PRAGMA {schema}.page_size").fetchone()
    return int(pages * page)


def bound(db: sqlite3.Connection, copies_bytes: int) -> None:
    """Let a database of paths grow to some times the size of the copies that they come from, and no more.

    A hostile snapshot of some megabytes can have a million paths of a megabyte each. What goes beyond fails as a full disk does.
    """
    (page,) = db.execute("PRAGMA page_size").fetchone()
    most = (_FREE_BYTES + _TIMES * copies_bytes) // page
    db.execute(f"PRAGMA max_page_count = {most}")


@contextmanager
def sqlite_errors() -> Iterator[None]:
    """Name the temporary directory in what SQLite says of its disk.

    Raises:
        RestoreError: it is full, or fails.
    """
    try:
        yield
    except sqlite3.Error:
        with temporary_errors():
            raise
