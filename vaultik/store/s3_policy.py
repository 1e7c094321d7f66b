"""The least rights that each use of a bucket takes, as policies of AWS's language; SeaweedFS and MinIO read the same."""

from __future__ import annotations

from typing import Any

PUT_ONLY, BACKUP, RESTORE, PRUNE, BUCKET = "put-only", "backup", "restore", "prune", "bucket"
USES = (PUT_ONLY, BACKUP, RESTORE, PRUNE, BUCKET)

_PUT = ["s3:PutObject", "s3:AbortMultipartUpload"]
_LIST = ["s3:ListBucket"]
_OBJECTS = {
    PUT_ONLY: _PUT,
    BACKUP: [*_PUT, "s3:ListMultipartUploadParts"],
    RESTORE: ["s3:GetObject"],
    PRUNE: ["s3:GetObject", "s3:DeleteObject"],
}
_VERSIONS = {RESTORE: ["s3:GetObjectVersion"], PRUNE: ["s3:GetObjectVersion", "s3:DeleteObjectVersion"]}
_IN_BUCKET = {BACKUP: [*_LIST, "s3:ListBucketMultipartUploads"], RESTORE: _LIST, PRUNE: _LIST}
_VERSIONS_IN_BUCKET = ["s3:ListBucketVersions"]


def policy(use: str, bucket: str, prefix: str, *, locks: bool = False) -> dict[str, Any]:
    """Return the policy for a use.

    Args:
        use: one of `USES`: for the credential of a host that only puts, of one that lists as well, of who restores or
            verifies, of who prunes; or for the bucket itself, so that nobody can replace an object.
        bucket: the bucket.
        prefix: empty or with a trailing slash.
        locks: objects are put with a retention, and prune extends it.
    """
    objects = f"arn:aws:s3:::{bucket}/{prefix}*"
    if use == BUCKET:
        return _document(
            {
                "Sid": "NothingIsReplaced",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": objects,
                # A part of a multipart upload creates nothing; its completion does, and carries the condition.
                "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}},
            }
        )
    retention = {PUT_ONLY: ["s3:PutObjectRetention"], BACKUP: ["s3:PutObjectRetention"]}
    retention[PRUNE] = ["s3:GetObjectRetention", "s3:PutObjectRetention"]
    actions = [*_OBJECTS[use], *_VERSIONS.get(use, ()), *(retention.get(use, ()) if locks else ())]
    statements: list[dict[str, Any]] = [{"Effect": "Allow", "Action": actions, "Resource": objects}]
    if use in _IN_BUCKET:
        more = _VERSIONS_IN_BUCKET if use in _VERSIONS else []
        listing = {"Effect": "Allow", "Action": [*_IN_BUCKET[use], *more], "Resource": f"arn:aws:s3:::{bucket}"}
        statements.append(listing | ({"Condition": {"StringLike": {"s3:prefix": f"{prefix}*"}}} if prefix else {}))
    return _document(*statements)


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}
