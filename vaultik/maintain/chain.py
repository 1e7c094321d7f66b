"""The chain of a source's snapshots: each manifest names the one before it by its SHA-256."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Link(NamedTuple):
    """What a manifest says of its place."""

    source: str
    """8 hex digits."""
    snapshot: str
    manifest: str
    """SHA-256 of its object, in hex: its name says so, with no key."""
    previous: str | None = None
    previous_manifest: str | None = None
    is_open: bool = True
    """Whether it could be read; else others may name it all the same."""


class Break(NamedTuple):
    """A place where a chain isn't whole."""

    snapshot: str
    text: str
    is_problem: bool
    """A fork or a new beginning has honest causes; that a manifest was replaced has none."""


def find_breaks(links: Iterable[Link]) -> list[Break]:
    """Return where the chains of some sources are not whole. What a prune dropped is no break.

    Guarantees: no manifest that another one names can be replaced, reworded or given another place without a break.
    """
    sources: dict[str, dict[str, Link]] = defaultdict(dict)
    for link in links:
        sources[link.source][link.snapshot] = link
    breaks: list[Break] = []
    for source in sources.values():
        breaks += _breaks(dict(sorted(source.items())))
    return breaks


def _breaks(source: dict[str, Link]) -> list[Break]:
    breaks: list[Break] = []
    followers: dict[str | None, Link] = {}
    for link in source.values():
        before = source.get(link.previous) if link.previous else None
        if before is not None and before.manifest != link.previous_manifest:
            breaks.append(
                Break(
                    link.snapshot,
                    f"names {before.snapshot} before it, with another manifest than is stored",
                    is_problem=True,
                )
            )
        if not link.is_open:
            continue
        first = followers.setdefault(link.previous, link)
        if first is not link:
            breaks.append(Break(link.snapshot, _fork(link, first), is_problem=False))
    return breaks


def _fork(link: Link, first: Link) -> str:
    if link.previous is None:
        return "begins a chain of its own: the index was lost or rebuilt"
    return (
        f"follows {link.previous}, as {first.snapshot} does: a clone or an older copy of the host wrote one of them,"
        " or somebody else who has the recipient and may write to the store"
    )
