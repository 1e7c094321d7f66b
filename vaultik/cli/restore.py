"""`vaultik restore`: a snapshot, or a part of it, back into a directory."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultik import interrupts
from vaultik.cli.common import Place, json_option, json_path, plural, printable
from vaultik.cli.kept import attribute_options
from vaultik.cli.progress import ProgressDisplay, human_bytes
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import ConfigError, IntegrityError, RestoreError
from vaultik.restore import plan
from vaultik.restore.asked import Asked
from vaultik.restore.changes import Changes, looked_at
from vaultik.restore.needs import left_reads
from vaultik.restore.report import problem_lines, summary
from vaultik.restore.scratch import copied_snapshot
from vaultik.restore.session import RestoreSession
from vaultik.secrets import identity_files

if TYPE_CHECKING:
    import sqlite3

    from vaultik.restore.kept import Kept
    from vaultik.restore.report import RestoreReport

EPILOG = """\b
Example:
  export VAULTIK_PRIVATE_KEY=key.txt
  vaultik restore my-bucket host1/ latest /srv/restored
  vaultik restore my-bucket host1/ latest /srv/restored --include /etc --include '*.conf'
  vaultik restore my-bucket host1/ latest /srv/restored --map-owner alice:bob --without acls,flags
\b
Paths stand under TARGET as they stood under /; TARGET itself keeps its own attributes. The same command continues an interrupted restore.
With --force it updates what is in TARGET, and fetches only what differs; with --delete it also removes what
SNAPSHOT doesn't have: look first with --dry-run, which also says how many requests and bytes it takes.
What this user may not set is counted, by class. Of damaged files --salvage keeps what can be read, beside everything else.
Exit codes: 0 done; 4 something stored is missing or damaged, the rest was restored; 2 usage,
unknown snapshot, wrong identity; 1 store or target failed.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("snapshot")
@click.argument("target", type=Place())
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Only what fits (gitignore rules over the whole path); may be repeated.",
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not what fits; may be repeated.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be read and written, in how many requests, and write nothing."
)
@click.option(
    "--force", is_flag=True, help="Update a directory that isn't empty: what is equal stays, what differs is replaced."
)
@click.option("--delete", is_flag=True, help="With --force: remove what SNAPSHOT doesn't have, among what is selected.")
@click.option("--checksum", is_flag=True, help="Tell what is equal by content instead of size and time.")
@attribute_options
@click.option(
    "--salvage",
    is_flag=True,
    help="Of damaged files keep what can be read, as NAME.vaultik-salvaged, never under NAME.",
)
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@click.option("--workers", type=click.IntRange(1, 64), help="Luigi processes (default: as many as the blobs merit).")
@reading_options
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
@json_option
def restore(
    snapshot: str,
    target: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    dry_run: bool,
    force: bool,
    delete: bool,
    checksum: bool,
    salvage: bool,
    host: str | None,
    workers: int | None,
    quiet: bool,
    as_json: bool,
    keeps: Kept,
    reading: Reading,
) -> None:
    """Restore SNAPSHOT (an id, a unique beginning of one, or `latest`) from BUCKET and PREFIX into TARGET."""
    if os.fspath(target) == "-":
        raise ConfigError(
            "target -: a tree needs a directory", hint="vaultik fetch ... PATH - writes one file to standard output"
        )
    identities, believed = reading.identities(), reading.believed()
    asked = Asked(
        target,
        snapshot,
        host,
        include,
        exclude,
        force,
        delete,
        checksum,
        identity_files(reading.identity),
        believed,
        keeps,
        salvage,
    )
    session = RestoreSession(reading.store, identities, asked)
    if dry_run:
        with closing(session.store()) as store:
            session.check()
            with (
                copied_snapshot(store, identities, session.spec(), host, believed) as (found, copy),
                tempfile.TemporaryDirectory(prefix="vaultik-") as directory,
                looked_at(asked, store, copy, Path(directory)) as changes,
            ):
                _say_plan(found.name.snapshot, copy, changes, target, as_json=as_json)
        return

    def tell(report: RestoreReport) -> None:
        display.pause()
        say_report(report, target, as_json=as_json, quiet=quiet, is_tree=True)
        # It is done and said; ended from here on, nobody could tell it from one that isn't.
        interrupts.ignore()

    from vaultik.tasks.restore import restore as run

    with ProgressDisplay("restoring", enabled=not (quiet or as_json)) as display:
        report = run(session, workers=workers, progress=display, tell=tell)
    exit_by(report)


