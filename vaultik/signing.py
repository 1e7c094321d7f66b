"""Signing keys and files of allowed signers from where a person keeps them. No private key is ever shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultik.core.sshsig import Signer, SigningKey, parse_signers
from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST = 1 << 20


def load_signing_key(path: Path) -> SigningKey:
    """Return the key that signs snapshots.

    Raises:
        ConfigError: it can't be read, or can't sign.
    """
    what = f"signing_key {path}"
    try:
        return SigningKey(_read(path, what))
    except ConfigError as exc:
        raise _named(what, exc) from None


def load_signers(path: Path) -> list[Signer]:
    """Return whom an allowed_signers file lets sign.

    Raises:
        ConfigError: it can't be read, or a line of it is none.
    """
    what = f"--signers {path}"
    try:
        return parse_signers(_read(path, what).decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: not a text file") from None
    except ConfigError as exc:
        raise _named(what, exc) from None


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as exc:
        raise ConfigError(f"{what}: {exc.strerror or exc}") from exc
    if len(data) > _LARGEST:
        raise ConfigError(f"{what}: more than {_LARGEST} bytes")
    return data


def _named(what: str, exc: ConfigError) -> ConfigError:
    return exc if str(exc).startswith(what) else ConfigError(f"{what}: {exc}", hint=exc.hint)
