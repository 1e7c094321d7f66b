"""`vaultik sql`: ask snapshots anything."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, printable
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import ConfigError
from vaultik.look.snapshots import choose
from vaultik.look.sql import open_for_queries

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALIGNED = 200
"""So many rows decide how wide a column is."""
_WIDEST = 100

EPILOG = """\b
Examples:
  vaultik sql my-bucket host1/ latest "SELECT path, size FROM files ORDER BY size DESC LIMIT 10"
  vaultik sql my-bucket host1/ 20261122 latest \\
      "SELECT path FROM s1.files WHERE path NOT IN (SELECT path FROM s2.files)"
  vaultik sql my-bucket host1/ latest - --csv < query.sql > out.csv
\b
Snapshots are s1, s2, ... in the order in which they are named, at most ten; a name without one of these is s1's.
  files      path, name, directory, extension, size, stored, content, mode, uid, gid, user_name, group_name,
             mtime, ctime, birth (UTC; and mtime_ns ...), hardlink, changed_while_read, unreadable
  paths      the same of everything: type, link_target, rdev; no stored, content, extension
  snapshot   one row: id, host, source, started, stored_at, complete, entries, bytes
and the tables of FORMAT.md. stored: what its chunks take in the store, of what they share with others their part.
content: equal for equal content. Names are shown as ls shows them. docs/looking.md has ten queries.
\b
Exit codes: 0 done; 2 a query that can't be run, unknown snapshot, wrong identity; 1 store failed; 4 a snapshot
is damaged.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("specs", metavar="SNAPSHOT...", nargs=-1, required=True)
@click.argument("query")
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV, with a line of names.")
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@reading_options
@json_option
def sql(
    specs: tuple[str, ...],
    query: str,
    as_csv: bool,
    host: str | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Run QUERY (a SELECT of SQLite's, or - for standard input) over one SNAPSHOT or several. Nothing can be changed."""
    if as_csv and as_json:
        raise ConfigError("--csv and --json: one of them", hint="leave one out")
    identities, believed = reading.identities(), reading.believed()
    query = sys.stdin.read() if query == "-" else query
    with closing(reading.store()) as store:
        chosen = choose(store, identities, specs, host, believed).chosen
        with open_for_queries(store, identities, chosen) as queries:
            columns, rows = queries.run(query)
            show = _json if as_json else _csv if as_csv else _table
            for line in show([printable(name) for name in columns], rows):
                click.echo(line)


def _json(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    names: list[str] = []
    for name in columns:
        # Columns of several tables may have one name.
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    for row in rows:
        yield json.dumps(dict(zip(names, map(_value, row), strict=True)))


def _value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, bytes) else value


def _csv(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    for row in chain([tuple(columns)], rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([_text(value) for value in row])
        yield line.getvalue()


def _table(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    first = list(islice(rows, _ALIGNED))
    texts = [columns, *([_text(value) for value in row] for row in first)]
    widths = [min(max(len(line[at]) for line in texts), _WIDEST) for at in range(len(columns))]
    right = [all(isinstance(row[at], int | float | None) for row in first) for at in range(len(columns))]

    def line(cells: list[str]) -> str:
        shown = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(shown).rstrip()

    yield from map(line, texts)
    for row in rows:
        yield line([_text(value) for value in row])


def _text(value: Any) -> str:
    """Return a value as text that does no harm on a terminal."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, bytes) else printable(str(value))
