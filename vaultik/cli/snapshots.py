"""`vaultik snapshots`: what a store holds."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from vaultik.cli.common import json_option, printable
from vaultik.cli.progress import human_bytes
from vaultik.cli.reading import Reading, reading_options
from vaultik.errors import IntegrityError, NoMatchingIdentityError, SelectionError, SignatureError
from vaultik.secrets import is_given
from vaultik.snapshot.find import (
    WITHOUT_DB,
    FoundSnapshot,
    list_all,
    read_manifest,
    when,
    with_its_size,
)
from vaultik.snapshot.signed import check_signed

if TYPE_CHECKING:
    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import Store

_NOT_OURS = "for another identity"
_DAMAGED = "manifest damaged or missing"
_UNSIGNED = "not signed by any of --signers"

EPILOG = """\b
Example:
  vaultik snapshots my-bucket host1/
\b
Without an identity ids, times and sizes are shown; with one also hosts, entries and content,
and with --signers who signed.
Exit codes: 0 done; 2 no snapshot there, or none for this identity; 1 store failed; 4 a manifest is
damaged, or not signed by any of --signers (the others are listed).
"""


@click.command(epilog=EPILOG)
@click.argument("bucket")
@click.argument("prefix")
@click.option("--host", help="Of one host alone: its name, or a source.")
@reading_options
@json_option
def snapshots(host: str | None, as_json: bool, reading: Reading) -> None:
    """List the snapshots in BUCKET under PREFIX, oldest first."""
    believed = reading.believed()
    identities = reading.identities() if believed is not None or is_given(reading.identity) else []
    with closing(reading.store()) as store:
        found, alone = list_all(store)
        if not found:
            raise SelectionError(
                f"no snapshot in {store.location}", hint="check bucket and prefix; vaultik backup makes the first one"
            )
        rows = [_row(store, snapshot, identities, believed) for snapshot in found]
        if host is not None:
            rows = _of_host(rows, host, store)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for line in _lines(rows, known=bool(identities)):
            click.echo(line)
    for name in alone:
        click.echo(f"note: {name.snapshot}: only its manifest is stored: {WITHOUT_DB}", err=True)
    problems = [row["problem"] for row in rows if "problem" in row]
    if not identities:
        click.echo("Without an identity only names, times and sizes can be seen.", err=True)
    elif _DAMAGED in problems or _UNSIGNED in problems:
        sys.exit(IntegrityError.exit_code)
    elif len(problems) == len(rows):
        raise NoMatchingIdentityError(
            "the identity opens none of these snapshots",
            hint="give the identity whose recipient the backups were made for",
        )


def _row(
    store: Store, snapshot: FoundSnapshot, identities: list[Identity], believed: list[Signer] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "snapshot": snapshot.name.snapshot,
        "source": snapshot.source8,
        "stored": when(snapshot.modified),
        "db_bytes": snapshot.size_bytes,
    }
    if not identities:
        return row
    try:
        facts = read_manifest(store, snapshot, identities)
        signer = None
        if believed is not None:
            signer = check_signed(with_its_size(store, snapshot, facts.dbs[0][1]), facts, believed)
    except NoMatchingIdentityError:
        return row | {"problem": _NOT_OURS}
    except SignatureError as exc:
        return row | {"problem": _UNSIGNED, "reason": str(exc)}
    except IntegrityError as exc:
        return row | {"problem": _DAMAGED, "reason": str(exc)}
    return row | {
        "host": facts.host,
        "complete": facts.complete,
        "entries": facts.entries,
        "bytes": facts.bytes,
        "blobs": len(facts.blobs),
        "stored_bytes": sum(size for _, size in facts.blobs),
        **({"signed_by": ",".join(signer.principals)} if signer is not None else {}),
    }


def _of_host(rows: list[dict[str, Any]], host: str, store: Store) -> list[dict[str, Any]]:
    """Return what is of a host, and what may be: damaged ones, and those that nobody who is believed has signed."""
    is_source = any(row["source"] == host for row in rows)
    known = sorted({row["host"] for row in rows if "host" in row})
    open_ones = () if is_source else (_DAMAGED, _UNSIGNED)
    kept = [row for row in rows if host in (row["source"], row.get("host")) or row.get("problem") in open_ones]
    if not kept:
        hint = f"there are: {', '.join(known)}" if known else "without an identity only sources are known, not hosts"
        raise SelectionError(f"no snapshot of host {host!r} in {store.location}", hint=hint)
    return kept


def _lines(rows: list[dict[str, Any]], *, known: bool) -> list[str]:
    head = ["snapshot", "put at (UTC)", "source", "metadata"] + (
        ["host", "entries", "content", "stored"] if known else []
    )
    if any("signed_by" in row for row in rows):
        head.append("signed by")
    table = [head]
    for row in rows:
        stored = row["stored"].replace("T", " ").removesuffix("Z")
        line = [row["snapshot"], stored, row["source"], human_bytes(row["db_bytes"])]
        if "problem" in row:
            line.append(f"({row['problem']})")
        if known and "host" in row:
            partial = "" if row["complete"] else " (partial)"
            line += [
                printable(row["host"]) + partial,
                f"{row['entries']:,}",
                human_bytes(row["bytes"]),
                human_bytes(row["stored_bytes"]),
                *([printable(row["signed_by"])] if "signed_by" in row else []),
            ]
        table.append(line + [""] * (len(head) - len(line)))
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
