"""S3 and what speaks like it, through boto3; the one door to it.

Objects are put with If-None-Match, so that what stands under a key stays. Servers that don't know the
header are met half way: one that refuses it is asked with a HEAD instead. The store's time is the
Date of its last answer. A client is never used across a fork. No secret is in any message.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.exceptions import ClientError

from vaultik.core.lease import DAY_S
from vaultik.core.streams import HashingReader
from vaultik.errors import IntegrityError, ObjectNotFoundError, StoreAccessError
from vaultik.store.base import ByteStream, Listing, ObjectInfo, Retention, Rights
from vaultik.store.clock import StoreClock
from vaultik.store.s3_body import Body, check_time, outgoing, size_of
from vaultik.store.s3_client import Addressing, Clients, Settings, configured_endpoint
from vaultik.store.s3_errors import (
    FOREIGN,
    ConditionUnknownError,
    ConflictError,
    TakenError,
    UploadGoneError,
    hide_userinfo,
    is_denied,
    map_error,
)
from vaultik.store.s3_parts import PART, Part, PartsUpload, slice_body
from vaultik.store.s3_rights import probe
from vaultik.store.s3_versions import Versions, date_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vaultik.store.pace import Pace

MULTIPART_ABOVE = 1 << 30
_PAGE = 1000
_CONFLICT_PAUSES_S = (0.1, 0.5, 2.0)
_ATTEMPTS = 8
"""By botocore's backoff that is up to 6 s of an outage, 70 s of SlowDown."""


