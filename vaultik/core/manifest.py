"""The manifest: which blobs and DBs a snapshot needs, in one canonical line (FORMAT.md, "Manifest").

The first line is canonical JSON: keys sorted, no spaces, ASCII. Later lines are base64 SSHSIG
signatures over the first line with its LF. As every name is a hash of stored bytes, whoever vouches
for that line vouches for everything.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, NoReturn

import msgspec

from vaultik.core.ids import parse_snapshot_id
from vaultik.errors import FormatError
from vaultik.model import SnapshotId  # noqa: TC001 - msgspec reads the annotations

FORMAT = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


Signature = bytes


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A snapshot's needs and totals."""

    format: int
    source: str
    host: str
    snapshot: SnapshotId
    previous: SnapshotId | None
    previous_manifest: str | None
    complete: bool
    started: float
    server_time: float
    entries: int
    bytes: int
    dbs: tuple[tuple[str, int], ...]
    recipients: tuple[str, ...]
    blobs: tuple[tuple[str, int], ...]
    signatures: tuple[Signature, ...] = ()


def encode(manifest: Manifest) -> bytes:
    """Return the manifest's bytes: its canonical line and its signatures, each with an LF."""
    fields = dataclasses.asdict(manifest)
    signatures = fields.pop("signatures")
    line = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return b"\n".join([line.encode(), *signatures, b""])


def decode(data: bytes) -> Manifest:
    """Return the manifest that bytes hold.

    Raises:
        FormatError: not canonical, a field is missing, unknown or of a wrong type, or the format is
            one that this vaultik doesn't know (named).
    """
    line, *rest = data.split(b"\n")
    if not rest or rest[-1] != b"":
        raise FormatError("manifest: does not end with a newline")
    if not all(_BASE64.fullmatch(signature) for signature in rest[:-1]):
        raise FormatError("manifest: a line that is no signature")
    fields = _object(line)
    if fields.get("format") != FORMAT:
        raise FormatError(f"manifest: format {fields.get('format')!r}, this vaultik knows {FORMAT}")
    try:
        manifest = msgspec.convert({**fields, "signatures": rest[:-1]}, Manifest)
    except msgspec.ValidationError as exc:
        raise FormatError(f"manifest: {exc}") from exc
    if (
        fields.keys() != {field.name for field in dataclasses.fields(Manifest)} - {"signatures"}
        or encode(manifest) != data
    ):
        raise FormatError("manifest: not in its canonical form")
    _check(manifest)
    return manifest


def _object(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise FormatError("manifest: not JSON") from exc
    if not isinstance(fields, dict):
        raise FormatError("manifest: not a JSON object")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check(manifest: Manifest) -> None:
    parse_snapshot_id(manifest.snapshot)
    if manifest.previous is not None:
        parse_snapshot_id(manifest.previous)
    if (manifest.previous is None) != (manifest.previous_manifest is None):
        raise FormatError("manifest: previous and previous_manifest go together")
    digests = [name for name, _ in manifest.blobs] + [d for d in [manifest.previous_manifest] if d]
    if not all(_HEX64.fullmatch(digest) for digest in digests):
        raise FormatError("manifest: a digest that is none")
    sizes = [size for _, size in (*manifest.blobs, *manifest.dbs)]
    if min([*sizes, manifest.entries, manifest.bytes, 0]) < 0 or not manifest.dbs:
        raise FormatError("manifest: a number out of range")
