"""From what was read to what becomes of each snapshot, or to a refusal that names the way out.

Nothing here touches the store. A snapshot or source that the user gives up may be in any state; all others
must be readable, or prune would not know what they need.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vaultik.core.ids import source8
from vaultik.core.lease import GRACE_S
from vaultik.errors import MisplacedError, NoMatchingIdentityError, PruneRefusedError, SelectionError, SignatureError
from vaultik.maintain.blob_table import Hold
from vaultik.maintain.keep import Candidate, by_source, judge, superseded_at
from vaultik.maintain.plan import DROP, HOLD, KEEP, Fate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vaultik.core.manifest import Manifest
    from vaultik.maintain.inventory import Inventory
    from vaultik.maintain.request import PruneRequest
    from vaultik.maintain.survey import Surveyed
    from vaultik.snapshot.find import FoundSnapshot

_SHOWN = 5


class GivenUp(NamedTuple):
    """What the user names to be dropped whatever the rules say."""

    snapshots: frozenset[str]
    """Ids."""
    sources: frozenset[str]
    """8 hex digits each."""

    def names(self, found: FoundSnapshot) -> bool:
        """Tell whether a snapshot is given up, by itself or with its source."""
        return found.name.snapshot in self.snapshots or found.source8 in self.sources


class Decision(NamedTuple):
    """What becomes of every snapshot."""

    fates: list[Fate]
    """As the snapshots were surveyed."""
    holds: dict[int, Hold]
    """By the snapshots' numbers among the references."""
    newest: list[float]
    """Of each source that stays, LastModified of its newest DB."""


def give_up(inventory: Inventory, request: PruneRequest) -> GivenUp:
    """Find what the user names among the snapshots that there are, one at least.

    Raises:
        SelectionError: there is no such snapshot or source, or several fit.
        PruneRefusedError: nothing would be left.
    """
    ids = sorted({s.name.snapshot for s in inventory.snapshots})
    given_up = GivenUp(
        frozenset(_one([i for i in ids if i.startswith(spec)], ids, f"snapshot {spec!r}") for spec in request.drop),
        frozenset(_one(_sources_of(spec, inventory), inventory.sources, f"source {spec!r}") for spec in request.forget),
    )
    if all(given_up.names(s) for s in inventory.snapshots):
        raise PruneRefusedError(
            "nothing would be left: that gives up every snapshot there is",
            hint="leave one; to be rid of all, delete the prefix itself",
        )
    return given_up


def check_grace(sources: Sequence[str], request: PruneRequest) -> None:
    """Check that a short grace endangers nobody else.

    Raises:
        PruneRefusedError: it might.
    """
    if request.grace_s < GRACE_S and len(sources) > 1 and not request.exclusive:
        raise PruneRefusedError(
            f"--grace below {GRACE_S // 86400}d: the prefix holds {len(sources)} sources ({', '.join(sources[:_SHOWN])}),"
            " and a backup of one may rely on what looks unneeded",
            hint="leave --grace out; or add --exclusive if no host is backing up here, and no clone of one",
        )


def check_readable(surveyed: Iterable[Surveyed], given_up: GivenUp) -> None:
    """Check that everything that isn't given up could be read.

    Raises:
        PruneRefusedError: something couldn't.
        NoMatchingIdentityError: nothing could, with these identities.
    """
    open_ones = [s for s in surveyed if not given_up.names(s.found)]
    closed = [s for s in open_ones if s.problem is not None]
    if not closed:
        return
    foreign = [s for s in closed if isinstance(s.problem, NoMatchingIdentityError)]
    misplaced = [s for s in closed if isinstance(s.problem, MisplacedError)]
    if len(foreign) == len(open_ones):
        raise NoMatchingIdentityError(
            "the identity opens none of these snapshots",
            hint="give the identity of the backups' recipient, or of their audit_recipient",
        )
    more = f" (and {len(closed) - 1} more like it)" if len(closed) > 1 else ""
    if len(misplaced) == len(open_ones):
        hint = "is PREFIX the one that the backups use? it seems to be one below it"
    elif foreign:
        # They are somebody's good backups: no hint may offer to drop them.
        sources = sorted({s.found.source8 for s in foreign})
        hint = f"of {_listed('source', sources)}: give that identity too; a file of identities may hold several, one a line"
        closed = foreign
    elif unsigned := [s for s in closed if isinstance(s.problem, SignatureError)]:
        # Older ones may be good and of before signing began: no hint may offer to drop these either.
        hint = "does the file for --signers name every host? with older snapshots that were never signed, leave --signers out"
        closed = unsigned
    else:
        hint = f"{drops(s.found for s in closed)} what can't be mended"
    raise PruneRefusedError(f"{closed[0].problem}{more}", hint=hint)


