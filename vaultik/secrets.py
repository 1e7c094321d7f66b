"""Identities from where a person keeps them: a file, plain or under a passphrase, or the environment. None is ever shown.

From before one is read on, this process's memory is its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vaultik import linux
from vaultik.core.identity import Identity, is_encrypted, open_identities, parse_identities, takes_passphrase
from vaultik.errors import IdentityError
from vaultik.shown import may_be_secret, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[str], str]

VARIABLE = "VAULTIK_PRIVATE_KEY"
_KEY = "AGE-SECRET-KEY-"


def load_identities(path: Path | None, ask: Ask | None = None) -> list[Identity]:
    """Return the identities from a file, or from the environment.

    Args:
        path: the file; None for the environment.
        ask: gets the passphrase of what it is told; None where there is nobody to ask.

    Raises:
        IdentityError: there is none, or it can't be read. Shows neither one nor what may be one, mistyped.
    """
    with contextlib.suppress(OSError):  # what a sandbox forbids must not stand in the way of a restore
        linux.keep_memory_private()
    given = os.environ.get(VARIABLE, "").strip() if path is None else os.fspath(path)
    if not given:
        raise IdentityError(
            "no identity given",
            hint=f"set {VARIABLE} to the key or to an identity file's path, or pass --identity FILE",
        )
    if _is_key(given):
        if path is not None:
            raise IdentityError(
                "--identity: takes a file, not the key itself",
                hint=f"who lists processes sees the command line; put the key into a file or {VARIABLE}",
            )
        return _parsed(os.fsencode(given), VARIABLE, ask)
    where = VARIABLE if path is None else "--identity"
    if given.startswith("age1"):
        raise IdentityError(f"{where}: is a recipient", hint=f"an identity begins with {_KEY}1")
    if may_be_secret(given) and not _is_file(given):
        raise IdentityError(
            f"{where}: no identity, and no such file either",
            hint=f"an identity begins with {_KEY}1; what was given is not shown, it may be one with a mistake in it",
        )
    return _parsed(_read(given, where), f"identity file {given}", ask)


def is_given(path: Path | None) -> bool:
    """Tell whether somebody says where an identity is."""
    return path is not None or bool(os.environ.get(VARIABLE, "").strip())


def identity_files(path: Path | None) -> list[Path]:
    """Return the file that the identities in use are kept in, if they are in one."""
    given = os.environ.get(VARIABLE, "").strip() if path is None else os.fspath(path)
    return [Path(given)] if given and not _is_key(given) and _is_file(given) else []


def identity_warnings(path: Path | None) -> list[str]:
    """Return what to say of the identity file that is used: that others than its owner may read it."""
    said = []
    for file in identity_files(path):
        with contextlib.suppress(OSError):
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                shown = printable(os.fspath(file))
                said.append(f"identity file {shown}: others may read it: chmod 600 {shown}")
    return said


def _is_key(text: str) -> bool:
    """Tell whether a value is, or holds, a secret: what several lines or any kind of key looks like."""
    return "\n" in text or _KEY in text.upper() or "PRIVATE KEY" in text.upper()


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _read(path: str, where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as exc:
        raise IdentityError(f"{where}: no such file: {path}", hint=f"an identity begins with {_KEY}1") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no file has such a name"
        raise IdentityError(f"{where}: identity file {path}: {reason}") from exc


def _parsed(data: bytes, what: str, ask: Ask | None) -> list[Identity]:
    try:
        if is_encrypted(data):
            data = _opened(data, what, ask)
        return parse_identities(data.decode())
    except UnicodeDecodeError:
        raise IdentityError(f"{what}: not a text file") from None
    except IdentityError as exc:
        raise IdentityError(f"{what}: {str(exc).removeprefix('identity: ')}", hint=exc.hint) from None


def _opened(data: bytes, what: str, ask: Ask | None) -> bytes:
    if not takes_passphrase(data):
        raise IdentityError(
            "identity: it is encrypted, and not with a passphrase",
            hint="age opens it: --identity <(age -d -i KEY FILE), also with an SSH key or a plugin's identity",
        )
    if ask is None:
        raise IdentityError(
            "identity: it is encrypted with a passphrase, and nobody can be asked for that here",
            hint=f'age asks: {VARIABLE}="$(age -d FILE)" in front of the command',
        )
    return open_identities(data, ask(what))
