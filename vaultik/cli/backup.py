"""`vaultik backup`: one run, with progress for a person, silence for cron, JSON for a program."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import plural, printable
from vaultik.cli.progress import ProgressDisplay, human_bytes
from vaultik.config import load_config
from vaultik.config.streams import name_fault
from vaultik.errors import ConfigError, IndexLockedError

if TYPE_CHECKING:
    from vaultik.config import Config
    from vaultik.model import BlobId
    from vaultik.tasks.run import BackupResult

EPILOG = """\b
Example:
  vaultik backup /etc/vaultik.yaml
  vaultik backup /etc/vaultik.yaml --cron      # silent unless something is wrong
  vaultik backup /etc/vaultik.yaml --daemon    # in the background, by the config's intervals
\b
Exit codes: 0 done; 3 a snapshot was written but some files could not be read;
1 failed, nothing new to rely on; 2 configuration; 130/143 interrupted.
A daemon that SIGTERM ends exits with 0. SIGHUP: it reads CONFIG again; SIGUSR1: it runs now.
"""

_SHOWN_PROBLEMS = 20


@click.command(epilog=EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--cron",
    is_flag=True,
    help="Print nothing unless something went wrong (no JSON either); a run that is going on already is no error.",
)
@click.option("--workers", type=click.IntRange(1, 64), help="Luigi processes (default: as many as the work merits).")
@click.option("--adopt", is_flag=True, help="Take over the index of a config file that was moved here.")
@click.option(
    "--stdin", metavar="NAME", help="Standard input becomes the file NAME, such as /dumps/db.sql, in the snapshot."
)
@click.option(
    "--heal",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Store anew what is in the blobs that `vaultik verify --json > FILE` calls damaged or missing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress, no summary; problems are still named.")
@click.option("--daemon", is_flag=True, help="Stay, watch the sources, and run when something changed.")
@click.option("--foreground", is_flag=True, help="With --daemon: not in the background; log to standard error.")
@click.option("--log-file", type=click.Path(path_type=Path), help="With --daemon: log here, not to the system's log.")
def backup(
    config: Path,
    cron: bool,
    workers: int | None,
    adopt: bool,
    stdin: str | None,
    heal: Path | None,
    as_json: bool,
    quiet: bool,
    daemon: bool,
    foreground: bool,
    log_file: Path | None,
) -> None:
    """Back up what CONFIG names and write a snapshot."""
    if daemon or foreground or log_file:
        from vaultik.cli.daemon import run_daemon

        others = {
            "--cron": cron,
            "--adopt": adopt,
            "--stdin": stdin,
            "--heal": heal,
            "--json": as_json,
            "--quiet": quiet,
        }
        sys.exit(
            run_daemon(
                config,
                [name for name in others if others[name]],
                daemon,
                foreground,
                log_file=log_file,
                workers=workers,
            )
        )
    settings = load_config(config)
    damaged = _damaged(heal)
    if stdin is not None:
        _check_stdin(settings, stdin)
    if not cron:
        for warning in settings.warnings:
            _say(warning)
    from vaultik.tasks.run import run_backup
    from vaultik.tasks.settings import host_name

    begun = time.monotonic()
    display = _Display(shown=not (cron or as_json or quiet))
    try:
        with display:
            result = run_backup(
                settings,
                host=host_name(),
                workers=workers,
                adopt=adopt,
                heal=damaged,
                stdin=stdin,
                watch=display.watch,
            )
    except IndexLockedError:
        if cron:
            return
        raise
    seconds = time.monotonic() - begun
    _name_problems(result, quiet=cron and not result.run.exit_code, everything=cron or as_json)
    if as_json and not cron:
        click.echo(json.dumps(_summary(result, display.sent, seconds)))
    elif not cron and not quiet:
        _print_summary(result, display, seconds)
    sys.exit(result.run.exit_code)


def _damaged(report: Path | None) -> list[BlobId]:
    from vaultik.backup.heal import load_report

    return load_report(report) if report is not None else []


def _check_stdin(settings: Config, name: str) -> None:
    taken = [os.fsencode(command.name) for command in settings.commands]
    if fault := name_fault(name, settings.source_dirs, taken):
        raise ConfigError(f"--stdin: {fault[0]}", hint=fault[1])


class _Display(ProgressDisplay):
    """Turns a run's events into what a person sees."""

    def __init__(self, *, shown: bool) -> None:
        super().__init__("scanning", enabled=shown)
        self._shown = shown
        self.sent = 0
        self.blobs = 0
        self._seen = 0
        self._new = 0
        self._read = 0

    def watch(self, event: dict[str, Any]) -> None:
        """Take one event of the run."""
        if "output" in event:
            self.pause()
            _say(event["output"])
            self.resume()
            return
        if "notice" in event:
            if self._shown:
                self.pause()
                _say(event["notice"])
                self.resume()
            return
        if "scanned_files" in event:
            self._seen += event["scanned_files"]
            self.describe("scanning", f"{self._seen:,} files seen")
        if "planned_bytes" in event:
            self.total(files=0, bytes=event["planned_bytes"], blobs=event["planned_bundles"])
            self.describe("reading")
        self._new += event.get("new", 0)
        self._read += event.get("read", 0)
        self.sent += event.get("stored", 0)
        self.blobs += event.get("blobs", 0)
        if self._read:
            known = human_bytes(self._read - self._new)
            self.describe("backing up", f"{human_bytes(self._new)} new, {known} known, {human_bytes(self.sent)} stored")
        self.advance(files=event.get("files", 0), bytes=event.get("read", 0), blobs=event.get("blobs", 0))


