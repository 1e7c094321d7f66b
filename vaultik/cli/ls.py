"""`vaultik ls`: what is in a snapshot."""

from __future__ import annotations

import datetime
import json
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import (
    cache_option,
    identity_option,
    json_option,
    json_path,
    load_identities,
    load_signers,
    paths_of,
    printable,
    signers_option,
    store_of,
    store_options,
)
from vaultik.model import FORMAT_OF_TYPE, NAME_OF_MARK, EntryType, Mark
from vaultik.restore.scratch import copied_snapshot
from vaultik.snapshot.tree import Entry, iter_children, iter_tree, path_of, resolve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

EPILOG = """\b
Example:
  vaultik ls my-bucket host1/ latest /etc -l
\b
Names are shown so that they do no harm on a terminal: what isn't printable as \\x.., \\u...., a backslash
doubled. PATH may be given in that form. --json prints one object per line.
Exit codes: 0 done; 2 unknown snapshot or path, wrong identity; 1 store failed; 4 the snapshot is damaged.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("snapshot")
@click.argument("path", default="/")
@click.option("-l", "long", is_flag=True, help="Mode, owner, size (or device) and time (UTC) of each entry.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below PATH too.")
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@store_options
@cache_option
@identity_option
@signers_option
@json_option
def ls(
    bucket: str,
    prefix: str,
    snapshot: str,
    path: str,
    long: bool,
    recursive: bool,
    host: str | None,
    endpoint: str | None,
    region: str | None,
    cache: bool,
    identity: Path | None,
    signers: Path | None,
    as_json: bool,
) -> None:
    """List PATH (default /) of SNAPSHOT: one line per entry, with its whole path."""
    identities = load_identities(identity)
    with (
        closing(store_of(endpoint, region, bucket, prefix, cache=cache)) as store,
        copied_snapshot(store, identities, snapshot, host, load_signers(signers)) as (_, copy),
    ):
        for found, entry in _entries(copy, paths_of(path), recursive=recursive):
            if as_json:
                click.echo(json.dumps(_fields(found, entry)))
            else:
                click.echo(_long(found, entry) if long else printable(found))


def _entries(copy: sqlite3.Connection, paths: tuple[bytes, ...], *, recursive: bool) -> Iterator[tuple[bytes, Entry]]:
    entry = resolve(copy, paths)
    where = path_of(copy, entry.id)
    if entry.type != EntryType.DIRECTORY:
        yield where, entry
    elif recursive:
        yield from iter_tree(copy, entry.id, where)
    else:
        for child in iter_children(copy, entry.id):
            yield where.rstrip(b"/") + b"/" + child.name, child


def _long(path: bytes, entry: Entry) -> str:
    mode = stat.filemode(FORMAT_OF_TYPE[entry.type] | entry.mode)
    owner = printable(entry.user_name or str(entry.uid))
    group = printable(entry.group_name or str(entry.gid))
    time = _time(entry.mtime_ns).strftime("%Y-%m-%d %H:%M:%SZ")
    link = f" -> {printable(entry.link_target)}" if entry.link_target is not None else ""
    marks = "".join(f" ({text})" for mark, text in _MARKS.items() if entry.marks & mark)
    size = str(entry.size) if entry.rdev is None else f"{os.major(entry.rdev)}, {os.minor(entry.rdev)}"
    return f"{mode} {owner:8} {group:8} {size:>12} {time} {printable(path)}{link}{marks}"


_MARKS = {
    Mark.CHANGED: "changed while it was read",
    Mark.STALE: "of an earlier snapshot",
    Mark.UNREADABLE: "could not be read",
    Mark.GAP: "something in it could not be looked at",
}


def _time(ns: int) -> datetime.datetime:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return epoch + datetime.timedelta(microseconds=ns // 1000)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)


def _fields(path: bytes, entry: Entry) -> dict[str, Any]:
    fields = {
        **json_path(path),
        "id": entry.id,
        "type": entry.type,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user_name,
        "group": entry.group_name,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "rdev": entry.rdev,
        "hardlink": entry.hardlink,
        "marks": [name for mark, name in NAME_OF_MARK.items() if entry.marks & mark],
    }
    if entry.link_target is not None:
        fields["link_target"] = entry.link_target.decode("utf-8", "backslashreplace")
    return fields
