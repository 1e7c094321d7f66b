r"""The rules of .gitignore (gitignore(5)), asked for one path at a time by a walk that goes into nothing it leaves out.

A pattern fits a path by itself, never by what lies above it: whoever walks doesn't go below a directory
that is left out. (Libraries answer for a path with all that is above it; a pattern that takes a directory
in again then takes in what earlier ones left out below it, which git does not.) Paths are relative to where
the patterns are anchored, of any bytes as `os.fsdecode` gives them; `?` is a character (to git, a byte).

    foo      at any level        /foo, a/foo   anchored         foo/   directories only
    *  ?     within a name       **/  /**/     any directories  /**    everything below
    [a-z]    one of these        !foo          not after all    \x     x itself
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER = "(?!)"
_POSIX = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t-\\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_CLASS = re.compile(r"\[(?P<not>[!^]?)(?P<items>\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", re.DOTALL)
_ITEM = re.compile(r"\[:(?P<posix>\w+):\]|(?P<low>\\.|.)(?:-(?P<high>\\.|[^\]]))?", re.DOTALL)


class _Rule(NamedTuple):
    fits: re.Pattern[str]
    directories_only: bool
    takes: bool
    """False for a pattern with `!`."""


class IgnoreRules:
    """A list of patterns; the last one that fits a path decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Compile patterns.

        Raises:
            ConfigError: one can never fit anything; it is named.
        """
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._any = re.compile("|".join(f"(?:{rule.fits.pattern})" for rule in self._rules) or _NEVER, re.DOTALL)
        self._rules.reverse()

    def fits(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether the patterns take a path (without a slash at either end)."""
        if self._any.fullmatch(path) is None:
            return False
        for rule in self._rules:
            if (is_directory or not rule.directories_only) and rule.fits.fullmatch(path):
                return rule.takes
        return False


def _rule(line: str) -> _Rule | None:
    pattern = _without_trailing_spaces(line)
    if not pattern or pattern.startswith("#"):
        return None
    takes = not pattern.startswith("!")
    pattern = pattern if takes else pattern[1:]
    directories_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    anchored = "/" in pattern
    names = pattern.removeprefix("/").split("/")
    try:
        if names == [""]:
            raise ValueError("nothing is left of it")
        expression = ("" if anchored else "(?:.*/)?") + _names(names)
        return _Rule(re.compile(expression, re.DOTALL), directories_only, takes)
    except (ValueError, re.error) as exc:
        raise ConfigError(
            f"pattern {line!r}: can never fit: {exc}", hint="patterns follow the rules of .gitignore"
        ) from exc


def _without_trailing_spaces(line: str) -> str:
    text = line.rstrip("\r\n")
    bare = text.rstrip(" ")
    escaped = len(bare) < len(text) and (len(bare) - len(bare.rstrip("\\"))) % 2
    return f"{bare} " if escaped else bare


def _names(names: list[str]) -> str:
    parts = []
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name != "**":
            parts.append(_glob(name) + ("" if last else "/"))
        else:
            parts.append(".+" if last else "(?:.*/)?")
    return "".join(parts)


def _glob(name: str) -> str:
    """Return the expression of one name's pattern.

    Raises:
        ValueError: it has an end that can't be.
    """
    parts = []
    at = 0
    while at < len(name):
        char = name[at]
        at += 1
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            shape = _CLASS.match(name, at - 1)
            if shape is None:
                raise ValueError("a [ without its ]")
            parts.append(_class(shape))
            at = shape.end()
        else:
            if char == "\\":
                char = name[at : at + 1]
                at += 1
            if not char:
                raise ValueError("a \\ at its end")
            parts.append(re.escape(char))
    return "".join(parts)


def _class(shape: re.Match[str]) -> str:
    members = []
    for item in _ITEM.finditer(shape["items"]):
        if item["posix"]:
            members.append(_POSIX.get(item["posix"], ""))
            continue
        low, high = (text and text[-1] for text in (item["low"], item["high"]))
        if high is None:
            members.append(re.escape(low))
        elif low <= high:
            members.append(f"{re.escape(low)}-{re.escape(high)}")
    inside = "".join(members)
    if not inside:
        return "[^/]" if shape["not"] else _NEVER
    return f"(?!/)[{'^' if shape['not'] else ''}{inside}]"
