"""`vaultik keygen`: a new identity, in the format of age-keygen."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import click

from vaultik.cli.common import json_option
from vaultik.core.identity import generate
from vaultik.core.sshsig import generate_signing_key, public_line
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
@click.option("--signing", is_flag=True, help="A key that signs snapshots (OpenSSH, ed25519) in place of an identity.")
@json_option
def keygen(output: Path, signing: bool, as_json: bool) -> None:
    """Make an identity (opens backups) and print its recipient (goes into configs).

    Keep the file away from the hosts that are backed up, and keep a copy: without it no backup can be opened.
    """
    text, public, name = _signing_key() if signing else _identity()
    kind = "signing_key" if signing else "identity"
    public_name = "public_key" if signing else "recipient"
    if str(output) == "-":
        click.echo(
            json.dumps({public_name: public, kind: text if signing else name}) + "\n" if as_json else text, nl=False
        )
        return
    _write(output, text, "a key" if signing else "an identity")
    if as_json:
        click.echo(json.dumps({public_name: public, f"{kind}_file": str(output)}))
        return
    click.echo(public)
    click.echo(_ADVICE[kind].format(output=output, public=public), err=True)


_ADVICE = {
    "identity": "The identity is in {output}. Keep it off the hosts that are backed up, and keep a copy: nothing else opens a backup.",
    "signing_key": "The key is in {output}; signing_key in the config of one host names it. Where backups are restored,"
    " `HOST {public}` is a line of the file for --signers.",
}


def _identity() -> tuple[str, str, str]:
    identity, recipient = generate()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"# created: {now}\n# public key: {recipient}\n{identity}\n", recipient, identity


def _signing_key() -> tuple[str, str, str]:
    text, public = generate_signing_key()
    return text.decode(), public_line(public), ""


def _write(output: Path, text: str, what: str) -> None:
    try:
        fd = os.open(output, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise IdentityError(
            f"{output}: exists already", hint=f"{what} is never overwritten; name another file"
        ) from exc
    except OSError as exc:
        raise IdentityError(f"{output}: {exc.strerror}") from exc
