"""Identities from where a person keeps them: a file, or the environment. None is ever shown."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from vaultik.core.identity import Identity, parse_identities
from vaultik.errors import IdentityError
from vaultik.shown import may_be_secret

VARIABLE = "VAULTIK_PRIVATE_KEY"
_KEY = "AGE-SECRET-KEY-"


def load_identities(path: Path | None) -> list[Identity]:
    """Return the identities from a file, or from the environment.

    Raises:
        IdentityError: there is none, or it can't be read. Shows neither one nor what may be one, mistyped.
    """
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
        return _parsed(given, VARIABLE)
    where = VARIABLE if path is None else "--identity"
    if given.startswith("age1"):
        raise IdentityError(f"{where}: is a recipient", hint=f"an identity begins with {_KEY}1")
    if may_be_secret(given) and not _is_file(given):
        raise IdentityError(
            f"{where}: no identity, and no such file either",
            hint=f"an identity begins with {_KEY}1; what was given is not shown, it may be one with a mistake in it",
        )
    return _parsed(_read(given, where), f"identity file {given}")


def is_given(path: Path | None) -> bool:
    """Tell whether somebody says where an identity is."""
    return path is not None or bool(os.environ.get(VARIABLE, "").strip())


def identity_files(path: Path | None) -> list[Path]:
    """Return the file that the identities in use are kept in, if they are in one."""
    given = os.environ.get(VARIABLE, "").strip() if path is None else os.fspath(path)
    return [Path(given)] if given and not _is_key(given) and _is_file(given) else []


def readable_by_others(path: Path | None) -> Path | None:
    """Return the identity file that is used, if others than its owner may read it."""
    for file in identity_files(path):
        with contextlib.suppress(OSError):
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                return file
    return None


def _is_key(text: str) -> bool:
    """Tell whether a value is, or holds, a secret: what several lines or any kind of key looks like."""
    return "\n" in text or _KEY in text.upper() or "PRIVATE KEY" in text.upper()


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _read(path: str, where: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError as exc:
        raise IdentityError(f"{where}: no such file: {path}", hint=f"an identity begins with {_KEY}1") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a text file"
        raise IdentityError(f"{where}: identity file {path}: {reason}") from exc


def _parsed(text: str, what: str) -> list[Identity]:
    try:
        return parse_identities(text)
    except IdentityError as exc:
        raise IdentityError(f"{what}: {str(exc).removeprefix('identity: ')}", hint=exc.hint) from None
