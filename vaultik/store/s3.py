"""S3 and what speaks like it, through boto3; the one door to it.

Objects are put with If-None-Match, so that what stands under a key stays. Servers that don't know the
header are met half way: one that refuses it is asked with a HEAD instead. The store's time is the
Date of its last answer. A client is never used across a fork. No secret is in any message.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)

from vaultik.errors import (
    DigestMismatchError,
    IntegrityError,
    ObjectNotFoundError,
)
from vaultik.store.base import ByteStream, Listing, ObjectInfo
from vaultik.store.clock import StoreClock
from vaultik.store.s3_body import READ_S, Body, digest_of, outgoing, size_of
from vaultik.store.s3_errors import StoreConflictError, is_absent, is_taken, is_unknown_condition, map_error
from vaultik.store.s3_parts import PART, PART_THREADS, Part, PartsUpload, slice_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MULTIPART_ABOVE = 1 << 30
_PAGE = 1000
_CONFLICT_PAUSES_S = (0.1, 0.5, 2.0)
_ATTEMPTS = 5
_CONNECT_S = 10


class _TakenError(Exception):
    """An object stands under the key."""


class _ConditionUnknownError(Exception):
    """The server doesn't know If-None-Match."""


class _AbsentError(ObjectNotFoundError):
    """No object stands under the key."""