def say_report(report: RestoreReport, target: Path, *, as_json: bool, quiet: bool, is_tree: bool = False) -> None:
    """Print what came of a restore; `is_tree` if all of it stands below the target under its whole path."""
    if as_json:
        damaged, failed = ([{**json_path(p), "reason": r} for p, r in lost] for lost in (report.damaged, report.failed))
        fields = {
            "snapshot": report.snapshot,
            "complete": report.complete,
            "target": os.fspath(target),
            **report.totals._asdict(),
            "damaged": damaged,
            "failed": failed,
            "refused": report.refused,
            "stale": report.stale,
            "gaps": report.gaps,
            "unchanged": report.unchanged,
            "removed": report.removed,
            "notes": [{**json_path(p), "text": text} for p, text in report.notes],
            "salvaged": [{**json_path(s.path), "as": json_path(s.place), "lost": s.lost} for s in report.salvaged],
        }
        click.echo(json.dumps(fields))
        return
    for line in problem_lines(report, target if is_tree else None):
        click.echo(f"vaultik: {line.text}", err=True)
        if line.hint:
            click.echo(f"  hint: {line.hint}", err=True)
    if not quiet:
        click.echo(summary(report, target))


def exit_by(report: RestoreReport) -> None:
    """End with the code for what could not be brought back, if there is any."""
    if report.damaged:
        sys.exit(IntegrityError.exit_code)
    if report.failed:
        sys.exit(RestoreError.exit_code)


def _say_plan(snapshot: str, copy: sqlite3.Connection, changes: Changes | None, target: Path, *, as_json: bool) -> None:
    t, left = plan.totals(copy), plan.left(copy)
    requests, size = left_reads(copy)
    free = _free_bytes(target)
    ways = {"replace": changes.replaced, "remove": changes.removed} if changes is not None else {}
    if as_json:
        fields = {
            "snapshot": snapshot,
            "target": os.fspath(target),
            "dry_run": True,
            **t._asdict(),
            "left": {**left._asdict(), "requests": requests, "fetched_bytes": size},
            "free_bytes": free,
        }
        click.echo(json.dumps(fields)[:-1], nl=False)
        # As they are found: there may be a million.
        for way in ("replace", "remove"):
            click.echo(f', "{way}": [', nl=False)
            for n, path in enumerate(ways[way]() if way in ways else ()):
                click.echo(f"{', ' if n else ''}{json.dumps(json_path(path))}", nl=False)
            click.echo("]", nl=False)
        click.echo("}")
        return
    top = os.fsencode(target).rstrip(b"/")
    for way, paths in ways.items():
        for path in paths():
            click.echo(f"would {way} {printable(top + path)}")
    click.echo(
        f"would restore {plural(t.entries, 'entry', 'entries')}, {plural(t.files, 'file')}, {human_bytes(t.bytes)}"
        f" of snapshot {snapshot} to {printable(os.fspath(target))};"
        f" to be written: {plural(left.files, 'file')}, {human_bytes(left.bytes)},"
        f" from {plural(left.blobs, 'blob')} of {human_bytes(left.blob_bytes)}"
        f" by {plural(requests, 'request')} for {human_bytes(size)}"
    )
    if free is not None and left.bytes > free:
        click.echo(f"note: {human_bytes(free)} are free there: it may not fit")


def _free_bytes(target: Path) -> int | None:
    """Return what a target's file system, or that of the directory it would be made in, has left, None if it doesn't say."""
    usage = shutil.disk_usage(next(path for path in (target, *target.parents) if path.exists()))
    return usage.free if usage.total else None
