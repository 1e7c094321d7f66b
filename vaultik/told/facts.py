"""What a run came to, as others are told of it.

Two circles: a hook runs on this host as this user and gets to know why a run failed; a ping leaves the
host, and carries numbers, the host's name and the snapshot's id, but no path and no message that may hold
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultik.shown import human_bytes, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

SUCCESS_CODES = (0, 3)
"""A snapshot was written; with 3, some files are missing from it."""

_NOTHING: dict[str, int] = {}


class Facts(NamedTuple):
    """One run, so far."""

    config: str
    host: str
    run_id: str
    snapshot: str | None = None
    exit_code: int | None = None
    """None while it goes on."""
    error: str | None = None
    seconds: float = 0.0
    counts: Mapping[str, int] = _NOTHING

    @property
    def is_success(self) -> bool:
        """Whether a snapshot was written."""
        return self.exit_code in SUCCESS_CODES

    def number(self, name: str) -> int:
        """Return what the run counted under a name."""
        return self.counts.get(name, 0)


def for_hooks(facts: Facts, event: str) -> dict[str, str]:
    """Return what a hook finds in its environment, without the VAULTIK_ in front."""
    return {
        "EVENT": event,
        "CONFIG": facts.config,
        "HOST": facts.host,
        "RUN_ID": facts.run_id,
        "SNAPSHOT": facts.snapshot or "",
        "EXIT_CODE": "" if facts.exit_code is None else str(facts.exit_code),
        "ERROR": facts.error or "",
        "SECONDS": f"{facts.seconds:.0f}",
        "FILES": str(facts.number("files")),
        "BYTES": str(facts.number("bytes")),
        "NEW_BYTES": str(facts.number("bytes_new")),
        "STORED_BYTES": str(facts.number("bytes_stored")),
        "UNREADABLE": str(facts.number("unreadable")),
    }


def summary(facts: Facts) -> str:
    """Return a ping's body: lines for a person."""
    if facts.exit_code is None:
        return f"{facts.host}: backup begun\nrun: {facts.run_id}\n"
    if not facts.is_success:
        return (
            f"{facts.host}: backup failed with exit code {facts.exit_code}; the host's log says why\n"
            f"run: {facts.run_id}\nseconds: {facts.seconds:.0f}\n"
        )
    unreadable = facts.number("unreadable")
    but = f", but {plural(unreadable, 'file')} could not be read" if unreadable else ""
    return (
        f"{facts.host}: backup done{but}\n"
        f"run: {facts.run_id}\n"
        f"snapshot: {facts.snapshot}\n"
        f"exit code: {facts.exit_code}\n"
        f"seconds: {facts.seconds:.0f}\n"
        f"files: {facts.number('files')} ({human_bytes(facts.number('bytes'))})\n"
        f"new: {human_bytes(facts.number('bytes_new'))}\n"
        f"stored: {human_bytes(facts.number('bytes_stored'))} in {plural(facts.number('blobs'), 'blob')}\n"
    )
