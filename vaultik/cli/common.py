"""What several commands share: options of the store, identities, names that are safe to print."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaultik.core.identity import Identity, parse_identities
from vaultik.errors import IdentityError
from vaultik.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultik.store.base import Store

VARIABLE = "VAULTIK_PRIVATE_KEY"
_INLINE = "AGE-SECRET-KEY-"
F = TypeVar("F", bound="Callable[..., Any]")


def store_options(command: F) -> F:
    """Add the options that say how a store is reached."""
    for option in (
        click.option("--region", help="Region of the bucket."),
        click.option("--endpoint", help="S3 endpoint URL, or file:///DIR for a directory store. Default: boto3's own."),
    ):
        command = option(command)
    return command


def identity_option(command: F) -> F:
    """Add the option that names an identity file."""
    return click.option(
        "--identity", type=click.Path(path_type=Path), help=f"Identity file. Default: ${VARIABLE}, a key or a file's path."
    )(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def store_of(endpoint: str | None, region: str | None, bucket: str, prefix: str) -> Store:
    """Open a store with the caller's own credentials (boto3's environment, profiles, roles)."""
    return open_store(endpoint, bucket, prefix, region=region)


def load_identities(path: Path | None) -> list[Identity]:
    """Return the identities from a file, or from the environment.

    Raises:
        IdentityError: there is none, or it can't be read. Never shows one.
    """
    if path is None:
        value = os.environ.get(VARIABLE, "").strip()
        if not value:
            raise IdentityError("no identity given", hint=f"set {VARIABLE} to the key or to an identity file's path, or pass --identity FILE")
        if value.upper().startswith(_INLINE):
            return _parsed(value, VARIABLE)
        path = Path(value)
        if not path.exists() and "/" not in value:
            raise IdentityError(f"{VARIABLE}: neither an identity nor the path of a file", hint="an identity begins with AGE-SECRET-KEY-1")
    try:
        text = path.read_text()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a text file"
        raise IdentityError(f"identity file {path}: {reason}", hint="vaultik keygen -o FILE makes one") from exc
    if stat.S_ISREG(mode) and mode & 0o077:
        click.echo(f"vaultik: identity file {path}: others may read it: chmod 600 {path}", err=True)
    return _parsed(text, f"identity file {path}")


def printable(text: str | bytes) -> str:
    r"""Return text that can't move a terminal's cursor or colour: control characters and stray bytes as \xNN."""
    shown = text if isinstance(text, str) else os.fsdecode(text)
    return "".join(_escaped(char) for char in shown)


def json_path(path: bytes) -> dict[str, str]:
    """Return a path for JSON: as text, and exactly (base64) where it isn't UTF-8."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": path.decode("utf-8", "backslashreplace"), "path_b64": base64.b64encode(path).decode()}


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape's bytes
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - one byte


def _parsed(text: str, what: str) -> list[Identity]:
    try:
        return parse_identities(text)
    except IdentityError as exc:
        raise IdentityError(f"{what}: {str(exc).removeprefix('identity: ')}", hint=exc.hint) from None
