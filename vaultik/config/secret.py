"""The secret of the store's credential, from the config itself or from the file that it names. Never shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from vaultik.config.document import S3


def secret_access_key(s3: S3) -> str | None:
    """Return the secret that goes with `s3.access_key_id`; None for boto3's own chain.

    A file is read whenever a store is opened, so that one that was replaced holds from then on.

    Raises:
        ConfigError: the file can't be read, or isn't one line of text.
    """
    if s3.secret_access_key_file is None:
        return s3.secret_access_key
    what = f"s3.secret_access_key_file {s3.secret_access_key_file}"
    hint = "it holds the secret alone, on one line"
    try:
        lines = Path(s3.secret_access_key_file).read_text(encoding="utf-8").split()
    except OSError as exc:
        raise ConfigError(f"{what}: {exc.strerror}", hint=hint) from exc
    except ValueError:
        raise ConfigError(f"{what}: not a text file", hint=hint) from None
    if len(lines) != 1:
        raise ConfigError(f"{what}: {'more than one word in it' if lines else 'empty'}", hint=hint)
    return lines[0]
