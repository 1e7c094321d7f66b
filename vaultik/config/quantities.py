"""Sizes and durations as people write them."""

from __future__ import annotations

import re

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_SIZE = re.compile(r"(\d+)\s*(B|[kKMGT]B|[KMGT]iB)?")
_SIZE_UNITS = (
    {"B": 1}
    | {f"{p}B": 1000**n for n, p in enumerate("kMGT", 1)}
    | {"KB": 1000}
    | {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
)
_DURATION = re.compile(r"(\d+)\s*(s|m|h|d)?")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Size(int):
    """A number of bytes, written `10MB` (10^7) or `10MiB` (10 x 2^20)."""


class Duration(int):
    """A number of seconds, written `90s`, `15m`, `24h`, `7d` or `0`."""


def parse_size(text: str | int) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: it isn't one.
    """
    shape = _SIZE.fullmatch(str(text).strip())
    if shape is None or isinstance(text, bool):
        raise ValueError(f"not a size: {text!r}; sizes look like 10MB or 10MiB")
    factor: int = _SIZE_UNITS[shape[2] or "B"]
    return int(shape[1]) * factor


def parse_duration(text: str | int) -> int:
    """Return a duration in seconds.

    Raises:
        ValueError: it isn't one.
    """
    shape = _DURATION.fullmatch(str(text).strip())
    if shape is None or isinstance(text, bool) or (shape[2] is None and int(shape[1])):
        raise ValueError(f"not a duration: {text!r}; durations look like 90s, 15m, 24h, 7d or 0")
    return int(shape[1]) * _DURATION_UNITS[shape[2] or "s"]
