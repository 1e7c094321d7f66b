"""What a verification is asked to do, from the words of a command line to checked values. It looks at no store."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from vaultik.config.quantities import parse_size
from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vaultik.core.sshsig import Signer

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")


class Sample(NamedTuple):
    """How much of the stored blobs to read: a part, or a number of bytes."""

    part: float = 0.0
    bytes: int = 0

    def of(self, total: int) -> int:
        """Return how many of so many bytes that is."""
        return max(self.bytes, int(self.part * total))


class VerifyRequest(NamedTuple):
    """What to look at, and how deep."""

    snapshots: tuple[str, ...] = ()
    """By id, a unique beginning of one, or `latest`; none is everything that is stored."""
    host: str | None = None
    deep: bool = False
    sample: Sample | None = None
    """None: all of it."""
    state: Path | None = None
    """Where is remembered what was read; None is the place that belongs to the store."""
    accept: bool = False
    """Snapshots that are gone were dropped on purpose."""
    signers: Sequence[Signer] | None = None
    """Whose signature every snapshot must have; None if that doesn't matter."""

    @property
    def kind(self) -> str:
        """What an interrupted verification must have been for this one to go on with it."""
        specs = hashlib.sha256("\n".join((self.host or "", *self.snapshots)).encode()).hexdigest()[:16]
        return f"{'deep' if self.deep else 'bytes'} {specs}"


def parse_verify_request(
    snapshots: Sequence[str] = (),
    *,
    host: str | None = None,
    deep: bool = False,
    sample: str | None = None,
    state: Path | None = None,
    accept: bool = False,
    signers: Sequence[Signer] | None = None,
) -> VerifyRequest:
    """Return what options say.

    Raises:
        ConfigError: a value is none; it is named.
    """
    if not all(snapshots):
        raise ConfigError("SNAPSHOT: names nothing", hint="vaultik snapshots lists ids")
    if host is not None and "latest" not in snapshots:
        raise ConfigError("--host: goes with the snapshot `latest`")
    if accept and snapshots:
        raise ConfigError("--accept: goes with a verification of everything", hint="leave SNAPSHOT out")
    part = _sample(sample) if sample is not None else None
    return VerifyRequest(tuple(snapshots), host, deep, part, state, accept, signers)


def _sample(text: str) -> Sample:
    percent = _PERCENT.fullmatch(text)
    if percent is None:
        return Sample(bytes=_size(text))
    part = float(percent[1]) / 100
    if not 0 < part <= 1:
        raise ConfigError(f"--sample {text}: more than 0% and at most 100%")
    return Sample(part=part)


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as exc:
        raise ConfigError(f"--sample {text}: {exc}", hint="as in 5% or 10GB") from exc
    if size < 1:
        raise ConfigError(f"--sample {text}: nothing", hint="as in 5% or 10GB")
    return size
