"""Versions of objects in a bucket that keeps them, and the locks on them.

Names carry the digest of their bytes and are put once, so of several versions one is right, and the others are damage.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from vaultik.errors import ObjectNotFoundError
from vaultik.store.base import Retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

_PAGE = 1000


class Versions:
    """The versions of a bucket's objects."""

    def __init__(
        self,
        client: Callable[[], Any],
        bucket: str,
        prefix: str,
        mapped: Callable[[str], AbstractContextManager[None]],
        now: Callable[[], float],
    ) -> None:
        """Name the bucket.

        Args:
            client: gives the client to use.
            bucket: where.
            prefix: of every key.
            mapped: turns botocore's errors into the store's own.
            now: the store's time.
        """
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._mapped = mapped
        self._now = now

    def find(self, key: str, kind: str = "Versions") -> list[dict[str, Any]]:
        """Return the versions of an object, the newest first; or its `DeleteMarkers`, if they are named.

        Raises:
            StoreError: the store failed, or the credential may not.
        """
        with self._mapped(key):
            pages = self._client().get_paginator("list_object_versions").paginate(**self._name(key, "Prefix"))
            return [version for page in pages for version in page.get(kind, ()) if version["Key"] == self._prefix + key]

    def older(self, key: str) -> list[dict[str, Any]]:
        """Return the versions of an object, if there are others than the one that stands there.

        Raises:
            StoreError: as `find`.
        """
        versions = self.find(key)
        is_alone = len(versions) == 1 and versions[0]["IsLatest"]
        return [] if is_alone else versions

    def delete(self, keys: Iterable[str]) -> None:
        """Delete every version of objects that are marked as deleted, and then the mark.

        Where a version can't be (it is locked, or the credential may not) the mark stays, and with it the object away.

        Raises:
            StoreError: as `find`.
        """
        for key in keys:
            if self._delete(key, self.find(key)):
                self._delete(key, self.find(key, "DeleteMarkers"))

    def _delete(self, key: str, versions: list[dict[str, Any]]) -> bool:
        """Delete versions; tells whether all are gone."""
        names = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in versions]
        for start in range(0, len(names), _PAGE):
            with self._mapped(f"delete {key}"):
                answer = self._client().delete_objects(
                    Bucket=self._bucket, Delete={"Objects": names[start : start + _PAGE]}
                )
            if answer.get("Errors"):
                return False
        return True

    def retention(self, key: str, version: str | None = None) -> Retention | None:
        """Return the lock on what stands under a key, or on a version (see `Store.retention`)."""
        which = {"VersionId": version} if version else {}
        try:
            with self._mapped(key):
                answer = self._client().head_object(**self._name(key), **which)
        except ObjectNotFoundError:
            return None
        if "ObjectLockRetainUntilDate" not in answer or "ObjectLockMode" not in answer:
            return None
        found = Retention(answer["ObjectLockMode"].lower(), answer["ObjectLockRetainUntilDate"].timestamp())
        return found if found.until > self._now() else None

    def retain(self, key: str, mode: str, until: float) -> bool:
        """Lock every version of an object until a time (see `Store.retain`)."""
        has_changed = False
        for version in self.find(key):
            now = self.retention(key, version["VersionId"])
            if now is not None and now.until >= until:
                continue
            lock = {"Mode": (now.mode if now else mode).upper(), "RetainUntilDate": date_of(until)}
            with self._mapped(f"lock {key}"):
                self._client().put_object_retention(**self._name(key), VersionId=version["VersionId"], Retention=lock)
            has_changed = True
        return has_changed

    def _name(self, key: str, what: str = "Key") -> dict[str, str]:
        return {"Bucket": self._bucket, what: self._prefix + key}


def date_of(at: float) -> datetime.datetime:
    """Return a time as boto3 takes it, in whole seconds and not before it."""
    return datetime.datetime.fromtimestamp(int(at) + 1, datetime.UTC)
