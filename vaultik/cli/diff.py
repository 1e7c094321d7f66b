"""`vaultik diff`: what changed from one snapshot to another, or to a directory."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, json_path, paths_of, plural, printable
from vaultik.cli.entries import entry_fields, shown_time
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import ConfigError, SelectionError, VaultikError
from vaultik.look.diff import Change, Difference, Side, compare_snapshots
from vaultik.look.live import compare_with_directory
from vaultik.model import NAME_OF_TYPE
from vaultik.shown import human_bytes
from vaultik.snapshot.find import list_snapshots, select

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.look.diff import Totals
    from vaultik.look.directory import Problem
    from vaultik.snapshot.find import FoundSnapshot
    from vaultik.store.base import Store

_SIGNS = {"added": "+", "removed": "-", "changed": "C", "type": "T", "moved": ">", "metadata": "m"}

EPILOG = """\b
Examples:
  vaultik diff my-bucket host1/ latest                          what the last snapshot changed
  vaultik diff my-bucket host1/ 20261122 latest                 from one snapshot to another
  vaultik diff my-bucket host1/ 20261122 latest /etc
  vaultik diff my-bucket host1/ latest --with /                 from the last snapshot to this machine as it is
  vaultik diff my-bucket host1/ latest /etc --with /srv/restored
\b
+ added   - removed   C content changed   T type changed   > moved   m metadata only
\b
What moved is known by its content; a directory moved if half of its files did. Of metadata mode, owner, time,
extended attributes and inode flags count; not the time of a directory. DIR stands for / as a restore's TARGET
does; a file in it is equal if size and time are, or with --checksum if its bytes are; what the backup
excludes shows as added. Inode flags in it are not compared.
Exit codes: 0 done, whether anything differs or not; 1 store failed, or something in DIR could not be looked at;
2 unknown snapshot or path, wrong identity; 4 a snapshot is damaged.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("a", metavar="A")
@click.argument("rest", nargs=-1, metavar="[B] [PATH]")
@click.option("--with", "root", type=click.Path(path_type=Path), metavar="DIR", help="A directory in B's place.")
@click.option("--checksum", is_flag=True, help="With --with: tell equal files by content instead of size and time.")
@click.option("--summary", is_flag=True, help="The totals alone.")
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@reading_options
@json_option
def diff(
    a: str,
    rest: tuple[str, ...],
    root: Path | None,
    checksum: bool,
    summary: bool,
    host: str | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Show what changed from snapshot A to B, from the one before A to A, or from A to a directory; in all of it or at PATH."""
    b, path = _arguments(rest, root)
    if checksum and root is None:
        raise ConfigError("--checksum: snapshots are told apart by content anyway", hint="it goes with --with DIR")
    identities, believed = reading.identities(), reading.believed()
    problems = _Problems()
    with ExitStack() as stack:
        store = stack.enter_context(closing(reading.store()))
        old = select(store, a, identities, host, believed)
        if root is None:
            new = old if b is None else select(store, b, identities, host, believed)
            old = select(store, _before(store, new), identities, host, believed) if b is None else old
            difference = stack.enter_context(compare_snapshots(store, identities, old, new, paths_of(path)))
        else:
            difference = stack.enter_context(
                compare_with_directory(store, identities, old, root, paths_of(path), problems, checksum=checksum)
            )
        _say(difference, only_totals=summary, as_json=as_json)
    if problems.count:
        raise VaultikError(
            f"{plural(problems.count, 'entry', 'entries')} below {root} could not be looked at",
            hint="as root everything can be",
        )


def _arguments(rest: tuple[str, ...], root: Path | None) -> tuple[str | None, str]:
    """Return B, if there is one, and the path."""
    # No snapshot's id begins with a slash.
    b, *path = rest if root is None and rest and not rest[0].startswith("/") else (None, *rest)
    if len(path) > 1:
        raise click.UsageError(
            "A, or A and B, or A and --with DIR, and at most one path after them", click.get_current_context()
        )
    return b, path[0] or "/" if path else "/"


def _before(store: Store, found: FoundSnapshot) -> str:
    """Return the id of the snapshot before one of the same source.

    Raises:
        SelectionError: it is the first.
    """
    ids = [one.name.snapshot for one in list_snapshots(store) if one.source8 == found.source8]
    earlier = [snapshot for snapshot in ids if snapshot < found.name.snapshot]
    if not earlier:
        raise SelectionError(
            f"snapshot {found.name.snapshot}: there is none before it", hint="vaultik diff ... A B compares any two"
        )
    return max(earlier)


class _Problems:
    """Tells what could not be looked at, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        self.count += 1
        click.echo(f"vaultik: {printable(problem.path)}: {problem.reason}", err=True)


def _say(difference: Difference, *, only_totals: bool, as_json: bool) -> None:
    if not only_totals:
        for change in difference:
            click.echo(json.dumps(_fields(change)) if as_json else _line(change))
    totals = difference.totals()
    if as_json:
        click.echo(json.dumps({"totals": {kind: total._asdict() for kind, total in totals.items()}}))
    else:
        click.echo(_totals_line(totals))
    sys.stdout.flush()


def _line(change: Change) -> str:
    side = change.new or change.old
    assert side is not None
    text = f"{_SIGNS[change.kind]} {printable(side.path)}"
    if change.old is None or change.new is None:
        return f"{text}  {_what(side)}"
    old, new = change.old, change.new
    if change.kind == "moved":
        text = f"{_SIGNS['moved']} {printable(old.path)} -> {printable(new.path)}"
    elif change.is_moved:
        text += f"  (was {printable(old.path)})"
    parts = [_content(old, new)] if change.kind in ("changed", "type") else []
    parts += [_METADATA[name](old, new) for name in change.metadata]
    return f"{text}  {', '.join(parts)}" if parts else text


def _what(side: Side) -> str:
    return human_bytes(side.size) if side.type == "f" else NAME_OF_TYPE[side.type]


def _content(old: Side, new: Side) -> str:
    if old.type != new.type:
        return f"{NAME_OF_TYPE[old.type]} -> {NAME_OF_TYPE[new.type]}"
    if old.link_target is not None and new.link_target is not None:
        return f"-> {printable(old.link_target)} -> {printable(new.link_target)}"
    if old.rdev is not None and new.rdev is not None:
        return f"device {_device(old.rdev)} -> {_device(new.rdev)}"
    if old.size == new.size:
        return human_bytes(new.size)
    before, after = human_bytes(old.size), human_bytes(new.size)
    return f"{before} -> {after}" if before != after else f"{old.size:,} -> {new.size:,} B"


def _device(rdev: int) -> str:
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def _owner(side: Side) -> str:
    return f"{printable(side.user_name or str(side.uid))}:{printable(side.group_name or str(side.gid))}"


def _owners(old: Side, new: Side) -> str:
    if _owner(old) == _owner(new):
        return f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}"
    return f"owner {_owner(old)} -> {_owner(new)}"


