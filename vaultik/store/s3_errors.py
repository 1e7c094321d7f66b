"""What botocore's errors mean: one line that names the store and the reason, a hint, the right kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from vaultik.errors import FormatError, IntegrityError, StoreAccessError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ABSENT = ("NoSuchKey", "404", "NotFound")
_TOO_SHORT = ("InvalidRange", "416")
_CONFLICT = ("ConditionalRequestConflict", "OperationAborted")
_TAKEN = ("PreconditionFailed", "412")
_UNKNOWN_CONDITION = ("NotImplemented", "501")


class StoreConflictError(StoreUnavailableError):
    """Two requests met at one key; the same request may do in a moment."""


class _Meaning(NamedTuple):
    reason: str
    hint: str | None


_REFUSED: Mapping[str, _Meaning] = {
    "InvalidAccessKeyId": _Meaning("the store doesn't know this access key", "check access_key_id (AWS_ACCESS_KEY_ID)"),
    "SignatureDoesNotMatch": _Meaning(
        "the secret doesn't fit the access key", "check secret_access_key (AWS_SECRET_ACCESS_KEY) and the region"
    ),
    "RequestTimeTooSkewed": _Meaning(
        "this machine's clock is off", "set the clock; the store refuses requests out of their time"
    ),
    "NoSuchBucket": _Meaning("no such bucket", "correct its name; vaultik makes no buckets"),
    "AccessDenied": _Meaning(
        "access denied", "the credential lacks this right; s3.access: put_only is for those that can only put"
    ),
    "InvalidObjectState": _Meaning("the object is archived", "bring it back from the archive first, then try again"),
    "AllAccessDisabled": _Meaning("access denied", None),
    "InvalidBucketName": _Meaning("not a bucket name", None),
    "ExpiredToken": _Meaning("the credential has expired", "get a new one"),
    "AuthorizationHeaderMalformed": _Meaning("the store expects another region", "set s3.region"),
    "PermanentRedirect": _Meaning("the bucket lies elsewhere", "set s3.region or s3.endpoint"),
    "403": _Meaning("access denied", "check the credential and its rights"),
}


def is_absent(exc: ClientError) -> bool:
    """Tell whether the store says that an object isn't there."""
    return _code(exc) in _ABSENT


def is_taken(exc: ClientError) -> bool:
    """Tell whether an object stands under the key already."""
    return _code(exc) in _TAKEN


def is_unknown_condition(exc: ClientError) -> bool:
    """Tell whether the store doesn't know If-None-Match."""
    return _code(exc) in _UNKNOWN_CONDITION


def map_error(  # noqa: PLR0911 - a table of kinds
    exc: ClientError | BotoCoreError, location: str, what: str
) -> StoreError | IntegrityError:
    """Return the error to raise for one of botocore's."""
    where = f"store {location.strip()}: {what}"
    if isinstance(exc, ClientError):
        return _answered(exc, where)
    match exc:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return StoreAccessError(
                f"{where}: no credential",
                hint="access_key_id and secret_access_key in the config of a backup; AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or a profile, for everything else",
            )
        case exceptions.ProfileNotFound() | exceptions.NoRegionError() | exceptions.InvalidRegionError():
            return StoreAccessError(f"{where}: {exc}")
        case exceptions.SSLError():
            return StoreUnavailableError(
                f"{where}: TLS failed", hint="http:// or https://? a private CA goes into AWS_CA_BUNDLE"
            )
        case exceptions.EndpointConnectionError() | exceptions.ConnectTimeoutError():
            return StoreUnavailableError(f"{where}: can't connect", hint="is the endpoint right, and the network up?")
        case exceptions.ParamValidationError():
            return StoreAccessError(f"{where}: {str(exc).splitlines()[-1].strip()}")
        case _:
            return StoreUnavailableError(f"{where}: {str(exc).splitlines()[0]}")


def _answered(exc: ClientError, where: str) -> StoreError | IntegrityError:
    code = _code(exc)
    if code in _CONFLICT:
        return StoreConflictError(f"{where}: another put of it is going on", hint="the next run continues")
    if code in _TOO_SHORT:
        return FormatError(f"{where}: ends too early")
    if code in _REFUSED:
        return StoreAccessError(f"{where}: {_REFUSED[code].reason}", hint=_REFUSED[code].hint)
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = exc.response.get("Error", {}).get("Message", "").strip().splitlines()
    text = f"{where}: {code} (HTTP {status}){': ' + message[0] if message else ''}"
    client_fault = status in range(400, 500) and code not in (
        "SlowDown",
        "TooManyRequests",
        "429",
        "RequestTimeout",
    )
    return (
        StoreAccessError(text)
        if client_fault
        else StoreUnavailableError(text, hint="the store failed; the next run continues")
    )


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
