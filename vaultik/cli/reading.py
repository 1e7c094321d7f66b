"""Options of whatever reads snapshots: where they lie, who opens them, and whom to believe."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from vaultik.cli.common import (
    cache_option,
    identity_option,
    load_identities,
    load_signers,
    signers_option,
    store_of,
    store_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.store.base import Store

F = TypeVar("F", bound="Callable[..., Any]")


class Reading(NamedTuple):
    """What the options say."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    cache: bool
    identity: Path | None
    signers: Path | None

    def store(self) -> Store:
        """Open the store, as `store_of`."""
        return store_of(self.endpoint, self.region, self.bucket, self.prefix, cache=self.cache)

    def identities(self) -> list[Identity]:
        """Return who opens them, as `load_identities`."""
        return load_identities(self.identity)

    def believed(self) -> list[Signer] | None:
        """Return whom to believe, as `load_signers`."""
        return load_signers(self.signers)


def reading_options(command: F) -> F:
    """Add the options to a command with the arguments `bucket` and `prefix`, which is called with all of it as `reading`."""

    @functools.wraps(command)
    def parsed(*args: Any, **kwargs: Any) -> Any:
        reading = Reading(**{name: kwargs.pop(name) for name in Reading._fields})
        return command(*args, **kwargs, reading=reading)

    options = (store_options, cache_option, identity_option, signers_option)
    return cast("F", functools.reduce(lambda made, option: option(made), reversed(options), parsed))
