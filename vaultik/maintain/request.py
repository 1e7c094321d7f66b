"""What a prune is asked to do, from the words of a command line to checked values. It looks at no store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vaultik.config.quantities import parse_duration
from vaultik.core.lease import DAY_S, GRACE_S
from vaultik.errors import ConfigError
from vaultik.maintain.keep import UNLIMITED, CalendarSpan, KeepRules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vaultik.core.sshsig import Signer

COUNTED = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
"""The rules that take a number, in the order of `KeepRules`."""
_SPAN = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?")
_MOST = 9
_LONGEST_LOCK_S = 36_500 * DAY_S
"""A hundred years, as S3 has it."""


class PruneRequest(NamedTuple):
    """What to keep, what to give up, what to trust the user with."""

    rules: KeepRules | None
    """None: everything stays that isn't given up."""
    grace_s: int
    exclusive: bool
    drop: tuple[str, ...]
    """Snapshots by id or a unique beginning."""
    forget: tuple[str, ...]
    """Sources by UUID or the 8 digits of their names."""
    allow_shrink: bool
    signers: Sequence[Signer] | None = None
    """Whose signature every snapshot must have; None if that doesn't matter."""
    lock_s: int | None = None
    """For how long after its time what a kept snapshot needs is to be locked; None: locks stay as they are."""


def parse_request(
    keep: Mapping[str, str | None],
    *,
    grace: str | None = None,
    exclusive: bool = False,
    drop: Sequence[str] = (),
    forget: Sequence[str] = (),
    allow_shrink: bool = False,
    signers: Sequence[Signer] | None = None,
    extend_lock: str | None = None,
) -> PruneRequest:
    """Return what options say. Without a rule the newest stays; who only gives something up loses nothing else.

    Args:
        keep: text by rule: those of `COUNTED`, and `within`; None or empty is not given.
        grace: a duration, None for the format's own.
        exclusive: no host is backing up to the prefix.
        drop: snapshots to give up.
        forget: sources to give up.
        allow_shrink: a snapshot may be far smaller than the one before.
        signers: whose signature every snapshot must have.
        extend_lock: a duration: how long after its time what a kept snapshot needs is to be locked.

    Raises:
        ConfigError: a value is none; it is named.
    """
    counts = {kind: _count(kind, keep.get(kind)) for kind in COUNTED}
    rules: KeepRules | None = KeepRules(**counts, within=_span(keep.get("within")))
    if rules == KeepRules():
        rules = None if drop or forget else KeepRules(last=1)
    if exclusive and grace is None:
        raise ConfigError("--exclusive: goes with --grace", hint="with the usual grace other hosts do no harm")
    for option, values in (("--drop", drop), ("--forget-source", forget)):
        if not all(values):
            raise ConfigError(f"{option}: names nothing", hint="vaultik snapshots lists ids and sources")
    return PruneRequest(
        rules,
        GRACE_S if grace is None else _grace(grace),
        exclusive,
        tuple(drop),
        tuple(forget),
        allow_shrink,
        signers,
        None if extend_lock is None else _lock(extend_lock),
    )


def _lock(text: str) -> int:
    try:
        period = parse_duration(text)
    except ValueError as exc:
        raise ConfigError(f"--extend-lock: {exc}", hint="as in 30d") from exc
    if not 0 < period <= _LONGEST_LOCK_S:
        raise ConfigError(f"--extend-lock {text}: between 1s and {_LONGEST_LOCK_S // DAY_S}d", hint="as in 30d")
    return period


def _count(kind: str, text: str | None) -> int:
    if not text:
        return 0
    if text == "unlimited":
        return UNLIMITED
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST and int(text)):
        raise ConfigError(
            f"--keep-{kind} {text}: not a number of snapshots",
            hint="1 or more, or unlimited; leave out what isn't wanted",
        )
    return int(text)


def _span(text: str | None) -> CalendarSpan | None:
    if not text:
        return None
    shape = _SPAN.fullmatch(text)
    span = CalendarSpan(*(int(number or 0) for number in shape.groups())) if shape else CalendarSpan()
    if span == CalendarSpan():
        raise ConfigError(f"--keep-within {text}: not a span", hint="one looks like 30d, 12h or 1y6m; m is months")
    return span


def _grace(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise ConfigError(f"--grace {text}: not a duration", hint="one looks like 0, 12h or 14d") from exc
