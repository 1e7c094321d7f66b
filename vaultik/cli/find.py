"""`vaultik find`: which snapshots have a file, and in which versions."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, json_path, paths_of, plural, printable
from vaultik.cli.entries import entry_fields, long_facts
from vaultik.cli.progress import ProgressDisplay
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import IntegrityError
from vaultik.look.find import History, Version
from vaultik.look.find import find as find_entries
from vaultik.look.snapshots import Choice, choose
from vaultik.look.wanted import parse_wanted

if TYPE_CHECKING:
    from vaultik.snapshot.find import FoundSnapshot

EPILOG = """\b
Examples:
  vaultik find my-bucket host1/ fstab                          which snapshots have it, in which versions
  vaultik find my-bucket host1/ '*.pdf' --snapshot latest --size +10MB
  vaultik find my-bucket host1/ '/etc/*.conf' --newer 7d
  vaultik find my-bucket host1/ --regex '^core\\.[0-9]+$' --type f
\b
PATTERN is a glob of a whole name; with a slash in it, or with --path, of a whole path (* goes over slashes).
Below each path stands each version with the snapshots that have it. Versions with the same content and
other attributes show the same content id. Directories don't differ by their times alone.
Exit codes: 0 done, whether anything was found or not; 2 unknown snapshot, wrong identity; 1 store failed;
4 a snapshot is damaged (the others were looked at).
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("pattern")
@click.option("--snapshot", "specs", multiple=True, metavar="S", help="In this one; may be repeated. Default: in all.")
@click.option("--regex", is_flag=True, help="PATTERN is a regular expression, found anywhere in the name.")
@click.option("--path", "whole_path", is_flag=True, help="PATTERN is for the whole path.")
@click.option("--ignore-case", "-i", is_flag=True, help="Take A for a.")
@click.option("--type", "types", metavar="TYPES", help="Of f d l p s c b, as find has them: --type f,l")
@click.option("--size", "sizes", multiple=True, metavar="SIZE", help="+1MB: so much or more; -1MB: or less. Both go.")
@click.option("--newer", metavar="TIME", help="Modified since: 2026-11-23, 2026-11-23T08:15 (UTC), or 7d.")
@click.option("--older", metavar="TIME", help="Modified before.")
@click.option("--host", help="In the snapshots of this host alone.")
@reading_options
@json_option
def find(
    pattern: str,
    specs: tuple[str, ...],
    regex: bool,
    whole_path: bool,
    ignore_case: bool,
    types: str | None,
    sizes: tuple[str, ...],
    newer: str | None,
    older: str | None,
    host: str | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Find PATTERN in snapshots: which of them have it, and in which versions."""
    wanted = parse_wanted(
        paths_of(pattern)[:1] if regex else paths_of(pattern),
        is_regex=regex,
        whole_path=whole_path,
        ignore_case=ignore_case,
        types=types,
        sizes=sizes,
        newer=newer,
        older=older,
        now=time.time(),
    )
    identities, believed = reading.identities(), reading.believed()
    count = 0
    with (
        closing(reading.store()) as store,
        ProgressDisplay("looking", enabled=not as_json, noun="snapshots") as display,
    ):
        choice = choose(store, identities, specs, host, believed)
        sources = {found.source8 for found in choice.chosen}
        display.begin("looking", files=len(choice.chosen), bytes=sum(found.size_bytes for found in choice.chosen))

        def looked(found: FoundSnapshot) -> None:
            display.advance(files=1, bytes=found.size_bytes)

        # One that is named must be looked at; of all, as many as can be.
        damaged = None if specs else choice.damaged.append
        for history in find_entries(store, identities, choice.chosen, wanted, looked, damaged):
            display.pause()
            count += 1
            click.echo(json.dumps(_fields(history)) if as_json else _lines(history, several=len(sources) > 1))
    if not as_json:
        click.echo(f"{plural(count, 'path')} in {plural(len(choice.chosen), 'snapshot')}", err=True)
    say_left_out(choice)


def say_left_out(choice: Choice) -> None:
    """Say which of all snapshots were not looked at, and end with the code for damage if there is any."""
    if choice.foreign:
        click.echo(f"vaultik: {plural(choice.foreign, 'snapshot')} for other identities left out", err=True)
    for exc in choice.damaged:
        click.echo(f"vaultik: {printable(str(exc))}", err=True)
    if choice.damaged:
        sys.exit(IntegrityError.exit_code)


def _lines(history: History, *, several: bool) -> str:
    where = f"  ({printable(history.host)}, {history.source8})" if several else ""
    lines = [printable(history.path) + where]
    for version in history.versions:
        content = f" content {version.content.hex()[:8]}" if version.content is not None else ""
        lines.append(f"  {long_facts(version)}{content}")
        lines += [f"    in {_span(*span)}" for span in version.spans]
    if history.last_without is not None:
        lines.append(f"  not in {history.last_without}, the newest that was looked at")
    return "\n".join(lines)


def _span(first: str, last: str, count: int) -> str:
    return first if count == 1 else f"{first} to {last} ({count} snapshots)"


def _fields(history: History) -> dict[str, Any]:
    return {
        **json_path(history.path),
        "source": history.source8,
        "host": history.host,
        "in_newest": history.last_without is None,
        "versions": [_version_fields(version) for version in history.versions],
    }


def _version_fields(version: Version) -> dict[str, Any]:
    content = {} if version.content is None else {"content": version.content.hex()}
    return {**entry_fields(version), **content, "snapshots": version.snapshots}
