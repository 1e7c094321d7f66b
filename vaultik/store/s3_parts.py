"""A large body to S3 in parts, some side by side: all of it under its key at once, or nothing.

Each part is held against the digest that the first pass over the file gave it, so what is completed is what
was named. What a killed process left unfinished of the same key is ended first, and so is whatever is older
than a run may rely on; bytes of unfinished uploads are in no listing, but they are paid for.
"""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultik.core.lease import GRACE_S
from vaultik.errors import DigestMismatchError, LostBodyError
from vaultik.store.s3_errors import FOREIGN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

PART = 16 << 20
PARTS_AT_MOST = 9000
PART_THREADS = 4


class Part(NamedTuple):
    """A slice of a body."""

    number: int
    offset: int
    size: int
    sha256: bytes


def slice_body(body: Path, least: int, *, sha256: bytes) -> list[Part]:
    """Read a file once and return its parts.

    Args:
        body: the file.
        least: least size of a part, bytes; larger ones are taken where there would be too many.
        sha256: what the whole file must have.

    Raises:
        DigestMismatchError: it hasn't.
        LostBodyError: the file is gone or can't be read.
    """
    whole = hashlib.sha256()
    parts: list[Part] = []
    try:
        with body.open("rb", buffering=0) as file:
            size = max(least, -(-body.stat().st_size // PARTS_AT_MOST))
            at = 0
            while data := _read(file, size):
                whole.update(data)
                parts.append(Part(len(parts) + 1, at, len(data), hashlib.sha256(data).digest()))
                at += len(data)
    except OSError as exc:
        raise LostBodyError(f"put {body}: {exc.strerror or exc}") from exc
    if whole.digest() != sha256:
        raise DigestMismatchError(f"put {body}: the body is not what its digest says")
    return parts


class PartsUpload:
    """One upload in parts."""

    def __init__(
        self,
        client: Callable[[], Any],
        bucket: str,
        key: str,
        body: Path,
        mapped: Callable[[str], AbstractContextManager[None]],
        *,
        checksums: bool,
        lock: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Name it.

        Args:
            client: gives the client to use.
            bucket: where.
            key: under what.
            body: a file.
            mapped: turns botocore's errors into the store's own.
            checksums: send SHA-256 with every part.
            lock: what the object's retention is.
        """
        self._client = client
        self._name = {"Bucket": bucket, "Key": key}
        self._body = body
        self._mapped = mapped
        self._checksums = checksums
        self._lock = lock

    def end_older(self, prefix: str, now: float) -> None:
        """End what was left unfinished of this key, and below the prefix what is older than the grace."""
        try:
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._name["Bucket"], Prefix=prefix):
                for found in page.get("Uploads", ()):
                    if found["Key"] == self._name["Key"] or _began(found, now) < now - GRACE_S:
                        self._abort({**self._name, "Key": found["Key"]}, found["UploadId"])
        except FOREIGN:
            return  # no right to; a bucket's lifecycle rule ends what can't be ended here

    def send(self, parts: list[Part], complete: Callable[..., None]) -> None:
        """Send every part and complete the upload, or end it and leave nothing.

        Args:
            parts: of the body, all of it.
            complete: called with the arguments of the request that completes it.
        """
        # All of it by SHA-256: with one that boto3 chose, AWS would ask for each part's at the end.
        kind = {"ChecksumAlgorithm": "SHA256"} if self._checksums else {}
        with self._mapped(self._name["Key"]):
            upload = self._client().create_multipart_upload(**self._name, **kind, **self._lock)["UploadId"]
        try:
            with ThreadPoolExecutor(PART_THREADS) as threads:
                sending = [threads.submit(self._send_part, upload, part) for part in parts]
                try:
                    wait(sending, return_when=FIRST_EXCEPTION)
                finally:
                    threads.shutdown(wait=False, cancel_futures=True)
            complete(**self._name, UploadId=upload, MultipartUpload={"Parts": [each.result() for each in sending]})
        except BaseException:
            self._abort(self._name, upload)
            raise

    def _send_part(self, upload: str, part: Part) -> dict[str, Any]:
        """Send one part; returns what completing the upload has to say of it."""
        try:
            with self._body.open("rb", buffering=0) as file:
                file.seek(part.offset)
                data = _read(file, part.size)
        except OSError as exc:
            raise LostBodyError(f"put {self._body}: {exc.strerror or exc}") from exc
        if hashlib.sha256(data).digest() != part.sha256:
            raise DigestMismatchError(f"put {self._body}: it changed while it was sent")
        checksum = {"ChecksumSHA256": base64.b64encode(part.sha256).decode()} if self._checksums else {}
        with self._mapped(self._name["Key"]):
            answer = self._client().upload_part(
                **self._name, UploadId=upload, PartNumber=part.number, Body=data, **checksum
            )
            return {"PartNumber": part.number, "ETag": answer["ETag"], **checksum}

    def _abort(self, name: dict[str, str], upload: str) -> None:
        try:
            self._client().abort_multipart_upload(**name, UploadId=upload)
        except FOREIGN:
            return  # as above


def _began(found: dict[str, Any], otherwise: float) -> float:
    return float(found["Initiated"].timestamp()) if "Initiated" in found else otherwise


def _read(file: Any, size: int) -> bytes:
    """Return `size` bytes, fewer at the end: a raw file may give less than it is asked for."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return bytes(data)
