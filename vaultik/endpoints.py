"""Endpoints and buckets as text: what may be one, before anything is made or asked."""

from __future__ import annotations

import re

from vaultik.shown import without_userinfo

_BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_SERVER = re.compile(r"(https?://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(:(?P<port>\d{1,5}))?(/[^?#@]*)?")
_HIGHEST_PORT = 65535


def endpoint_fault(endpoint: str) -> tuple[str, str] | None:
    """Return what is wrong with an endpoint and what to do, None if it may be one. Shows no password."""
    shown = without_userinfo(endpoint)
    if endpoint.startswith("file://"):
        absolute = endpoint.removeprefix("file://").startswith("/") and "\0" not in endpoint
        return None if absolute else (f"{shown}: not an absolute path", "three slashes: file:///srv/backup")
    if shown != endpoint:
        return (
            f"{shown}: a user or password stands in it",
            "the credential goes into access_key_id and secret_access_key, or boto3's own environment",
        )
    shape = _SERVER.fullmatch(endpoint)
    if shape is None or int(shape["port"] or 1) not in range(1, _HIGHEST_PORT + 1):
        return (
            f"{shown}: neither a server nor a directory",
            "https://s3.example.org, or file:///srv/backup for a directory store",
        )
    return None


def is_bucket(name: str) -> bool:
    """Tell whether a name may be a bucket's."""
    return bool(_BUCKET.fullmatch(name)) and not name.startswith("..")
