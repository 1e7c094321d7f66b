"""What a run makes sure of at its beginning: that the index is sound, and what it may rely on in its store."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from vaultik.config.secret import secret_access_key
from vaultik.errors import LocalIndexError
from vaultik.index import chunks, db, runs, state
from vaultik.index.db import mapped, transaction
from vaultik.shown import plural
from vaultik.store.open import open_store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from vaultik.backup.reconcile import Reliance
    from vaultik.backup.session import Session
    from vaultik.config import S3
    from vaultik.store.base import Store
    from vaultik.store.pace import Pace


def ensure_sound_index(session: Session) -> None:
    """Check the index after an unclean end; a damaged one is moved aside, so that a fresh one is made.

    Raises:
        LocalIndexError: it can't be used, and is not damaged.
    """
    path = session.config.index_path
    try:
        index = session.index()
        with mapped(path):
            sound = not runs.was_interrupted(index) or db.quick_check(index)
    except LocalIndexError as exc:
        if exc.__cause__ is None or not db.is_damage(exc.__cause__):
            raise
        sound = False
    if not sound:
        session.close()
        aside = db.move_aside(path)
        session.emit(
            notice=f"the index was damaged; it is kept as {aside}, a fresh one is built (a full upload at worst)"
        )


def bind_store(session: Session) -> None:
    """Tie the index to the store, and forget what can't be relied on in it, saying why.

    Raises:
        StoreError: the store couldn't be listed.
    """
    index, store = session.index(), session.store()
    with transaction(index):
        moved = state.bind_location(index, store.location)
        if moved and session.put_only:
            # Nothing tells what this store holds.
            chunks.forget_blobs(index, [blob.id for blob in chunks.iter_uploaded(index)])
    found = session.reconcile()
    if moved:
        session.emit(notice="another store than last time: everything that isn't there is uploaded")
    if found.outdated:
        session.emit(
            notice=f"the recipients changed: {plural(found.outdated, 'blob')} to be sealed again, for all of them"
        )
    if found.expired and not found.superseded:
        session.emit(notice=f"{plural(found.expired, 'blob')} uploaded too long ago to be relied on: sealed again")
    with transaction(index):
        for text in _warnings(found, store.location, moved=moved):
            runs.add_problem(index, session.run, runs.WARNING, b"", text)


def open_bound_store(index: sqlite3.Connection, s3: S3, pace: Pace | None) -> Store:
    """Return the store that a config names; made if it is a directory, and only where nothing can be there yet.

    Raises:
        ConfigError: the endpoint or the bucket can't be one, or the credential's file can't be read.
    """
    open_it = functools.partial(
        open_store,
        s3.endpoint,
        s3.bucket,
        s3.prefix,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key=secret_access_key(s3),
        put_only=s3.access == "put_only",
        checksums=s3.checksums,
        lock=(s3.lock.mode, s3.lock.days) if s3.lock else None,
        addressing=s3.addressing,
        pace=pace,
    )
    store = open_it(create=False)
    if state.get_base(index) is not None and state.get_state(index, "location") == store.location:
        return store
    # Elsewhere a disk isn't mounted.
    return open_it(create=True)


def _warnings(found: Reliance, location: str, *, moved: bool) -> Iterator[str]:
    """Yield what a person has to know, also one who only sees what cron sends."""
    if found.lost and not moved:
        yield f"{plural(found.lost, 'blob')} no longer in {location}: what was stored in them is uploaded again"
    if found.superseded:
        yield (
            "another copy of this host (a clone, or this one before it was rolled back) has written snapshots since its"
            " last one: what a prune may be freeing is uploaded again"
        )