def _name_problems(result: BackupResult, *, quiet: bool, everything: bool) -> None:
    for text in (p.reason for p in result.problems if p.kind == "warning"):
        _say(printable(text))
    if quiet:
        return
    problems = [p for p in result.problems if p.kind not in ("vanished", "warning")]
    shown = problems if everything else problems[:_SHOWN_PROBLEMS]
    for problem in shown:
        _say(f"{printable(problem.path)}: {problem.reason}")
    if len(shown) < len(problems):
        _say(f"... and {len(problems) - len(shown):,} more (--json names them all)")


def _summary(result: BackupResult, sent: int, seconds: float) -> dict[str, Any]:
    kinds = [p.kind for p in result.problems]
    return {
        "snapshot": result.run.snapshot,
        "exit_code": result.run.exit_code,
        "seconds": round(seconds, 3),
        **result.run.counts,
        "bytes_uploaded": sent,
        "unreadable": kinds.count("unreadable"),
        "changed_while_read": kinds.count("changed"),
        "vanished": kinds.count("vanished"),
        "problems": [
            {
                "kind": p.kind,
                "path": os.fsdecode(p.path).encode("utf-8", "backslashreplace").decode(),
                "reason": p.reason,
            }
            for p in result.problems
        ],
    }


def _print_summary(result: BackupResult, display: _Display, seconds: float) -> None:
    c = result.run.counts
    kinds = [p.kind for p in result.problems]
    click.echo(f"snapshot {result.run.snapshot} in {seconds:.1f} s")
    click.echo(
        f"  files    {c['files']:,} seen ({human_bytes(c['bytes'])}), {c['files_read']:,} read,"
        f" {kinds.count('unreadable'):,} unreadable, {kinds.count('changed'):,} changed while read,"
        f" {c['excluded']:,} excluded, {c['removed']:,} gone since last time"
        + (f", {c['renamed']:,} known by another name" if c["renamed"] else "")
    )
    click.echo(
        f"  bytes    {human_bytes(c['bytes_read'])} read, {human_bytes(c['bytes_new'])} new,"
        f" {human_bytes(c['bytes_read'] - c['bytes_new'])} known already"
    )
    click.echo(
        f"  stored   {human_bytes(c['bytes_stored'])} in {plural(c['blobs'], 'blob')} ({human_bytes(display.sent)} sent)"
    )


def _say(text: str) -> None:
    click.echo(f"vaultik: {text}", err=True)
