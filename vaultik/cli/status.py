"""`vaultik status`: how the backups of a config are doing, from its index alone: no key, no network, no change."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, json_path, plural, printable
from vaultik.config import load_config
from vaultik.config.quantities import parse_duration
from vaultik.daemon.pid_file import read_pid
from vaultik.index.db import mapped
from vaultik.index.status import read_status
from vaultik.shown import human_bytes, human_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultik.index.status import Attempt, Status

EPILOG = """\b
Example:
  vaultik status /etc/vaultik.yaml
  vaultik status /etc/vaultik.yaml --max-age 26h    # for monitoring
\b
Exit codes: 0 a snapshot was written, within --max-age if that is given; 1 none was, or it is older; 2 configuration.
"""

_SHOWN_FILES = 20


class _Duration(click.ParamType[int]):
    """A duration as configs write them."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return it in seconds."""
        try:
            return parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command(epilog=EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--max-age", type=_Duration(), help="Exit with 1 if the last snapshot is older: 90s, 15m, 26h, 7d.")
@json_option
def status(config: Path, max_age: int | None, as_json: bool) -> None:
    """Tell from CONFIG's index what was stored last and when, what failed, what is due. Needs no key and no network."""
    settings = load_config(config)
    found = read_status(settings.index_path)
    with mapped(settings.index_path):
        pid = read_pid(settings.index_path)
    now = time.time()
    age = None if found.success is None else max(now - (found.success.finished or found.success.started), 0.0)
    verdict = _verdict(found, settings.path, age, max_age)
    if as_json:
        click.echo(json.dumps(_as_dict(found, pid, age, max_age, verdict)))
    else:
        for line in _lines(found, pid, age, now):
            click.echo(printable(line))
    if verdict is not None:
        if not as_json:
            click.echo(f"vaultik: {verdict}", err=True)
        sys.exit(1)


def _verdict(found: Status, config: Path, age: float | None, max_age: int | None) -> str | None:
    """Return what is wrong, None if nothing is."""
    if found.config not in (None, str(config.resolve())):
        return f"the index belongs to the config {found.config}: with this one no backup begins"
    if age is None:
        return "no snapshot was ever written"
    if max_age is not None and age > max_age:
        return f"the last snapshot is {human_duration(age)} old, more than {human_duration(max_age)}"
    return None


def _lines(found: Status, pid: int | None, age: float | None, now: float) -> Iterator[str]:
    if found.success is None or age is None:
        yield "last snapshot   none"
    else:
        yield f"last snapshot   {found.success.snapshot}, {human_duration(age)} ago ({_time(found.success.finished)})"
        yield f"                {_stored(found.success)}"
        for problem in found.unreadable[:_SHOWN_FILES]:
            yield f"  unreadable    {printable(problem.path)}: {problem.reason}"
        if len(found.unreadable) > _SHOWN_FILES:
            yield f"  unreadable    ... and {len(found.unreadable) - _SHOWN_FILES:,} more (--json names them all)"
    if found.last_full_scan is not None:
        yield f"last full scan  {human_duration(now - found.last_full_scan)} ago ({_time(found.last_full_scan)})"
    if found.attempt is not None:
        yield f"last run        {_came_of_it(found, found.attempt)}, {human_duration(now - found.attempt.started)} ago"
    if found.running:
        yield "now             a run is going on"
    yield f"daemon          {_daemon(found.daemon, pid)}"
    if pid is not None:
        yield from _plans(found.daemon, now)


def _stored(run: Attempt) -> str:
    counts = run.counts
    return (
        f"{plural(counts.get('files', 0), 'file')} ({human_bytes(counts.get('bytes', 0))}),"
        f" {human_bytes(counts.get('bytes_new', 0))} new, {human_bytes(counts.get('bytes_stored', 0))} stored"
    )


def _came_of_it(found: Status, run: Attempt) -> str:
    if run.exit_code is not None:
        return "done" if run.exit_code == 0 else "done, but some files could not be read"
    if run.error is not None:
        return f"failed: {run.error}"
    return "begun" if found.running else "interrupted"


def _daemon(known: dict[str, Any], pid: int | None) -> str:
    if pid is None:
        return "not running" + (", was killed" if known.get("pid") else "")
    who = f"running, process {pid}" if pid else "beginning or ending"
    # Nothing is noted before the first run has made the index.
    return who if known.get("pid") != pid else f"{who}, {plural(known['watching'], 'directory', 'directories')} watched"


def _plans(known: dict[str, Any], now: float) -> Iterator[str]:
    if not known:
        return
    if known["failures"]:
        yield f"failing         {plural(known['failures'], 'time')} in a row: {known['last_error']}"
    yield f"dirty           {known['dirty']:,}" + (
        f" ({known['doubt']}: the next run is a full scan)" if known["doubt"] else ""
    )
    waits = known["dirty"] or known["doubt"] or known["failures"]
    if waits:
        yield f"next run        {_in(known['next_look'] or now, now)}"
    elif known["next_full_scan"] is not None:
        yield f"next run        when something changes; a full scan {_in(known['next_full_scan'], now)}"


def _in(moment: float, now: float) -> str:
    return f"in {human_duration(moment - now)} ({_time(moment)})" if moment > now else "now"


def _time(moment: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment)) if moment is not None else "unknown"


def _as_dict(
    found: Status, pid: int | None, age: float | None, max_age: int | None, verdict: str | None
) -> dict[str, Any]:
    return {
        "ok": verdict is None,
        "problem": verdict,
        "age_seconds": age,
        "max_age_seconds": max_age,
        "last_success": _attempt(found.success),
        "unreadable": [json_path(problem.path) | {"reason": problem.reason} for problem in found.unreadable],
        "last_run": _attempt(found.attempt),
        "last_full_scan": found.last_full_scan,
        "running": found.running,
        "daemon": {**found.daemon, "alive": pid is not None, "pid": pid},
    }


def _attempt(run: Attempt | None) -> dict[str, Any] | None:
    return run._asdict() if run else None
