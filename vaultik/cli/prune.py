"""`vaultik prune`: drop old snapshots, free what no snapshot needs, say what stays and until when."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from vaultik import interrupts
from vaultik.cli.common import (
    identity_option,
    json_option,
    load_identities,
    load_signers,
    plural,
    printable,
    signers_option,
    store_of,
    store_options,
)
from vaultik.cli.progress import ProgressDisplay, human_bytes
from vaultik.errors import ConfigError
from vaultik.maintain.plan import as_json, total
from vaultik.maintain.prune import BLOBS, LOCKS, ORPHANS, SNAPSHOTS, PruneSession
from vaultik.maintain.request import COUNTED, parse_request
from vaultik.snapshot.find import when

if TYPE_CHECKING:
    from pathlib import Path

    from vaultik.maintain.plan import Fate, Plan, Tally

EPILOG = """\b
Example:
  vaultik prune my-bucket host1/ --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
\b
Rules go per source, as in restic, by hours, days and weeks of UTC; a snapshot stays if any rule names it. Without a
rule the newest stays; but --drop and --forget-source alone drop only what they name. What was the newest within the
last 7 days stays too, as does what was stored within an hour of it: a backup that is going on may rely on it.
--grace D (0, 12h, 3d) shortens that: your word that no clone or rolled-back copy of the host is alive and that no
other host shares PREFIX.
\b
The identity may be that of an audit_recipient, which opens lists of blobs and nothing else.
Exit codes: 0 done; 1 refused, nothing deleted (the hint names the way out), or the store failed;
2 usage, unknown snapshot or source, wrong identity; 130/143 interrupted: the next prune goes on.
"""


def _keep_options(command: Any) -> Any:
    command = click.option("--keep-within", metavar="SPAN", help="All within SPAN of the newest: 30d, 12h, 1y6m.")(
        command
    )
    helps = {
        "last": "The newest N.",
        **{kind: f"The newest of each of the last N {unit}s." for kind, unit in _UNITS.items()},
    }
    for kind in reversed(COUNTED):
        command = click.option(f"--keep-{kind}", metavar="N", help=helps[kind])(command)
    return command


_UNITS = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year"}


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@_keep_options
@click.option("--grace", metavar="D", help="How long what nobody refers to stays, in place of 7d. See below.")
@click.option("--exclusive", is_flag=True, help="With --grace: no host is backing up to PREFIX, whatever it holds.")
@click.option(
    "--drop",
    multiple=True,
    metavar="SNAPSHOT",
    help="Give up a snapshot, readable or not, by its id. No backup of its host may be running.",
)
@click.option(
    "--forget-source", multiple=True, metavar="ID", help="Give up all of a host that is gone: its source, as listed."
)
@click.option("--allow-shrink", is_flag=True, help="A snapshot with under half of the one before is meant so.")
@click.option(
    "--extend-lock",
    metavar="D",
    help="On a bucket with Object Lock: lock what is kept until D after its snapshot, what a newest one needs until D from now.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, delete nothing.")
@click.option("--yes", is_flag=True, help="Don't ask. Without a terminal nothing is asked anyway.")
@store_options
@identity_option
@signers_option
@click.option("--quiet", is_flag=True, help="No progress, no plan, no summary.")
@json_option
def prune(
    bucket: str,
    prefix: str,
    grace: str | None,
    exclusive: bool,
    drop: tuple[str, ...],
    forget_source: tuple[str, ...],
    allow_shrink: bool,
    extend_lock: str | None,
    dry_run: bool,
    yes: bool,
    endpoint: str | None,
    region: str | None,
    identity: Path | None,
    signers: Path | None,
    quiet: bool,
    as_json: bool,
    **keep: str | None,
) -> None:
    """Drop the snapshots in BUCKET under PREFIX that no rule names, and free the blobs that no snapshot needs."""
    request = parse_request(
        {name.removeprefix("keep_"): text for name, text in keep.items()},
        grace=grace,
        exclusive=exclusive,
        drop=drop,
        forget=forget_source,
        allow_shrink=allow_shrink,
        signers=load_signers(signers),
        extend_lock=extend_lock,
    )
    asks = not (yes or dry_run) and sys.stdin.isatty()
    if asks and (quiet or as_json or not (sys.stdout.isatty() and sys.stderr.isatty())):
        raise ConfigError(
            "prune asks before it deletes, and what it asks about could not be seen",
            hint="add --yes to go ahead unasked, or --dry-run to look at the plan",
        )
    identities = load_identities(identity)
    session = PruneSession(lambda: store_of(endpoint, region, bucket, prefix), identities, request)
    dialog = _Dialog(talks=not (quiet or as_json), asks=asks, deletes=not dry_run)
    from vaultik.tasks.prune import prune as run

    with dialog.display:
        freed = run(session, confirm=dialog.confirm, watch=dialog.watch)
    dialog.end(freed, as_json=as_json)


class _Dialog:
    """What is shown and asked while a prune goes on."""

    def __init__(self, *, talks: bool, asks: bool, deletes: bool) -> None:
        self._talks, self._asks, self._deletes = talks, asks, deletes
        self._declined = False
        self._plan: Plan | None = None
        self.display = ProgressDisplay("listing snapshots", enabled=talks, noun="objects")

    def watch(self, event: dict[str, Any]) -> None:
        """Take an event of the prune."""
        if "stage" in event:
            self.display.begin(event["stage"], files=event["objects"], bytes=event["bytes"])
        else:
            self.display.advance(files=event.get("done", 0), bytes=event.get("done_bytes", 0))

    def confirm(self, plan: Plan) -> bool:
        """Show the plan. Returns whether to go on."""
        self._plan = plan
        self.display.pause()
        if self._talks:
            for line in _plan_lines(plan, deletes=self._deletes):
                click.echo(line)
        if self._deletes and plan.total.objects and self._asks:
            self._declined = not _agrees()
        if not self._deletes or self._declined:
            return False
        self.display.resume()
        return True

    def end(self, freed: dict[str, Tally] | None, *, as_json: bool) -> None:
        """Say what came of it."""
        assert self._plan is not None
        if as_json:
            click.echo(json.dumps(_fields(self._plan, freed)))
        elif self._talks and freed is not None:
            click.echo(_outcome(self._plan, freed))
        if self._declined:
            click.echo("nothing was deleted", err=True)
            sys.exit(1)


def _agrees() -> bool:
    try:
        return click.confirm("Delete that?")
    except click.Abort:
        click.echo("\nnothing was deleted", err=True)
        # Ctrl-C ends the command; the end of the input is a no like any other.
        interrupts.check()
        sys.exit(1)


def _plan_lines(plan: Plan, *, deletes: bool) -> list[str]:
    fates, sources = plan.fates, {fate.source for fate in plan.fates}
    lines = [
        f"{plural(len(fates), 'snapshot')} of {plural(len(sources), 'source')},"
        f" {plural(plan.blobs.objects, 'blob')} ({human_bytes(plan.blobs.bytes)}) in {printable(plan.location)}"
    ]
    of_source = len(sources) > 1
    host_width = max(len(_host(fate, of_source=of_source)) for fate in fates)
    lines += [
        f"  {fate.fate}  {fate.snapshot}  {_minute(fate.stored)}"
        f"  {_host(fate, of_source=of_source).ljust(host_width)}  {_why(fate)}".rstrip()
        for fate in fates
    ]
    lines.append(f"{'to free' if deletes else 'would free'}: {_amount(plan.doomed)}")
    for held in plan.held:
        until = f", until {_minute(held.until)}" if held.until is not None else ""
        lines.append(f"held: {human_bytes(held.bytes)} in {plural(held.blobs, 'blob')} {held.why}{until}")
    return lines


def _why(fate: Fate) -> str:
    if fate.until is not None and "locked" in fate.reasons:
        return f"until {_minute(fate.until)}: locked"
    if fate.until is not None:
        return f"until {_minute(fate.until)}: was the newest within the grace"
    return ", ".join([*fate.reasons, *([] if fate.complete else ["partial"])])


def _outcome(plan: Plan, freed: dict[str, Tally]) -> str:
    held, until = sum(h.bytes for h in plan.held), plan.held_until
    extended = freed.pop(LOCKS, None)
    text = f"freed: {_amount(freed)}"
    if held:
        text += f"; still held: {human_bytes(held)}" + (f", until {_minute(until)}" if until is not None else "")
    if extended is not None:
        text += f"; locked for longer: {plural(extended.objects, 'object')}"
    return text


def _amount(tallies: dict[str, Tally]) -> str:
    if not total(tallies).objects:
        return "nothing"
    snapshots, blobs, orphans = (tallies[s].objects if s in tallies else 0 for s in (SNAPSHOTS, BLOBS, ORPHANS))
    more = f", {plural(orphans, 'manifest')} without a DB" if orphans else ""
    return f"{human_bytes(total(tallies).bytes)}: {plural(snapshots, 'snapshot')}, {plural(blobs, 'blob')}{more}"


def _host(fate: Fate, *, of_source: bool) -> str:
    if fate.host is None:
        return f"({fate.source})"
    return printable(fate.host) + (f" ({fate.source})" if of_source else "")


def _minute(at: float) -> str:
    return when(at)[:16].replace("T", " ") + " UTC"


def _fields(plan: Plan, freed: dict[str, Tally] | None) -> dict[str, Any]:
    fields = as_json(plan)
    extended = freed.pop(LOCKS, None) if freed is not None else None
    fields["locked"] = extended.objects if extended is not None else None
    fields["freed"] = None if freed is None else {step: tally._asdict() for step, tally in freed.items()}
    fields["bytes_freed"] = 0 if freed is None else total(freed).bytes
    return fields
