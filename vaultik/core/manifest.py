"""The manifest: which blobs and DBs a snapshot needs, in one canonical line (FORMAT.md, "Manifest").

The first line is canonical JSON: keys sorted, no spaces, ASCII. Later lines are base64 SSHSIG
signatures over the first line with its LF. As every name is a hash of stored bytes, whoever vouches
for that line vouches for everything. It is decoded straight into its type, so that what isn't one
costs no more memory than its bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from vaultik.core.ids import parse_snapshot_id
from vaultik.errors import FormatError
from vaultik.model import SnapshotId  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
NAMESPACE = "vaultik-manifest-v1"
"""Of its signatures."""
LARGEST = 64 << 20
"""Bytes of a manifest, signatures included. Who reads one needs some 500 bytes of memory for each blob."""
MOST_BLOBS = 700_000
"""So many always fit: 83 bytes each at the most, and the rest of the largest manifest is under 9 MB."""
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

Signature = bytes
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]
"""Of the years 1970 to 9999."""
Text = Annotated[str, msgspec.Meta(max_length=1024)]
Name = Annotated[str, msgspec.Meta(min_length=64, max_length=1024)]
Recipient = Annotated[str, msgspec.Meta(min_length=50, max_length=4096)]


class _Format(msgspec.Struct):
    """What is looked at first."""

    format: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A snapshot's needs and totals."""

    format: int
    source: Text
    host: Text
    snapshot: SnapshotId
    previous: SnapshotId | None
    previous_manifest: Digest | None
    complete: bool
    started: Seconds
    server_time: Seconds
    entries: Count
    bytes: Count
    dbs: Annotated[tuple[tuple[Name, Count], ...], msgspec.Meta(min_length=1, max_length=1)]
    recipients: Annotated[tuple[Recipient, ...], msgspec.Meta(max_length=1000)]
    blobs: tuple[tuple[Digest, Count], ...]
    signatures: tuple[Signature, ...] = ()


_DECODER = msgspec.json.Decoder(Manifest)
_MOST_SIGNATURES = 100
_BLOBS_AT_ONCE = 4096


def encode(manifest: Manifest) -> bytes:
    """Return the manifest's bytes: its canonical line and its signatures, each with an LF.

    Raises:
        FormatError: it would be larger than a reader takes.
    """
    data = b"".join([*iter_signed(manifest), *(signature + b"\n" for signature in manifest.signatures)])
    if len(data) > LARGEST:
        raise FormatError(f"manifest: {len(data)} bytes, at most {LARGEST} are allowed")
    return data


def iter_signed(manifest: Manifest) -> Iterator[bytes]:
    """Yield what signatures are over, in pieces: the canonical line with its LF."""
    yield from _iter_canonical(manifest)
    yield b"\n"


def decode(data: bytes) -> Manifest:
    """Return the manifest that bytes hold.

    Raises:
        FormatError: not canonical, too large, a field is missing, unknown, of a wrong type or out of range,
            or the format is one that this vaultik doesn't know (named).
    """
    if len(data) > LARGEST:
        raise FormatError(f"manifest: more than {LARGEST} bytes")
    line_length = data.find(b"\n")
    if line_length < 0 or not data.endswith(b"\n"):
        raise FormatError("manifest: does not end with a newline")
    *signatures, rest = data[line_length + 1 :].split(b"\n", _MOST_SIGNATURES)
    if rest or not all(_BASE64.fullmatch(signature) for signature in signatures):
        raise FormatError("manifest: a line that is no signature, or too many")
    line = memoryview(data)[:line_length]
    _check_format(line)
    try:
        manifest = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise FormatError(f"manifest: {exc}") from exc
    if manifest.signatures or not _is_canonical(manifest, data, line_length):
        raise FormatError("manifest: not in its canonical form")
    _check(manifest)
    return dataclasses.replace(manifest, signatures=tuple(signatures))


def _is_canonical(manifest: Manifest, data: bytes, line_length: int) -> bool:
    """Tell whether the first line of `data` is the manifest's canonical one, without building that whole."""
    at = 0
    for piece in _iter_canonical(manifest):
        if not data.startswith(piece, at):
            return False
        at += len(piece)
    return at == line_length


def _iter_canonical(manifest: Manifest) -> Iterator[bytes]:
    """Yield the canonical line in pieces, without its LF."""
    fields: dict[str, Any] = {
        field.name: getattr(manifest, field.name)
        for field in dataclasses.fields(manifest)
        if field.name != "signatures"
    }
    # "blobs" is the first of the sorted keys, and nothing in it needs an escape.
    blobs = fields.pop("blobs")
    yield b'{"blobs":['
    for start in range(0, len(blobs), _BLOBS_AT_ONCE):
        text = ",".join([f'["{name}",{size}]' for name, size in blobs[start : start + _BLOBS_AT_ONCE]])
        yield f",{text}".encode() if start else text.encode()
    rest = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    yield f"],{rest[1:]}".encode()


def _check_format(line: memoryview) -> None:
    try:
        found = msgspec.json.decode(line, type=_Format).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise FormatError("manifest: not a JSON object with a format") from exc
    if found != FORMAT:
        raise FormatError(f"manifest: format {found}, this vaultik knows {FORMAT}")


def _check(manifest: Manifest) -> None:
    parse_snapshot_id(manifest.snapshot)
    if manifest.previous is not None:
        parse_snapshot_id(manifest.previous)
    if (manifest.previous is None) != (manifest.previous_manifest is None):
        raise FormatError("manifest: previous and previous_manifest go together")
    if any(first[0] >= second[0] for first, second in itertools.pairwise(manifest.blobs)):
        raise FormatError("manifest: blobs that don't ascend")
