"""`vaultik fetch`: one file or directory back, to a place of its own or to standard output."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import click

from vaultik.cli.common import Place, StandardOutput, json_option, paths_of
from vaultik.cli.kept import attribute_options
from vaultik.cli.progress import ProgressDisplay
from vaultik.cli.reading import Reading, reading_options
from vaultik.cli.restore import exit_by, say_report
from vaultik.errors import ConfigError
from vaultik.restore.single import fetch as fetch_entry
from vaultik.restore.single import fetch_to_stream

if TYPE_CHECKING:
    from pathlib import Path

    from vaultik.restore.kept import Kept

EPILOG = """\b
Example:
  export VAULTIK_PRIVATE_KEY=key.txt
  vaultik fetch my-bucket host1/ latest /etc/fstab fstab.old
  vaultik fetch my-bucket host1/ latest /etc/fstab - | less
\b
A TARGET that is a directory gets the entry into it, under its name.
Exit codes: 0 done; 4 something stored is missing or damaged; 2 usage, unknown snapshot or path,
wrong identity; 1 store or target failed.
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.argument("snapshot")
@click.argument("path")
@click.argument("target", type=Place(allow_dash=True))
@click.option("--force", is_flag=True, help="Replace what stands at TARGET.")
@attribute_options
@click.option(
    "--salvage", is_flag=True, help="Of damaged files keep what can be read, as NAME.vaultik-salvaged; on - with zeros."
)
@click.option("--host", help="Which host, for `latest` in a prefix of several.")
@reading_options
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
@json_option
def fetch(
    snapshot: str,
    path: str,
    target: Path,
    force: bool,
    salvage: bool,
    host: str | None,
    quiet: bool,
    as_json: bool,
    keeps: Kept,
    reading: Reading,
) -> None:
    """Fetch PATH of SNAPSHOT to TARGET (`-` is standard output)."""
    identities, believed = reading.identities(), reading.believed()
    with closing(reading.store()) as store:
        if os.fspath(target) == "-":
            if as_json:
                raise ConfigError("--json: standard output is the file's", hint="name a TARGET instead of -")
            out = StandardOutput()
            fetch_to_stream(
                store, identities, snapshot, paths_of(path), out, host=host, signers=believed, salvage=salvage
            )
            return
        with ProgressDisplay("fetching", enabled=not (quiet or as_json)) as display:
            place, report = fetch_entry(
                store,
                identities,
                snapshot,
                paths_of(path),
                target,
                host=host,
                signers=believed,
                force=force,
                keeps=keeps,
                salvage=salvage,
                progress=display,
            )
    say_report(report, place, as_json=as_json, quiet=quiet)
    exit_by(report)
