"""What a prune is going to do, and did, in a form that is kept, shown and sent as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vaultik.model import SnapshotId

KEEP, HOLD, DROP = "keep", "hold", "drop"


class Fate(NamedTuple):
    """What becomes of one snapshot."""

    snapshot: SnapshotId
    source: str
    """8 hex digits, as in names."""
    host: str | None
    """None where the manifest wasn't read."""
    stored: float
    """LastModified of its DB."""
    complete: bool
    size_bytes: int
    """Of its DB and manifest."""
    fate: str
    """KEEP, HOLD (it was a newest within the grace) or DROP."""
    reasons: tuple[str, ...]
    until: float | None
    """Of HOLD: when a prune may drop it at the earliest."""


class Held(NamedTuple):
    """Stored bytes that no kept snapshot needs and that stay for now."""

    why: str
    blobs: int
    bytes: int
    until: float | None
    """When a prune may free the last of them; None if that isn't a matter of time alone."""


class Tally(NamedTuple):
    """A number of objects."""

    objects: int
    bytes: int


class Plan(NamedTuple):
    """All of it."""

    location: str
    now: float
    grace_s: int
    fates: tuple[Fate, ...]
    blobs: Tally
    """Everything stored below blobs/."""
    doomed: dict[str, Tally]
    """What is to be deleted, by step."""
    held: tuple[Held, ...]

    @property
    def total(self) -> Tally:
        """Everything that is to be deleted."""
        return total(self.doomed)

    @property
    def held_until(self) -> float | None:
        """When a prune may free the last of what is held for a time; None if nothing is."""
        return max((h.until for h in self.held if h.until is not None), default=None)


def total(tallies: dict[str, Tally]) -> Tally:
    """Return the sum over all steps."""
    return Tally(sum(t.objects for t in tallies.values()), sum(t.bytes for t in tallies.values()))


def as_json(plan: Plan) -> dict[str, object]:
    """Return a plan as JSON holds it."""
    return {
        **plan._asdict(),
        "fates": [fate._asdict() for fate in plan.fates],
        "blobs": plan.blobs._asdict(),
        "doomed": {step: tally._asdict() for step, tally in plan.doomed.items()},
        "held": [held._asdict() for held in plan.held],
    }


def dump(plan: Plan) -> str:
    """Return a plan as text that `load` takes."""
    return json.dumps(as_json(plan))


def load(text: str) -> Plan:
    """Return the plan that `dump` wrote."""
    fields = json.loads(text)
    return Plan(
        fields["location"],
        fields["now"],
        fields["grace_s"],
        tuple(Fate(**{**fate, "reasons": tuple(fate["reasons"])}) for fate in fields["fates"]),
        Tally(**fields["blobs"]),
        {step: Tally(**tally) for step, tally in fields["doomed"].items()},
        tuple(Held(**held) for held in fields["held"]),
    )