class S3Store:
    """A bucket and prefix."""

    can_lock = True

    def __init__(
        self,
        endpoint: str | None,
        bucket: str,
        prefix: str,
        *,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        addressing: Addressing | None = None,
        put_only: bool = False,
        checksums: bool = True,
        lock: tuple[str, int] | None = None,
        multipart_above: int = MULTIPART_ABOVE,
        part_size: int = PART,
        attempts: int = _ATTEMPTS,
        pace: Pace | None = None,
    ) -> None:
        """Name the place; nothing is asked yet.

        Args:
            endpoint: URL, or `host[:port]` for https; None is boto3's own, and AWS without one.
            bucket: the bucket.
            prefix: empty or with a trailing slash.
            region: None is boto3's own, and us-east-1 without one where an endpoint is known.
            access_key_id: None is boto3's own chain.
            secret_access_key: goes with it.
            addressing: whether the bucket's name is in the path or the host's name; None is boto3's own
                setting, and without one the path where an endpoint is known.
            put_only: nothing but puts is tried.
            checksums: send SHA-256 with every put.
            lock: mode and days of the retention that every object is put with.
            multipart_above: files larger than this go in parts.
            part_size: least size of a part.
            attempts: how often a request is tried.
            pace: how fast bodies are sent; None is as fast as it goes.
        """
        endpoint = endpoint if endpoint is None or "://" in endpoint else f"https://{endpoint}"
        self._endpoint = endpoint
        self._bucket = bucket
        self._prefix = prefix
        self._put_only = put_only
        self._checksums = checksums
        self._lock = lock
        self._multipart_above = multipart_above
        self._part_size = part_size
        self._pinned: dict[str, str] = {}
        """Versions that are read in place of the newest, by key."""
        self._clock = StoreClock()
        self._versions = Versions(self._client, bucket, prefix, self._mapped, self.now)
        self._clients = Clients(
            Settings(endpoint, region, access_key_id, secret_access_key, addressing, checksums, attempts),
            self._clock.tell,
            pace,
        )

    @functools.cached_property
    def location(self) -> str:
        """Endpoint, bucket and prefix in one line."""
        endpoint = self._endpoint
        if endpoint is None:
            try:
                endpoint = configured_endpoint(botocore.session.get_session())
            except FOREIGN:
                endpoint = None  # the first request says why
        return f"{hide_userinfo(endpoint or 's3')} {self._bucket} {self._prefix}"

    def now(self) -> float:
        """Return the time by the server's Date headers."""
        return self._clock.now(self._ask_time)

    def ask_time(self) -> float:
        """Return the Date of an answer that is asked for just now."""
        return self._clock.ask(self._ask_time)

    def put(self, key: str, body: Path | bytes, *, sha256: bytes, until: float | None = None) -> bool:
        """Store an object unless one stands there (see `Store.put`).

        Raises:
            DigestMismatchError: the body isn't what `sha256` says; nothing is stored.
        """
        if isinstance(body, Path) and size_of(body) > self._multipart_above:
            parts = slice_body(body, self._part_size, sha256=sha256)
            put = functools.partial(self._put_parts, key, body, parts, until=until)
        else:
            put = functools.partial(self._put_whole, key, body, sha256, until=until)
        for pause_s in (*(_CONFLICT_PAUSES_S if until is None else ()), None):
            try:
                return put(condition={"IfNoneMatch": "*"})
            except TakenError:
                return False
            except ConditionUnknownError:
                break
            except ConflictError:
                # Somebody is putting it at this moment, or was when he was killed.
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        if not self._put_only and self.head(key) is not None:
            return False
        return put(condition={})

    @contextmanager
    def open(
        self, key: str, *, offset: int = 0, length: int | None = None, version: str | None = None
    ) -> Iterator[ByteStream]:
        """Open an object or a range of it (see `Store.open`), of a version if one is named."""
        get = functools.partial(self._get, version=version or self._pinned.get(key))
        stream = Body(get, key, offset, length)
        try:
            yield stream
        finally:
            stream.close()

    def head(self, key: str) -> ObjectInfo | None:
        """Return size and time of an object, None if there is none.

        A HEAD takes the right to get; who may only list is told by a listing of that one name.
        """
        try:
            with self._mapped(key):
                pinned = {"VersionId": self._pinned[key]} if key in self._pinned else {}
                answer = self._client().head_object(Bucket=self._bucket, Key=self._prefix + key, **pinned)
                return ObjectInfo(key, answer["ContentLength"], answer["LastModified"].timestamp())
        except ObjectNotFoundError:
            return None
        except StoreAccessError as exc:
            if is_denied(exc):
                with contextlib.suppress(StoreAccessError):
                    return next((info for info in self.walk(key) if info.key == key), None)
            raise

    def look_behind(self, key: str, sha256: bytes) -> ObjectInfo | None:
        """Look through the versions of an object for the right one, the newest first (see `Store.look_behind`)."""
        try:
            for version in self._versions.older(key):
                with self.open(key, version=version["VersionId"]) as stream:
                    if HashingReader(stream).finish() != sha256:
                        continue
                self._pinned[key] = version["VersionId"]
                return ObjectInfo(key, version["Size"], version["LastModified"].timestamp())
        except (StoreAccessError, ObjectNotFoundError, IntegrityError):
            # Who may not look sees what stands there.
            return None
        return None

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

    def retention(self, key: str) -> Retention | None:
        """Return the lock on what stands under a key (see `Store.retention`)."""
        return self._versions.retention(key)

    def retain(self, key: str, mode: str, until: float) -> bool:
        """Lock every version of an object until a time (see `Store.retain`)."""
        return self._versions.retain(key, mode, until)

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """Delete objects; gives the reason for each that could not be.

        Of a versioned bucket all versions go, as far as the credential may delete them: else nothing would be freed.
        """
        failed: dict[str, str] = {}
        todo = list(keys)
        for start in range(0, len(todo), _PAGE):
            batch = [{"Key": self._prefix + key} for key in todo[start : start + _PAGE]]
            with self._mapped("delete"):
                # Not quietly: else an empty body, or a page of somebody else, would say that all is done.
                answer = self._client().delete_objects(Bucket=self._bucket, Delete={"Objects": batch})
                if not answer.keys() & {"Deleted", "Errors"}:
                    raise KeyError("Deleted")
                for error in answer.get("Errors", ()):
                    if error.get("Code") != "NoSuchKey":
                        reason = ": ".join(filter(None, (error.get("Code"), error.get("Message"))))
                        failed[error["Key"].removeprefix(self._prefix)] = reason
            hidden = [
                done["Key"].removeprefix(self._prefix) for done in answer.get("Deleted", ()) if done.get("DeleteMarker")
            ]
            with contextlib.suppress(StoreAccessError):
                self._versions.delete(hidden)
        return failed

    def rights(self, key: str, body: bytes) -> Rights:
        """Find out what the credential may do, by an object that is there (see `Store.rights`)."""
        with self._mapped("the credential's rights"):
            return probe(self._client(), self._bucket, self._prefix, self._prefix + key, body)

    def close(self) -> None:
        """Close the connections of this process."""
        self._clients.close()

    # -- requests ---------------------------------------------------------------------------------

    def _client(self, *, once: bool = False) -> Any:
        with self._mapped("connect"):
            return self._clients.get(once=once)

    def _ask_time(self) -> None:
        client = self._client()
        with self._mapped("the time"):
            try:
                client.head_bucket(Bucket=self._bucket)
            except ClientError:
                # Refused or not there: the answer had a Date all the same.
                return

    def _put_whole(
        self, key: str, body: Path | bytes, sha256: bytes, *, until: float | None, condition: dict[str, str]
    ) -> bool:
        checksum = {"ChecksumSHA256": base64.b64encode(sha256).decode()} if self._checksums else {}
        client = self._client(once=until is not None)
        with self._mapped(key), outgoing(key, body, sha256, until) as file:
            lock = self._put_lock()
            client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=file, **checksum, **condition, **lock)
        return True

    def _put_lock(self) -> dict[str, Any]:
        """Return what a put says of the object's retention."""
        if self._lock is None:
            return {}
        mode, days = self._lock
        return {"ObjectLockMode": mode.upper(), "ObjectLockRetainUntilDate": date_of(self.now() + days * DAY_S)}

    def _put_parts(
        self, key: str, body: Path, parts: list[Part], *, until: float | None, condition: dict[str, str]
    ) -> bool:
        def complete(**request: Any) -> None:
            client = self._client(once=until is not None)
            check_time(key, until)
            with self._mapped(key):
                client.complete_multipart_upload(**request, **condition)

        upload = PartsUpload(
            self._client,
            self._bucket,
            self._prefix + key,
            body,
            self._mapped,
            checksums=self._checksums,
            lock=self._put_lock(),
        )
        if not self._put_only:
            upload.end_older(self._prefix, self.now())
        try:
            upload.send(parts, complete)
        except UploadGoneError:
            # Maybe it was completed by a request whose answer got lost.
            found = None if self._put_only else self.head(key)
            if found is None or found.size_bytes != sum(part.size for part in parts):
                raise
        return True

    def _get(
        self, key: str, offset: int, stop: int | None, tag: str | None, *, version: str | None = None
    ) -> tuple[Any, int, str | None]:
        """Return a body, how many of its first bytes are not wanted, and the object's tag."""
        extra: dict[str, str] = {"IfMatch": tag} if tag else {}
        if version is not None:
            extra["VersionId"] = version
        if offset or stop is not None:
            extra["Range"] = f"bytes={offset}-{'' if stop is None else stop - 1}"
        try:
            with self._mapped(key):
                answer = self._client().get_object(Bucket=self._bucket, Key=self._prefix + key, **extra)
        except TakenError as exc:
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
                # A body that is empty or no listing is none to botocore either; an empty listing says that it is whole.
                more = {"ContinuationToken": page["NextContinuationToken"]} if page["IsTruncated"] else {}
            yield page
            if not more:
                return
            token = more

    def _info(self, found: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"].timestamp())

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except FOREIGN as exc:
            raise map_error(exc, self.location, what) from exc