class S3Store:
    """A bucket and prefix."""

    def __init__(
        self,
        endpoint: str | None,
        bucket: str,
        prefix: str,
        *,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        put_only: bool = False,
        checksums: bool = True,
        multipart_above: int = MULTIPART_ABOVE,
        part_size: int = PART,
        attempts: int = _ATTEMPTS,
    ) -> None:
        """Name the place; nothing is asked yet.

        Args:
            endpoint: URL, or `host[:port]` for https; None is AWS.
            bucket: the bucket.
            prefix: empty or with a trailing slash.
            region: None is us-east-1 where an endpoint is given, else boto3's own.
            access_key_id: None is boto3's own chain.
            secret_access_key: goes with it.
            put_only: nothing but puts is tried.
            checksums: send SHA-256 with every put.
            multipart_above: bodies larger than this go in parts.
            part_size: least size of a part.
            attempts: how often a request is tried.
        """
        self._endpoint = endpoint if endpoint is None or "://" in endpoint else f"https://{endpoint}"
        self._bucket = bucket
        self._prefix = prefix
        self._region = region or ("us-east-1" if endpoint else None)
        self._keys = (access_key_id, secret_access_key)
        self._put_only = put_only
        self._checksums = checksums
        self._multipart_above = multipart_above
        self._part_size = part_size
        self._attempts = attempts
        self._clock = StoreClock()
        self._clients: dict[bool, Any] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """Endpoint, bucket and prefix in one line."""
        return f"{self._endpoint or 's3'} {self._bucket} {self._prefix}"

    def now(self) -> float:
        """Return the time by the server's Date headers."""
        return self._clock.now(self._ask_time)

    def put(self, key: str, body: Path | bytes, *, sha256: bytes, until: float | None = None) -> bool:
        """Store an object unless one stands there (see `Store.put`).

        Raises:
            DigestMismatchError: the body isn't what `sha256` says; nothing is stored.
        """
        size = len(body) if isinstance(body, bytes) else size_of(body)
        if size > self._multipart_above and isinstance(body, Path):
            parts = slice_body(body, self._part_size, sha256=sha256)
            put = functools.partial(self._put_parts, key, body, parts, until=until)
        elif digest_of(body) == sha256:
            put = functools.partial(self._put_whole, key, body, size, sha256, until=until)
        else:
            raise DigestMismatchError(f"put {key}: the body is not what its digest says")
        for pause_s in (*(_CONFLICT_PAUSES_S if until is None else ()), None):
            try:
                return put(condition={"IfNoneMatch": "*"})
            except _ConditionUnknownError:
                break
            except StoreConflictError:
                # Somebody is putting it at this moment, or was when he was killed.
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        if not self._put_only and self.head(key) is not None:
            return False
        return put(condition={})

    @contextmanager
    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[ByteStream]:
        """Open an object or a range of it (see `Store.open`)."""
        stream = Body(self._get, key, offset, length)
        try:
            yield stream
        finally:
            stream.close()

    def head(self, key: str) -> ObjectInfo | None:
        """Return size and time of an object, None if there is none."""
        try:
            with self._mapped(key):
                answer = self._client().head_object(Bucket=self._bucket, Key=self._prefix + key)
        except _AbsentError:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"].timestamp())

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with `prefix`, ascending."""
        for page in self._pages(prefix):
            yield from map(self._info, page.get("Contents", ()))

    def children(self, prefix: str = "") -> Listing:
        """Return one level below `prefix`."""
        listing = Listing([], [])
        for page in self._pages(prefix, Delimiter="/"):
            listing.objects.extend(map(self._info, page.get("Contents", ())))
            listing.prefixes.extend(p["Prefix"].removeprefix(self._prefix) for p in page.get("CommonPrefixes", ()))
        return listing

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """Delete objects; gives the reason for each that could not be."""
        failed: dict[str, str] = {}
        todo = list(keys)
        for start in range(0, len(todo), _PAGE):
            batch = [{"Key": self._prefix + key} for key in todo[start : start + _PAGE]]
            with self._mapped("delete"):
                answer = self._client().delete_objects(Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True})
            for error in answer.get("Errors", ()):
                if error.get("Code") != "NoSuchKey":
                    failed[error["Key"].removeprefix(self._prefix)] = f"{error.get('Code')}: {error.get('Message', '')}"
        return failed

    def close(self) -> None:
        """Close the connections of this process."""
        if self._pid == os.getpid():
            for client in self._clients.values():
                client.close()
        self._clients = {}

    # -- requests ---------------------------------------------------------------------------------

    def _client(self, *, once: bool = False) -> Any:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._clients = os.getpid(), {}
            if once not in self._clients:
                self._clients[once] = self._make_client(1 if once else self._attempts)
            return self._clients[once]

    def _make_client(self, attempts: int) -> Any:
        config = botocore.config.Config(
            connect_timeout=_CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path"} if self._endpoint else {},
            request_checksum_calculation="when_supported" if self._checksums else "when_required",
            response_checksum_validation="when_required",
            max_pool_connections=2 * PART_THREADS,
            user_agent_extra="vaultik",
        )
        with self._mapped("connect"):
            session = boto3.session.Session()
            client = session.client(
                "s3",
                endpoint_url=self._endpoint,
                region_name=self._region,
                aws_access_key_id=self._keys[0],
                aws_secret_access_key=self._keys[1],
                config=config,
            )
        client.meta.events.register("response-received.s3", self._note_time)
        return client

    def _note_time(self, response_dict: dict[str, Any] | None = None, **_ignored: Any) -> None:
        date = (response_dict or {}).get("headers", {}).get("date")
        try:
            self._clock.tell(email.utils.parsedate_to_datetime(date).timestamp())
        except (TypeError, ValueError):
            return  # none, or none that can be read

    def _ask_time(self) -> None:
        client = self._client()
        with self._mapped("the time"):
            try:
                client.head_bucket(Bucket=self._bucket)
            except ClientError:
                # Refused or not there: the answer had a Date all the same.
                return

    def _put_whole(
        self, key: str, body: Path | bytes, size: int, sha256: bytes, *, until: float | None, condition: dict[str, str]
    ) -> bool:
        extra: dict[str, Any] = dict(condition)
        if self._checksums:
            extra["ChecksumSHA256"] = base64.b64encode(sha256).decode()
        client = self._client(once=until is not None)
        try:
            with self._mapped(key), outgoing(body, until) as file:
                client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=file, ContentLength=size, **extra)
        except _TakenError:
            return False
        return True

    def _put_parts(
        self, key: str, body: Path, parts: list[Part], *, until: float | None, condition: dict[str, str]
    ) -> bool:
        def complete(**request: Any) -> None:
            client = self._client(once=until is not None)
            with self._mapped(key), outgoing(b"", until):
                client.complete_multipart_upload(**request, **condition)

        upload = PartsUpload(self._client, self._bucket, self._prefix + key, body, self._mapped)
        if not self._put_only:
            upload.end_older(self._prefix, self.now())
        try:
            upload.send(parts, complete)
        except _TakenError:
            return False
        return True

    def _get(self, key: str, offset: int, stop: int | None, tag: str | None) -> tuple[Any, int, str | None]:
        """Return a body, how many of its first bytes are not wanted, and the object's tag."""
        extra: dict[str, str] = {"IfMatch": tag} if tag else {}
        if offset or stop is not None:
            extra["Range"] = f"bytes={offset}-{'' if stop is None else stop - 1}"
        try:
            with self._mapped(key):
                answer = self._client().get_object(Bucket=self._bucket, Key=self._prefix + key, **extra)
        except _TakenError as exc:
            raise IntegrityError(f"{key}: it was replaced while it was read") from exc
        whole = "ContentRange" not in answer and offset + answer["ContentLength"] > (stop or 0) and offset > 0
        wrong = whole and (stop is None or answer["ContentLength"] != stop - offset)
        return answer["Body"], offset if wrong else 0, answer.get("ETag")

    def _pages(self, prefix: str, **extra: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            with self._mapped(f"list {prefix}".rstrip()):
                page = self._client().list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=_PAGE, **extra, **token
                )
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _info(self, found: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"].timestamp())

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except ClientError as exc:
            if is_taken(exc):
                raise _TakenError from exc
            if is_unknown_condition(exc):
                raise _ConditionUnknownError from exc
            if is_absent(exc) and what != "connect":
                raise _AbsentError(f"{self.location}: {what}: no such object") from exc
            raise map_error(exc, self.location, what) from exc
        except BotoCoreError as exc:
            raise map_error(exc, self.location, what) from exc
