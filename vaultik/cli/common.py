"""What several commands share: options of the store, identities, names that are safe to print."""

from __future__ import annotations

import base64
import getpass
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaultik import secrets
from vaultik.endpoints import endpoint_fault
from vaultik.errors import ConfigError, IdentityError, VaultikError
from vaultik.secrets import VARIABLE
from vaultik.shown import plural, printable
from vaultik.store.cached import with_cache
from vaultik.store.object_cache import open_cache
from vaultik.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import Store

__all__ = [
    "StandardOutput",
    "cache_option",
    "identity_option",
    "json_option",
    "json_path",
    "load_identities",
    "load_signers",
    "paths_of",
    "plural",
    "printable",
    "signers_option",
    "store_of",
    "store_options",
]

_TERMINAL = "/dev/tty"

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
        "--identity",
        type=click.Path(path_type=Path),
        help=f"Identity file, plain or under a passphrase (age -p). Default: ${VARIABLE}, a key or a file's path.",
    )(command)


def signers_option(command: F) -> F:
    """Add the option that names whom to believe."""
    return click.option(
        "--signers",
        type=click.Path(path_type=Path),
        help="Allowed_signers file of ssh-keygen: take only what one of them signed in its host's name.",
    )(command)


def load_signers(path: Path | None) -> list[Signer] | None:
    """Return whom to believe, None if that doesn't matter.

    Raises:
        ConfigError: the file can't be read, or is none.
    """
    if path is None:
        return None
    from vaultik import signing

    return signing.load_signers(path)


class Place(click.Path):
    """A path on this machine. An empty one, of a variable that isn't set maybe, is refused: Python takes it for the current directory."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(path_type=Path, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take a path that isn't empty."""
        if not os.fspath(value):
            self.fail("it is empty; is a variable not set?", param, ctx)
        return super().convert(value, param, ctx)


def cache_option(command: F) -> F:
    """Add the option that turns the cache of metadata off."""
    return click.option(
        "--cache/--no-cache",
        default=True,
        help="Keep what describes snapshots, encrypted as it is stored, in ~/.cache/vaultik; an S3 store's alone. Default: yes.",
    )(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def store_of(endpoint: str | None, region: str | None, bucket: str, prefix: str, *, cache: bool = False) -> Store:
    """Open a store with the caller's own credentials (boto3's environment, profiles, roles).

    Args:
        endpoint: where; None is boto3's own.
        region: of the bucket.
        bucket: the bucket.
        prefix: the prefix.
        cache: read metadata through the user's cache. Not for who looks whether what is stored is whole.

    Raises:
        ConfigError: the endpoint or the bucket can't be one. A password that stands in it is not shown.
    """
    if endpoint is not None and (fault := endpoint_fault(endpoint)):
        reason, hint = fault
        raise ConfigError(f"endpoint {reason}", hint=hint)
    store = open_store(endpoint, bucket, prefix, region=region)
    # A directory is as near as a cache would be.
    is_near = endpoint is not None and endpoint.startswith("file://")
    return with_cache(store, open_cache() if cache and not is_near else None)


def load_identities(path: Path | None) -> list[Identity]:
    """Return the caller's identities, and say so when others may read them. A passphrase is asked for at the terminal.

    Raises:
        IdentityError: there is none, or it can't be read.
    """
    for text in secrets.identity_warnings(path):
        click.echo(f"vaultik: {text}", err=True)
    return secrets.load_identities(path, _ask_passphrase)


def _ask_passphrase(what: str) -> str:
    """Ask at the terminal, without showing what is typed, wherever standard input and output go.

    Raises:
        IdentityError: there is none.
    """
    try:
        # Without one getpass would read standard input, and show it.
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as exc:
        raise IdentityError(
            "identity: it is encrypted with a passphrase, and there is no terminal to ask for that",
            hint=f'{VARIABLE}="$(age -d FILE)" in front of the command, from a terminal; or an identity without one',
        ) from exc
    return getpass.getpass(f"Passphrase of {printable(what)}: ")


def paths_of(text: str) -> tuple[bytes, ...]:
    """Return the paths that a person may mean: what was typed, and what `printable` would show so."""
    exact = os.fsencode(text)
    return tuple(dict.fromkeys((exact, _SHOWN.sub(_unescaped, exact))))


class StandardOutput:
    """Standard output for bytes. That it can't be written, and nothing else, is told of it.

    Raises:
        VaultikError: the disk behind it is full, or gone.
    """

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of `data`."""
        with _stdout_errors():
            return sys.stdout.buffer.write(data)

    def flush(self) -> None:
        """Send off what is buffered."""
        with _stdout_errors():
            sys.stdout.buffer.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise VaultikError(f"standard output: {exc.strerror or exc}") from exc


def json_path(path: bytes) -> dict[str, str]:
    """Return a path for JSON: as text, and exactly (base64) where it isn't UTF-8."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": path.decode("utf-8", "backslashreplace"), "path_b64": base64.b64encode(path).decode()}


_SHOWN = re.compile(rb"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 16)])
    code = found[2] or found[3]
    return chr(int(code, 16)).encode() if code else b"\\"
