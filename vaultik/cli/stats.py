"""`vaultik stats`: what takes the space, in a store and in a snapshot."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, plural, printable
from vaultik.cli.find import say_left_out
from vaultik.cli.reading import Reading, reading_options
from vaultik.look.growth import Growth, Step, find_growth
from vaultik.look.snapshots import choose
from vaultik.look.usage import Large, Usage, find_usage
from vaultik.model import NAME_OF_TYPE
from vaultik.shown import human_bytes
from vaultik.snapshot.find import when

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 10

EPILOG = """\b
Examples:
  vaultik stats my-bucket host1/              how the store grew, snapshot by snapshot
  vaultik stats my-bucket host1/ latest       what takes the space in one: ratios, largest directories and files
\b
Of each snapshot: content, each piece once; stored, all blobs that it refers to; new, those of them that no earlier
one does; only here, those that no other does: about what a prune frees if it is dropped. The manifests tell all that.
Of one snapshot: size of the files, how much of it is different, how that compresses. A directory of which one in
it makes up most is left out for that one.
Exit codes: 0 done; 2 unknown snapshot, wrong identity; 1 store failed; 4 a snapshot is damaged (the others were
looked at).
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("specs", metavar="[SNAPSHOT]...", nargs=-1)
@click.option(
    "--top", default=_MOST, show_default=True, type=click.IntRange(0, 10_000), help="How many of the largest."
)
@click.option("--host", help="Of this host alone; or which, for `latest` in a prefix of several.")
@reading_options
@json_option
def stats(
    specs: tuple[str, ...],
    top: int,
    host: str | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Tell how BUCKET and PREFIX grew, or what takes the space in each SNAPSHOT."""
    identities, believed = reading.identities(), reading.believed()
    with closing(reading.store()) as store:
        if specs:
            for number, found in enumerate(choose(store, identities, specs, host, believed).chosen):
                usage = find_usage(store, identities, found, top)
                if number and not as_json:
                    click.echo("")
                click.echo(json.dumps(_usage_fields(usage)) if as_json else "\n".join(_usage_lines(usage)))
            return
        growth = find_growth(store, identities, host, believed)
    if as_json:
        steps = [step._asdict() | {"stored_at": when(step.server_time)} for step in growth.steps]
        click.echo(json.dumps({"snapshots": steps, "stored": growth.stored, "metadata": growth.metadata}))
    else:
        click.echo("\n".join(_growth_lines(growth)))
    say_left_out(growth.choice)


def _growth_lines(growth: Growth) -> list[str]:
    several = len({step.source8 for step in growth.steps}) > 1
    head = [
        "snapshot",
        *(["host", "source"] if several else []),
        "entries",
        "content",
        "stored",
        "new",
        "only here",
        "metadata",
    ]
    table = [head]
    for step in growth.steps:
        where = [printable(step.host), step.source8] if several else []
        table.append([step.snapshot, *where, f"{step.entries:,}", *_sizes(step)])
    total = f"{plural(len(growth.steps), 'snapshot')}: {human_bytes(growth.stored)} stored in all"
    return [
        *_aligned(table, left=3 if several else 1),
        f"{total}, and {human_bytes(growth.metadata)} that describe them",
    ]


def _sizes(step: Step) -> list[str]:
    return [human_bytes(size) for size in (step.content, step.stored, step.new, step.only_here, step.metadata)]


def _usage_lines(usage: Usage) -> list[str]:
    partial = "" if usage.complete else ", partial"
    lines = [f"{usage.snapshot} of {printable(usage.host)}, stored at {when(usage.server_time)}{partial}"]
    counts = (plural(count, NAME_OF_TYPE[kind], _PLURALS.get(kind)) for kind, count in usage.types.items())
    lines.append("  " + ", ".join(counts))
    lines.append(f"  size of the files     {human_bytes(usage.size):>10}{_holes(usage)}")
    lines.append(
        f"  different content     {human_bytes(usage.different):>10}{_ratio('deduplication', usage.content, usage.different)}"
    )
    lines.append(
        f"  compressed            {human_bytes(usage.frames):>10}{_ratio('compression', usage.different, usage.frames)}"
    )
    needed = f", {100 * usage.frames // usage.stored} % of them needed here" if usage.stored else ""
    lines.append(f"  in {plural(usage.blobs, 'blob')} of".ljust(24) + f"{human_bytes(usage.stored):>10}{needed}")
    for title, large in (("largest directories", usage.directories), ("largest files", usage.files)):
        if large:
            lines += ["", title, *_large_lines(large)]
    return lines


_PLURALS = {"d": "directories"}


def _holes(usage: Usage) -> str:
    holes = usage.size - usage.content
    return f", {human_bytes(holes)} of it holes" if holes > 0 else ""


def _ratio(what: str, before: int, after: int) -> str:
    return f", {what} {before / after:.2f}" if after else ""


def _large_lines(large: Sequence[Large]) -> list[str]:
    table = [["size", "stored", "files", "path"]]
    table += [[human_bytes(one.size), human_bytes(one.stored), f"{one.files:,}", one.path] for one in large]
    return [f"  {line}" for line in _aligned(table, left=0, last_left=True)]


def _aligned(table: Sequence[Sequence[str]], left: int, *, last_left: bool = False) -> list[str]:
    """Return lines whose first columns are flush left, and the others right, but for the last where that is said."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    last = len(widths) - 1

    def cell(column: int, text: str) -> str:
        is_left = column < left or (last_left and column == last)
        return text.ljust(widths[column]) if is_left else text.rjust(widths[column])

    return ["  ".join(cell(column, text) for column, text in enumerate(line)).rstrip() for line in table]


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        **usage._asdict(),
        "stored_at": when(usage.server_time),
        "types": {NAME_OF_TYPE[kind]: count for kind, count in usage.types.items()},
        "directories": [one._asdict() for one in usage.directories],
        "files": [one._asdict() for one in usage.files],
    }
