"""Find out what a credential may do in a bucket, by trying it on one object that is there and says nothing.

Nothing is lost by it: the object is put again with the very same bytes, and what is asked to be deleted isn't there.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

_REFUSED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess")


class Rights(NamedTuple):
    """What a credential may do."""

    list: bool
    get: bool
    delete: bool
    overwrite: bool
    """Put without If-None-Match where an object stands: the bucket's newest version is then whatever was put last."""
    delete_versions: bool
    is_versioned: bool
    """Whether what was overwritten or deleted is still there, as an older version."""


def probe(client: Any, bucket: str, prefix: str, key: str, body: bytes) -> Rights:
    """Try every right.

    Args:
        client: boto3's.
        bucket: the bucket.
        prefix: that of the store; what isn't there is looked for below it.
        key: of an object that is there, prefix included.
        body: its bytes.

    Raises:
        ClientError: something else than a refusal.
        BotoCoreError: no answer.
    """
    where = {"Bucket": bucket, "Key": key}
    absent = {"Bucket": bucket, "Key": f"{prefix}vaultik-check-{secrets.token_hex(8)}"}
    answer: dict[str, Any] = {}
    overwrite = _may(lambda: answer.update(client.put_object(**where, Body=body)))
    version = answer.get("VersionId", "null")
    return Rights(
        list=_may(lambda: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)),
        get=_may(lambda: client.get_object(**where, Range="bytes=0-0")),
        delete=_may(lambda: client.delete_object(**absent)),
        overwrite=overwrite,
        delete_versions=_may(lambda: client.delete_object(**absent, VersionId=version)),
        is_versioned=version != "null",
    )


def _may(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ClientError as exc:
        if exc.response.get("Error", {}).get("Code") in _REFUSED:
            return False
        if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:  # noqa: PLR2004 - the server's fault
            raise
    return True
