"""Open the store that an endpoint names. boto3 is imported only where it is one for S3."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vaultik.errors import ConfigError

if TYPE_CHECKING:
    from vaultik.store.base import Store
    from vaultik.store.pace import Pace

_FILE = "file://"
_BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_ENDPOINT = re.compile(r"file://.*|(https?://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(:\d{1,5})?(/[^?#]*)?")


def open_store(
    endpoint: str | None,
    bucket: str,
    prefix: str,
    *,
    region: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    addressing: Literal["path", "virtual"] | None = None,
    put_only: bool = False,
    checksums: bool = True,
    lock: tuple[str, int] | None = None,
    create: bool = False,
    pace: Pace | None = None,
) -> Store:
    """Return a store. Nothing is asked of it yet.

    Args:
        endpoint: `file:///dir` for a directory, a URL or `host[:port]` (https) for S3, None for AWS
            or whatever boto3's own environment says.
        bucket: the bucket, or folder under the directory.
        prefix: a non-empty one gets a trailing slash.
        region: of the bucket.
        access_key_id: None for boto3's own chain.
        secret_access_key: goes with it.
        addressing: where the bucket's name goes: into the path or the host's name. None is boto3's own setting;
            without one, the path where an endpoint is known.
        put_only: the credential can only put; nothing else is tried.
        checksums: send SHA-256 checksums; some S3 clones refuse them.
        lock: mode and days of the retention that every object is put with; not for a directory.
        create: make a directory store's bucket if it isn't there (an S3 bucket is never made).
        pace: how fast bytes may be sent; None is as fast as it goes.

    Raises:
        ConfigError: the endpoint or the bucket can't be one.
    """
    if not _BUCKET.fullmatch(bucket) or bucket.startswith(".."):
        hint = "its name alone: BUCKET PREFIX, no s3://" if ":" in bucket else "letters, digits, - _ and . make one"
        raise ConfigError(f"bucket {bucket!r}: not a bucket's name", hint=hint)
    if endpoint is not None and "@" in endpoint and not endpoint.startswith(_FILE):
        raise ConfigError(
            f"endpoint {endpoint.rpartition('@')[2]}: a credential has no place in it",
            hint="access_key_id and secret_access_key in a config, or boto3's environment and profiles",
        )
    if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            f"endpoint {endpoint}: neither a server nor a directory",
            hint="https://s3.example.org, or file:///srv/backup for a directory store",
        )
    prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    if endpoint is not None and endpoint.startswith(_FILE):
        from vaultik.store.local import LocalStore  # noqa: PLC0415 - each kind only where it is used

        directory = endpoint.removeprefix(_FILE)
        if not directory.startswith("/"):
            raise ConfigError(f"endpoint {endpoint}: not an absolute path", hint="three slashes: file:///srv/backup")
        if lock is not None:
            raise ConfigError("s3.lock: a directory store has no locks", hint="leave it out, or name an S3 endpoint")
        return LocalStore(Path(directory), bucket, prefix, create=create, pace=pace)
    from vaultik.store.s3 import S3Store  # noqa: PLC0415 - boto3 takes 170 ms to import

    return S3Store(
        endpoint,
        bucket,
        prefix,
        region=region,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        addressing=addressing,
        put_only=put_only,
        checksums=checksums,
        lock=lock,
        pace=pace,
    )
