"""`vaultik ls`: what is in a snapshot."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, json_path, paths_of, printable
from vaultik.cli.entries import entry_fields, long_line
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import SelectionError
from vaultik.look.glob import is_glob, iter_glob
from vaultik.model import EntryType
from vaultik.restore.scratch import copied_snapshot
from vaultik.snapshot.tree import Entry, find_path, iter_children, iter_tree, path_of, resolve

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

EPILOG = """\b
Examples:
  vaultik ls my-bucket host1/ latest /etc -l
  vaultik ls my-bucket host1/ latest '/home/*/.ssh' -R
  vaultik ls my-bucket host1/ latest '/etc/**/*.conf'
\b
PATH may have wildcards, * ? [...] within a name and ** over any number of names: what fits is listed itself.
Quote them, or the shell puts the names of this machine in their place.
Names are shown so that they do no harm on a terminal: what isn't printable as \\x.., \\u...., a backslash
doubled. PATH may be given in that form. --json prints one object per line.
Exit codes: 0 done; 2 unknown snapshot or path, wrong identity; 1 store failed; 4 the snapshot is damaged.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("snapshot")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-l", "long", is_flag=True, help="Mode, owner, size (or device) and time (UTC) of each entry.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below PATH too.")
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@reading_options
@json_option
def ls(
    snapshot: str,
    paths: tuple[str, ...],
    long: bool,
    recursive: bool,
    host: str | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """List each PATH (default: /) of SNAPSHOT: one line per entry, with its whole path."""
    identities = reading.identities()
    with (
        closing(reading.store()) as store,
        copied_snapshot(store, identities, snapshot, host, reading.believed()) as (_, copy),
    ):
        for path in paths or ("/",):
            for found, entry in _entries(copy, paths_of(path), recursive=recursive):
                if as_json:
                    click.echo(json.dumps(_fields(found, entry)))
                else:
                    click.echo(long_line(found, entry) if long else printable(found))


def _iter_fitting(copy: sqlite3.Connection, patterns: tuple[bytes, ...]) -> Iterator[tuple[bytes, Entry]]:
    """Yield what fits the first of the forms that may be meant which anything fits."""
    for pattern in patterns[:-1]:
        with suppress(SelectionError):
            yield from iter_glob(copy, pattern)
            return
    yield from iter_glob(copy, patterns[-1])


def _entries(copy: sqlite3.Connection, paths: tuple[bytes, ...], *, recursive: bool) -> Iterator[tuple[bytes, Entry]]:
    entry = find_path(copy, paths)
    if entry is None and is_glob(paths[0]):
        # What fits is shown itself, not what is in it: a directory's content is its path's to list.
        shown = b"//"
        for where, entry in _iter_fitting(copy, paths):
            if where.startswith(shown):
                continue
            yield where, entry
            if recursive and entry.type == EntryType.DIRECTORY:
                yield from iter_tree(copy, entry.id, where)
                shown = where.rstrip(b"/") + b"/"
        return
    entry = entry or resolve(copy, paths)
    where = path_of(copy, entry.id)
    if entry.type != EntryType.DIRECTORY:
        yield where, entry
    elif recursive:
        yield from iter_tree(copy, entry.id, where)
    else:
        for child in iter_children(copy, entry.id):
            yield where.rstrip(b"/") + b"/" + child.name, child


def _fields(path: bytes, entry: Entry) -> dict[str, Any]:
    return {**json_path(path), "id": entry.id, **entry_fields(entry), "hardlink": entry.hardlink}
