"""Ids of snapshots and sources, as FORMAT.md ("Names") writes them."""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets

from vaultik.errors import FormatError
from vaultik.model import SnapshotId

_TIME = "%Y%m%dT%H%M%SZ"
_SHAPE = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")


def new_snapshot_id(now: float, previous: SnapshotId | None) -> SnapshotId:
    """Return an id for a snapshot begun at `now` (seconds since 1970).

    Its time part is later than that of `previous`, even if the clock went back.
    """
    at = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    if previous is not None:
        at = max(at, parse_snapshot_id(previous) + datetime.timedelta(seconds=1))
    return SnapshotId(f"{at.strftime(_TIME)}-{secrets.token_hex(4)}")


def parse_snapshot_id(text: str) -> datetime.datetime:
    """Return the UTC time in a snapshot's id.

    Raises:
        FormatError: it isn't one.
    """
    shape = _SHAPE.fullmatch(text)
    try:
        if shape is None:
            raise ValueError(text)
        return datetime.datetime.strptime(shape[1], _TIME).replace(tzinfo=datetime.UTC)
    except ValueError as exc:
        raise FormatError(f"{text!r} is not a snapshot id") from exc


def source8(source_uuid: str) -> str:
    """Return the part of object names that tells sources apart: 8 hex digits of the UUID's SHA-256."""
    return hashlib.sha256(source_uuid.encode()).hexdigest()[:8]