_METADATA: dict[str, Callable[[Side, Side], str]] = {
    "mode": lambda old, new: f"mode {old.mode:04o} -> {new.mode:04o}",
    "owner": _owners,
    "time": lambda old, new: f"time {shown_time(old.mtime_ns)} -> {shown_time(new.mtime_ns)}",
    "xattrs": lambda _old, _new: "extended attributes",
    "flags": lambda _old, _new: "inode flags",
}


def _totals_line(totals: dict[str, Totals]) -> str:
    def part(kind: str, text: str) -> str:
        return text.format(plural(totals[kind].entries, "entry", "entries"), *map(human_bytes, totals[kind][1:]))

    texts = {
        "added": "{0} added ({2})",
        "removed": "{0} removed ({1})",
        "changed": "{0} changed ({1} -> {2})",
        "type": "{0} of another type",
        "moved": "{0} moved",
        "metadata": "{0} with other metadata only",
        "unchanged": "{0} unchanged ({1})",
    }
    return ", ".join(part(kind, text) for kind, text in texts.items() if kind in totals)


def _fields(change: Change) -> dict[str, Any]:
    return {
        "change": change.kind,
        **{name: _side(side) for name, side in (("old", change.old), ("new", change.new)) if side is not None},
        "metadata": list(change.metadata),
    }


def _side(side: Side) -> dict[str, Any]:
    return {**json_path(side.path), **entry_fields(side)}
