"""How an entry of a snapshot is shown, to people and as JSON."""

from __future__ import annotations

import datetime
import os
import stat
from typing import Any, Protocol

from vaultik.model import FORMAT_OF_TYPE, NAME_OF_MARK, Mark
from vaultik.shown import printable


class Shown(Protocol):
    """As much of an entry as this takes."""

    @property
    def type(self) -> str: ...  # noqa: D102 - as the column
    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def uid(self) -> int: ...  # noqa: D102
    @property
    def gid(self) -> int: ...  # noqa: D102
    @property
    def user_name(self) -> str | None: ...  # noqa: D102
    @property
    def group_name(self) -> str | None: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def mtime_ns(self) -> int: ...  # noqa: D102
    @property
    def link_target(self) -> bytes | None: ...  # noqa: D102
    @property
    def rdev(self) -> int | None: ...  # noqa: D102
    @property
    def marks(self) -> int: ...  # noqa: D102


_MARKS = {
    Mark.CHANGED: "changed while it was read",
    Mark.STALE: "of an earlier snapshot",
    Mark.UNREADABLE: "could not be read",
    Mark.GAP: "something in it could not be looked at",
}


def long_line(path: bytes, entry: Shown) -> str:
    """Return an entry as a line of `ls -l`: mode, owner, size, time, path, and what its marks say."""
    return f"{_facts(entry)} {printable(path)}{_rest(entry)}"


def long_facts(entry: Shown) -> str:
    """Return the same without the path."""
    return f"{_facts(entry)}{_rest(entry)}"


def entry_fields(entry: Shown) -> dict[str, Any]:
    """Return what JSON says of an entry besides its path."""
    fields = {
        "type": entry.type,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user_name,
        "group": entry.group_name,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "rdev": entry.rdev,
        "marks": [name for mark, name in NAME_OF_MARK.items() if entry.marks & mark],
    }
    if entry.link_target is not None:
        fields["link_target"] = entry.link_target.decode("utf-8", "backslashreplace")
    return fields


def _facts(entry: Shown) -> str:
    mode = stat.filemode(FORMAT_OF_TYPE[entry.type] | entry.mode)
    owner = printable(entry.user_name or str(entry.uid))
    group = printable(entry.group_name or str(entry.gid))
    size = str(entry.size) if entry.rdev is None else f"{os.major(entry.rdev)}, {os.minor(entry.rdev)}"
    return f"{mode} {owner:8} {group:8} {size:>12} {shown_time(entry.mtime_ns)}"


def _rest(entry: Shown) -> str:
    link = f" -> {printable(entry.link_target)}" if entry.link_target is not None else ""
    return link + "".join(f" ({text})" for mark, text in _MARKS.items() if entry.marks & mark)


def shown_time(ns: int) -> str:
    """Return a time (nanoseconds since 1970) for people, UTC, to the second."""
    return _time(ns).strftime("%Y-%m-%d %H:%M:%SZ")


def _time(ns: int) -> datetime.datetime:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return epoch + datetime.timedelta(microseconds=ns // 1000)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)
