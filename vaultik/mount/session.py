"""All that a mounted file system is made of, from its beginning to its end."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vaultik.errors import RestoreError
from vaultik.mount.catalog import Catalog
from vaultik.mount.filesystem import FileSystem
from vaultik.mount.frames import FrameCache
from vaultik.mount.opened import OpenSnapshots
from vaultik.scratch import ScratchDirectory
from vaultik.snapshot.fetch import can_read
from vaultik.snapshot.find import list_snapshots, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.core.identity import Identity
    from vaultik.core.sshsig import Signer
    from vaultik.mount.catalog import Place
    from vaultik.store.base import Store


class Asked(NamedTuple):
    """What is to be shown."""

    snapshot: str | None = None
    """This one alone, as the mount point itself; None for all."""
    host: str | None = None
    signers: Sequence[Signer] | None = None
    cache_bytes: int = 64 << 20
    shared: bool = False
    """Others than who mounts may look."""


class Shown(NamedTuple):
    """What is shown."""

    files: FileSystem
    snapshots: int
    hosts: list[str]
    """None, where one snapshot is shown alone."""


@contextmanager
def shown(store: Store, identities: Sequence[Identity], asked: Asked, report: Callable[[str], None]) -> Iterator[Shown]:
    """Have the file system for the block.

    Args:
        store: where the snapshots lie.
        identities: any of which may open them; they stay in memory.
        asked: what to show.
        report: takes lines on what can't be shown or read; from any thread.

    Raises:
        SelectionError, NoMatchingIdentityError, IntegrityError, StoreError: there is nothing to show, or it can't be told what.
        RestoreError: there is no place for temporary files.
    """
    top: Callable[[], Place]
    with ExitStack() as stack:
        if asked.snapshot is None:
            catalog = Catalog(store, identities, host=asked.host, signers=asked.signers, report=report)
            top, count, hosts = catalog.top, catalog.count(), catalog.hosts()
        else:
            found = select(store, asked.snapshot, identities, asked.host, asked.signers)
            top, count, hosts = (lambda: found), 1, []
        try:
            scratch = stack.enter_context(ScratchDirectory())
        except OSError as exc:
            raise RestoreError(
                f"temporary directory {tempfile.gettempdir()}: {exc.strerror or exc}",
                hint="name another place in TMPDIR",
            ) from exc
        opened = stack.enter_context(closing(OpenSnapshots(store, identities, scratch.path)))
        cache = FrameCache(store, identities, asked.cache_bytes, lambda: _gives_snapshots(store))
        frames = stack.enter_context(closing(cache))
        yield Shown(FileSystem(top, opened, frames, report, shared=asked.shared), count, hosts)


def _gives_snapshots(store: Store) -> bool:
    """Tell whether the store still gives what isn't a blob."""
    found = list_snapshots(store)
    return bool(found) and can_read(store, found[-1].name.key)
