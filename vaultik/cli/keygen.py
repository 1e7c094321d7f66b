"""`vaultik keygen`: a new identity, in the format of age-keygen."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import click

from vaultik.cli.common import json_option
from vaultik.core.identity import generate
from vaultik.errors import IdentityError

EPILOG = """\b
Example:
  vaultik keygen -o key.txt
  age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
\b
Exit codes: 0 done; 2 the file is there already or can't be written.
"""


@click.command(epilog=EPILOG)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File for the identity; never overwritten. - is standard output.",
)
@json_option
def keygen(output: Path, as_json: bool) -> None:
    """Make an identity (opens backups) and print its recipient (goes into configs).

    Keep the file away from the hosts that are backed up, and keep a copy: without it no backup can be opened.
    """
    identity, recipient = generate()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = f"# created: {now}\n# public key: {recipient}\n{identity}\n"
    if str(output) == "-":
        click.echo(json.dumps({"recipient": recipient, "identity": identity}) + "\n" if as_json else text, nl=False)
        return
    try:
        fd = os.open(output, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise IdentityError(
            f"{output}: exists already",
            hint="an identity is never overwritten; name another file",
        ) from exc
    except OSError as exc:
        raise IdentityError(f"{output}: {exc.strerror}") from exc
    if as_json:
        click.echo(json.dumps({"recipient": recipient, "identity_file": str(output)}))
        return
    click.echo(recipient)
    click.echo(
        f"The identity is in {output}. Keep it off the hosts that are backed up, and keep a copy: nothing else opens a backup.",
        err=True,
    )
