"""Values of a config that are more than a number: commands, addresses to tell, limits by the time of day.

Each parser takes what YAML gave and raises a ValueError that shows nothing of the value where it may
hold a secret: the caller knows the key and its line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from vaultik.config.quantities import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

MINUTES_A_DAY = 1440
_WINDOW = re.compile(r"(\d{1,2}):([0-5]\d)\s*-\s*(\d{1,2}):([0-5]\d)")
_LEAST_RATE = 1000
_EVENTS = ("start", "success", "failure")
_SUFFIXES = {"start": "/start", "success": "", "failure": "/fail"}


class Command(tuple[str, ...]):
    """A program and its arguments; a line for the shell is `/bin/sh -c LINE`."""

    __slots__ = ()


class Notify(dict[str, str]):
    """The URL for each of the events start, success and failure that somebody wants to be told of."""


class Window(NamedTuple):
    """A time of day, in local minutes after midnight, and the bytes per second that hold in it."""

    start: int
    stop: int
    rate: int

    def holds(self, minute: int) -> bool:
        """Tell whether a minute of the day lies in it; one that begins later than it ends goes over midnight."""
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop


class UploadLimit(tuple[Window, ...]):
    """Bytes per second by the time of day; a time that is in no window has no limit."""

    __slots__ = ()

    def rate_at(self, minute: int) -> int | None:
        """Return the limit at a minute of the day, bytes per second, None for none."""
        return next((window.rate for window in self if window.holds(minute)), None)


def parse_command(value: Any) -> Command:
    """Return a command: a list of words, or a line for the shell.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.strip():
        return Command(["/bin/sh", "-c", value])
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value) and value[0]:
        return Command(value)
    raise ValueError("not a command: a line for the shell, or a list of words in quotes: [program, argument]")


def parse_notify(value: Any) -> Notify:
    """Return whom to tell: one URL by healthchecks' convention, or one for each event.

    Raises:
        ValueError: it is neither, or no http URL.
    """
    if isinstance(value, str):
        return Notify({event: _with_suffix(_url(value), suffix) for event, suffix in _SUFFIXES.items()})
    if not isinstance(value, dict) or not value:
        raise ValueError("neither a URL nor a section of start, success and failure")
    for event, url in value.items():
        if event not in _EVENTS:
            raise ValueError(f"{event} is no event; known here: {', '.join(_EVENTS)}")
        if not isinstance(url, str):
            raise ValueError(f"{event} is no URL; it begins with https://")  # noqa: TRY004 - msgspec reports ValueErrors
    return Notify({event: _url(url) for event, url in value.items()})


def parse_upload_limit(value: Any) -> UploadLimit:
    """Return a limit: a size per second, or one for each time of day.

    Raises:
        ValueError: it is neither, or two times of day overlap.
    """
    if not isinstance(value, dict):
        return UploadLimit([Window(0, MINUTES_A_DAY, _rate(value))])
    windows = UploadLimit(_windows(value))
    for minute in range(MINUTES_A_DAY):
        if sum(window.holds(minute) for window in windows) > 1:
            raise ValueError(f"two times of day hold at {minute // 60:02}:{minute % 60:02}; let them not overlap")
    return windows


def _windows(value: dict[Any, Any]) -> Iterator[Window]:
    for text, rate in value.items():
        shape = _WINDOW.fullmatch(str(text).strip())
        if shape is None:
            raise ValueError(f"not a time of day: {text!r}; they look like 08:00-18:00")
        start, stop = (int(shape[n]) * 60 + int(shape[n + 1]) for n in (1, 3))
        if start >= MINUTES_A_DAY or stop > MINUTES_A_DAY or start == stop:
            raise ValueError(f"not a time of day: {text!r}; from 00:00 to 24:00, and not of no length")
        yield Window(start, stop, _rate(rate))


def _rate(value: Any) -> int:
    if not isinstance(value, str | int):
        raise ValueError(f"not a size per second: {value!r}; it looks like 2MB")  # noqa: TRY004 - as above
    rate = parse_size(value.removesuffix("/s") if isinstance(value, str) else value)
    if rate < _LEAST_RATE:
        raise ValueError("less than 1kB a second; left out, there is no limit")
    return rate


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("not a URL; it begins with https:// (it is not shown: a secret may stand in it)")
    return text


def _with_suffix(url: str, suffix: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix)) if suffix else url