def decide(surveyed: Sequence[Surveyed], given_up: GivenUp, request: PruneRequest, now: float) -> Decision:
    """Decide what becomes of each snapshot.

    Args:
        surveyed: all snapshots.
        given_up: what the user gives up.
        request: the rules.
        now: the store's time before they were listed.

    Raises:
        PruneRefusedError: a snapshot has shrunk, and what it shrank from would go or be outlived by it.
    """
    stays = [n for n, s in enumerate(surveyed) if not given_up.names(s.found)]
    candidates = [_candidate(surveyed[n]) for n in stays]
    verdicts = dict(zip(stays, judge(candidates, request.rules, now, request.grace_s), strict=True))
    held_once = _held_once(surveyed, given_up, now - request.grace_s, request.grace_s)
    fates, holds = [], {}
    for n, snapshot in enumerate(surveyed):
        verdict = verdicts.get(n)
        firmness = Hold.ONCE if n in held_once else Hold.NONE
        if verdict is not None:
            firmness = Hold.KEPT if verdict.reasons else Hold.NONE if verdict.held_until is None else Hold.GRACE
        until = verdict.held_until if verdict is not None and firmness is Hold.GRACE else None
        fates.append(_fate(snapshot, firmness, verdict.reasons if verdict else ("given up",), until))
        if snapshot.number is not None:
            holds[snapshot.number] = firmness
    if not request.allow_shrink:
        _check_shrink(surveyed, stays, fates)
    newest = [candidates[numbers[-1]].modified for numbers in by_source(candidates).values()]
    return Decision(fates, holds, newest)


def _listed(noun: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}"


def _sources_of(spec: str, inventory: Inventory) -> list[str]:
    """Return the source whose UUID, or 8 digits of it in names, somebody typed."""
    name = source8(spec.lower()) if "-" in spec else spec.lower()
    return [source for source in inventory.sources if source == name]


def _one(fitting: Sequence[str], there: Sequence[str], what: str) -> str:
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join((fitting or there)[-_SHOWN:])
    if len(fitting) > _SHOWN:
        shown += f" and {len(fitting) - _SHOWN} more"
    raise SelectionError(
        f"{what}: {'several fit' if fitting else 'there is none'}",
        hint=f"{'they are' if fitting else 'there are'}: {shown}; vaultik snapshots lists all" if shown else None,
    )


def _candidate(snapshot: Surveyed) -> Candidate:
    facts = _facts(snapshot)
    return Candidate(facts.snapshot, facts.source, snapshot.found.modified, facts.server_time, facts.complete)


def _facts(snapshot: Surveyed) -> Manifest:
    assert snapshot.facts is not None, "what isn't given up was read"
    return snapshot.facts


def _held_once(surveyed: Sequence[Surveyed], given_up: GivenUp, horizon: float, grace_s: float) -> set[int]:
    """Return which snapshots that are dropped by name the grace would hold.

    A backup that began before may rely on one; its DB goes now, its blobs only in the next prune.
    """
    known = [n for n, s in enumerate(surveyed) if s.facts is not None]
    ends = superseded_at([_candidate(surveyed[n]) for n in known], grace_s)
    by_name = {n for n in known if surveyed[n].found.name.snapshot in given_up.snapshots}
    return {
        n
        for n, end in zip(known, ends, strict=True)
        if n in by_name and end >= horizon and surveyed[n].found.source8 not in given_up.sources
    }


def _fate(snapshot: Surveyed, firmness: Hold, reasons: tuple[str, ...], until: float | None) -> Fate:
    found, facts = snapshot.found, snapshot.facts
    return Fate(
        found.name.snapshot,
        found.source8,
        facts.host if facts else None,
        found.modified,
        facts.complete if facts else True,
        found.size_bytes + found.manifest_bytes,
        {Hold.KEPT: KEEP, Hold.GRACE: HOLD}.get(firmness, DROP),
        reasons,
        until,
    )


def _check_shrink(surveyed: Sequence[Surveyed], stays: Iterable[int], fates: Sequence[Fate]) -> None:
    """Refuse if the newest complete snapshot has under half of the one before.

    So for an earlier such pair whose greater one would go, unless a later one that stays is as great again.
    """
    complete = [n for n in stays if _facts(surveyed[n]).complete]
    for places in by_source([_candidate(surveyed[n]) for n in complete]).values():
        numbers = [complete[place] for place in places]
        for place, (older, newer) in enumerate(pairwise(numbers)):
            before, after = _facts(surveyed[older]), _facts(surveyed[newer])
            if not _shrank(before, after):
                continue
            small = [n for n in numbers[place + 1 :] if _shrank(before, _facts(surveyed[n]))]
            replaced = any(fates[n].fate == KEEP for n in numbers[place + 1 :] if n not in small)
            if newer == numbers[-1] or (fates[older].fate == DROP and not replaced):
                raise PruneRefusedError(
                    f"snapshot {after.snapshot} of {after.host}: under half of {before.snapshot} before it:"
                    f" {before.entries:,} entries of {before.bytes:,} bytes became {after.entries:,} of {after.bytes:,}",
                    hint="if that was meant, --allow-shrink; if it wasn't, bring back what is missing and back up, or "
                    + " ".join(f"--drop {_facts(surveyed[n]).snapshot}" for n in small[:_SHOWN]),
                )


def _shrank(before: Manifest, after: Manifest) -> bool:
    return 2 * after.entries < before.entries or 2 * after.bytes < before.bytes


def drops(snapshots: Iterable[FoundSnapshot]) -> str:
    """Return the options that give snapshots up, as the beginning of a hint."""
    names = list(dict.fromkeys(s.name.snapshot for s in snapshots))
    shown = " ".join(f"--drop {name}" for name in names[:_SHOWN])
    return f"{shown} gives up" if len(names) <= _SHOWN else f"{shown} (and so on) gives up"
