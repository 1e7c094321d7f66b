"""Identities from where a person keeps them: a file, or the environment. None is ever shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vaultik.core.identity import Identity, parse_identities
from vaultik.errors import IdentityError

VARIABLE = "VAULTIK_PRIVATE_KEY"
_INLINE = "AGE-SECRET-KEY-"


def load_identities(path: Path | None) -> list[Identity]:
    """Return the identities from a file, or from the environment.

    Raises:
        IdentityError: there is none, or it can't be read. Never shows one.
    """
    if path is None:
        value = os.environ.get(VARIABLE, "").strip()
        if not value:
            raise IdentityError(
                "no identity given",
                hint=f"set {VARIABLE} to the key or to an identity file's path, or pass --identity FILE",
            )
        if value.upper().startswith(_INLINE):
            return _parsed(value, VARIABLE)
        path = Path(value)
        if not path.exists() and "/" not in value:
            raise IdentityError(
                f"{VARIABLE}: neither an identity nor the path of a file",
                hint="an identity begins with AGE-SECRET-KEY-1",
            )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a text file"
        raise IdentityError(f"identity file {path}: {reason}", hint="vaultik keygen -o FILE makes one") from exc
    return _parsed(text, f"identity file {path}")


def readable_by_others(path: Path | None) -> Path | None:
    """Return the identity file that is used, if others than its owner may read it."""
    value = os.environ.get(VARIABLE, "").strip()
    if path is None and value and not value.upper().startswith(_INLINE):
        path = Path(value)
    try:
        mode = path.stat().st_mode if path is not None else 0
    except OSError:
        return None
    return path if stat.S_ISREG(mode) and mode & 0o077 else None


def _parsed(text: str, what: str) -> list[Identity]:
    try:
        return parse_identities(text)
    except IdentityError as exc:
        raise IdentityError(f"{what}: {str(exc).removeprefix('identity: ')}", hint=exc.hint) from None
