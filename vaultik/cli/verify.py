"""`vaultik verify`: is what is stored what was stored, and is everything there that a restore will need."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import (
    identity_option,
    json_option,
    json_path,
    load_identities,
    load_signers,
    signers_option,
    store_of,
    store_options,
)
from vaultik.cli.progress import ProgressDisplay
from vaultik.errors import IntegrityError
from vaultik.maintain.verify import VerifySession
from vaultik.maintain.verify_report import VerifyReport, lines, summary
from vaultik.maintain.verify_request import parse_verify_request
from vaultik.secrets import is_given

if TYPE_CHECKING:
    from vaultik.core.identity import Identity

EPILOG = """\b
Examples:
  vaultik verify my-bucket host1/ --sample 5%           no key: every object read is what its name says
  vaultik verify my-bucket host1/ --identity audit.txt  also: nothing is missing that a snapshot needs
  vaultik verify my-bucket host1/ latest --deep         also: every chunk of every file comes out right
\b
Nothing is written to the store or to a target. What was read is remembered in --state, so that --sample takes what
has gone unread for longest, and a verification that was interrupted goes on.
What --json says of damaged and missing blobs, `vaultik backup CONFIG --heal FILE` takes, and stores them anew.
Exit codes: 0 all right; 4 something is missing or damaged (each thing is named, and what it costs);
2 usage, unknown snapshot, wrong identity; 1 the store failed.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT]...")
@click.option(
    "--deep", is_flag=True, help="Decrypt, and hash every chunk of every file. Takes an identity that restores."
)
@click.option("--sample", metavar="PART", help="Read only so much of the blobs: 5%, or 10GB.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="File that remembers what was read. Default: one for each store, below /var/lib/vaultik or ~/.local/state/vaultik.",
)
@click.option(
    "--accept",
    is_flag=True,
    help="Snapshots that are gone were dropped on purpose: by --drop, --forget-source or a short --grace.",
)
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@store_options
@identity_option
@signers_option
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
@json_option
def verify(
    bucket: str,
    prefix: str,
    snapshots: tuple[str, ...],
    deep: bool,
    sample: str | None,
    state: Path | None,
    accept: bool,
    host: str | None,
    endpoint: str | None,
    region: str | None,
    identity: Path | None,
    signers: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Look whether what is stored in BUCKET under PREFIX is whole, or what SNAPSHOT needs of it.

    Without an identity every object is read, and its bytes are held against its name. With one (that of an
    audit_recipient will do) every snapshot's list of blobs is held against what is stored as well.
    """
    request = parse_verify_request(
        snapshots,
        host=host,
        deep=deep,
        sample=sample,
        state=state,
        accept=accept,
        signers=load_signers(signers),
    )
    identities: list[Identity] = load_identities(identity) if is_given(identity) else []
    session = VerifySession(lambda: store_of(endpoint, region, bucket, prefix), identities, request)
    from vaultik.tasks.verify import verify as run

    display = ProgressDisplay("listing snapshots", enabled=not (quiet or as_json), noun="objects")

    def watch(event: dict[str, Any]) -> None:
        if "stage" in event:
            display.begin(event["stage"], files=event["objects"], bytes=event["bytes"])
        else:
            display.advance(files=event.get("done", 0), bytes=event.get("done_bytes", 0))

    with display:
        report = run(session, watch=watch)
    if as_json:
        click.echo(json.dumps(_fields(report)))
    else:
        for line in lines(report):
            click.echo(line, err=True)
        if not quiet:
            click.echo(summary(report))
    if report.problems:
        sys.exit(IntegrityError.exit_code)


def _fields(report: VerifyReport) -> dict[str, Any]:
    return {
        **report._asdict(),
        **{name: getattr(report, name)._asdict() for name in ("blobs", "read", "before", "unread")},
        "problems": [problem._asdict() for problem in report.problems],
        "files": [{**hit._asdict(), "paths": [json_path(path) for path in hit.paths]} for hit in report.files],
        "ok": not report.problems,
    }
