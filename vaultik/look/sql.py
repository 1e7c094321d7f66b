"""Queries over copied snapshots: read, and nothing else.

A query may come from anywhere, and a snapshot from anybody. So it gets the copies read only, an authorizer lets it select and call
functions, no file can be attached, no extension loaded, no value be larger than 64 MiB; and a signal ends it between two steps.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from vaultik import interrupts
from vaultik.errors import ConfigError
from vaultik.look.snapshots import copied_to, scratch_directory
from vaultik.look.views import NAMES, add_functions, add_views
from vaultik.restore.scratch import temporary_errors
from vaultik.snapshot.kept import KeptLayers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

MOST_SNAPSHOTS = 10
"""SQLite attaches no more."""
_LARGEST_VALUE = 1 << 20
"""What one function makes of values is not to be interrupted: it has to be over in seconds."""
_STEPS = 10_000
_ROWS = 100
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
_FORBIDDEN = ("load_extension", "fts3_tokenizer")


class Queries:
    """Copied snapshots, attached as s1, s2, ... in a connection that can only read them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Take a connection to which they are attached, and restrain it."""
        self._db = db
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.execute("PRAGMA query_only = ON")
        db.set_authorizer(_only_selects)
        db.set_progress_handler(_is_interrupted, _STEPS)

    def run(self, query: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Run one query. Returns the names of its columns, and its rows as they come.

        Raises:
            ConfigError: it is none, or does something else than select; as the rows come, too.
            RestoreError: the temporary directory's disk is full.
            KeyboardInterrupt: a signal came.
        """
        with _query_errors(), interrupts.deferred():
            cursor = self._execute(query)
        if cursor.description is None:
            raise ConfigError("query: it selects nothing", hint="one SELECT, or WITH ... SELECT")
        return [column[0] for column in cursor.description], self._rows(cursor)

    def _execute(self, query: str) -> sqlite3.Cursor:
        try:
            return self._db.execute(query)
        except sqlite3.OperationalError as exc:
            _raise_interrupt()
            if str(exc).startswith("no such table"):
                hint = f"there are: {', '.join(NAMES)}; of several snapshots s1.files, s2.files ..."
                raise ConfigError(f"query: {exc}", hint=hint) from exc
            raise

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        while True:
            with _query_errors(), interrupts.deferred():
                try:
                    rows = cursor.fetchmany(_ROWS)
                except sqlite3.OperationalError:
                    _raise_interrupt()
                    raise
            if not rows:
                return
            yield from rows


@contextmanager
def open_for_queries(
    store: Store, identities: Sequence[Identity], snapshots: Sequence[FoundSnapshot]
) -> Iterator[Queries]:
    """Copy snapshots and attach them as s1, s2, ... for the time of the block.

    Names without one of these stand for the first that has them, so for s1.

    Raises:
        ConfigError: too many.
        IntegrityError, NoMatchingIdentityError, StoreError: as `fetch_snapshot`.
        RestoreError: the temporary directory's disk is full.
    """
    if len(snapshots) > MOST_SNAPSHOTS:
        raise ConfigError(
            f"{len(snapshots)} snapshots: at most {MOST_SNAPSHOTS} can be asked at once",
            hint="vaultik find looks into any number of them",
        )
    with scratch_directory() as directory, ExitStack() as stack:
        db = stack.enter_context(closing(sqlite3.connect("file::memory:", uri=True, isolation_level=None)))
        copies = []
        kept = KeptLayers(directory / "layers")
        for number, found in enumerate(snapshots, 1):
            copy = directory / f"s{number}"
            copied_to(store, identities, found, directory, copy, kept)
            add_views(copy, number)
            uri = f"{copy.as_uri()}?mode=ro&immutable=1"
            copies.append(stack.enter_context(closing(sqlite3.connect(uri, uri=True))))
            db.execute(f"ATTACH ? AS s{number}", (uri,))
        add_functions(db, copies)
        yield Queries(db)


@contextmanager
def _query_errors() -> Iterator[None]:
    """Name the query in what SQLite says of it."""
    try:
        with temporary_errors():
            yield
    except (sqlite3.Error, sqlite3.Warning) as exc:
        reason = str(exc)
        if "not authorized" in reason or "prohibited" in reason:
            raise ConfigError(f"query: {reason}: it may only select", hint="what is stored never changes") from exc
        raise ConfigError(
            f"query: {reason}", hint="one statement of SQLite's SELECT; docs/looking.md has examples"
        ) from exc


def _raise_interrupt() -> None:
    """Raise what came, if a signal has ended the statement."""
    with interrupts.allowed():
        pass


def _is_interrupted() -> int:
    try:
        interrupts.check()
    except KeyboardInterrupt:
        return 1
    return 0


def _only_selects(action: int, _first: str | None, second: str | None, _db: str | None, _by: str | None) -> int:
    if action in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
