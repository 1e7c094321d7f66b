r"""What is shown to people: names that can't harm a terminal, numbers, and nothing that may be a secret.

It knows text only. Whoever puts a value that somebody typed into a message decides here whether it may
be read: a key pasted into the wrong place, mistyped at that, must not end up in a log.
"""

from __future__ import annotations

import os
import re

_LONG = 50
_WORD = re.compile(r"[A-Za-z0-9_-]")
_KEY = re.compile(r"(secret|private).?key|[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{50}", re.IGNORECASE)
_TOKEN = re.compile(r"(?<![/\w-])[\w-]{50,}(?![/\w-])", re.ASCII)
_KEY_TOKEN = re.compile(r"[\w-]*(secret|private)[ _-]key[_-]?1[\w-]*", re.IGNORECASE | re.ASCII)
_USERINFO = re.compile(r"^((?!file:)[a-z0-9+.-]+://|(?!file:)).*@", re.IGNORECASE | re.DOTALL)
_HIDDEN = "(not shown: it may be a secret)"
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_STEP = 1000


def may_be_secret(text: str) -> bool:
    """Tell whether a value may be a key, or what is left of one: long and no path, or named as one."""
    return bool(_KEY.search(text)) or ("/" not in text and len(_WORD.findall(text)) >= _LONG)


def veiled(text: str) -> str:
    """Return a message without what may be a secret in it; paths stay."""
    return _TOKEN.sub(_HIDDEN, _KEY_TOKEN.sub(_HIDDEN, text))


def without_userinfo(endpoint: str) -> str:
    """Return an endpoint without the user and password that may stand in it."""
    return _USERINFO.sub(r"\1", endpoint)


def printable(text: str | bytes) -> str:
    r"""Return text that can't move a terminal's cursor or colour: control characters and stray bytes as \xNN.

    In names (bytes) a backslash is doubled, so that what was shown can be told from what it stands for.
    """
    if isinstance(text, bytes):
        text = os.fsdecode(text).replace("\\", "\\\\")
    return text if text.isprintable() else "".join(_escaped(char) for char in text)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def human_bytes(count: float) -> str:
    """Return a size for people, in powers of ten: `12.3 MB`."""
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count /= _STEP
        unit += 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def human_duration(seconds: float) -> str:
    """Return a duration for people, in its two largest units: `45 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    rest = max(round(seconds), 0)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape's bytes
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    if code < 0x80:  # noqa: PLR2004 - one byte
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - as Python writes them
