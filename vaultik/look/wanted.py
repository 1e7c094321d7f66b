"""What somebody looks for: a name, a path, a size, a time, a type. Texts are parsed here; nothing else is known."""

from __future__ import annotations

import datetime
import fnmatch
import re
from typing import TYPE_CHECKING, NamedTuple

from vaultik.config.quantities import parse_duration, parse_size
from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NS = 1_000_000_000
_TYPES = "fdlpscb"
_MOST = (1 << 63) - 1
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Wanted(NamedTuple):
    """What an entry must be."""

    pattern: re.Pattern[str]
    """Of its name or path, with stray bytes as Python has them (surrogateescape)."""
    whole_path: bool
    types: str
    """Any of these letters of FORMAT.md."""
    size: tuple[int, int]
    """At least and at most, bytes. Of regular files, unless it is all there may be."""
    mtime_ns: tuple[int, int]
    """At least and at most."""

    @property
    def any_size(self) -> bool:
        """Whether the size doesn't matter."""
        return self.size == (0, _MOST)

    def fits(self, text: bytes) -> bool:
        """Tell whether a name fits, or a path."""
        return self.pattern.search(text.decode("utf-8", "surrogateescape")) is not None


def parse_wanted(
    patterns: Sequence[bytes],
    *,
    is_regex: bool = False,
    whole_path: bool = False,
    ignore_case: bool = False,
    types: str | None = None,
    sizes: Sequence[str] = (),
    newer: str | None = None,
    older: str | None = None,
    now: float = 0.0,
) -> Wanted:
    """Return what is wanted.

    Args:
        patterns: what was typed, and what else it may mean; any of them may fit.
        is_regex: they are regular expressions, found anywhere; otherwise globs of a whole name.
        whole_path: of the path instead of the name. So is a glob with a slash in it, as no name has one.
        ignore_case: take A for a.
        types: letters, with or without commas between.
        sizes: `+1MB`: so much or more, `-1MB`: so much or less, `1MB`: exactly.
        newer: modified at this time or later: `2026-11-23`, `2026-11-23T08:15` (UTC), or `7d` before now.
        older: modified before.
        now: seconds since 1970.

    Raises:
        ConfigError: one of them isn't that.
    """
    whole_path = whole_path or (not is_regex and any(b"/" in pattern for pattern in patterns))
    texts = [pattern.decode("utf-8", "surrogateescape") for pattern in patterns]
    if whole_path and not is_regex:
        # Every path begins with a slash; what begins with a wildcard may take it in.
        texts = [text if text.startswith(("/", "*", "?", "[")) else f"/{text}" for text in texts]
    alternatives = texts if is_regex else [fnmatch.translate(text) for text in texts]
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    try:
        # A glob holds from the beginning; a regular expression anywhere.
        pattern = re.compile("|".join(f"(?:{'' if is_regex else '^'}{text})" for text in alternatives), flags)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ConfigError(f"pattern {texts[0]!r}: {exc}", hint="--regex takes Python's regular expressions") from exc
    # What SQLite's numbers don't reach no entry has.
    least_ns = -_MOST if newer is None else max(min(_parse_time("--newer", newer, now), _MOST), -_MOST)
    most_ns = _MOST if older is None else max(min(_parse_time("--older", older, now) - 1, _MOST), -_MOST)
    return Wanted(pattern, whole_path, _parse_types(types), _parse_sizes(sizes), (least_ns, most_ns))


def _parse_types(types: str | None) -> str:
    letters = _TYPES if types is None else types.replace(",", "")
    if not letters or set(letters) - set(_TYPES):
        raise ConfigError(
            f"--type {types}: not a type",
            hint="f file, d directory, l symlink, p FIFO, s socket, c character device, b block device",
        )
    return letters


def _parse_sizes(sizes: Sequence[str]) -> tuple[int, int]:
    least, most = 0, _MOST
    for text in sizes:
        try:
            size = parse_size(text.removeprefix("+").removeprefix("-"))
        except ValueError as exc:
            raise ConfigError(f"--size {text}: {exc}", hint="+1MB is that much or more, -1MB or less") from exc
        least = least if text.startswith("-") else max(least, size)
        most = most if text.startswith("+") else min(most, size)
    return least, most


def _parse_time(option: str, text: str, now: float) -> int:
    """Return a time in nanoseconds since 1970."""
    try:
        return int(now - parse_duration(text)) * _NS
    except ValueError:
        pass
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(
            f"{option} {text}: not a time", hint="2026-11-23, 2026-11-23T08:15 (UTC), or 7d: ago"
        ) from exc
    time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    return (time - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
