"""Find out what a credential may do in a bucket, by trying it on one object that is there and says nothing.

Nothing is lost by it: the object is put again with the very same bytes, and what is asked to be deleted isn't there.
"""

from __future__ import annotations

import contextlib
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from vaultik.store.base import Rights

if TYPE_CHECKING:
    from collections.abc import Callable


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
        delete=_may(lambda: _delete(client, absent)),
        overwrite=overwrite,
        delete_versions=_may(lambda: client.delete_object(**absent, VersionId=version)),
        is_versioned=version != "null",
    )


def _may(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ClientError as exc:
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", HTTPStatus.INTERNAL_SERVER_ERROR)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        # What isn't there may be deleted; every other answer of this kind is a no.
        return status == HTTPStatus.NOT_FOUND
    return True


def _delete(client: Any, absent: dict[str, str]) -> None:
    """Delete what isn't there, and the marker of that, which a versioned bucket keeps."""
    marker = client.delete_object(**absent).get("VersionId")
    if marker:
        with contextlib.suppress(ClientError):
            client.delete_object(**absent, VersionId=marker)
