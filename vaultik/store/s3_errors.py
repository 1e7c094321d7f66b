"""What botocore's errors mean: one line that names the store and the reason, a hint, the right kind. No secret is in it."""

from __future__ import annotations

import re
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from vaultik.errors import (
    FormatError,
    IntegrityError,
    ObjectNotFoundError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FOREIGN = (ClientError, BotoCoreError, ResponseParserError, ValueError, KeyError)
"""What leaves botocore; the last two for settings and answers that it can't make sense of."""

_NEXT_RUN = "the store failed; the next run continues"


class ConflictError(StoreUnavailableError):
    """Two requests met at one key; the same request may do in a moment."""


class UploadGoneError(StoreUnavailableError):
    """The upload in parts isn't there any more: completed, or ended by somebody."""


class TakenError(StoreAccessError):
    """An object stands under the key, or another one than was asked for."""


class ConditionUnknownError(StoreAccessError):
    """The server doesn't know a header, such as If-None-Match."""


class _Meaning(NamedTuple):
    reason: str
    hint: str | None
    kind: type[StoreError | IntegrityError] = StoreAccessError


_REGION = _Meaning("the store expects another region", "set s3.region (AWS_REGION) to the bucket's")
_ELSEWHERE = _Meaning(
    "the bucket lies elsewhere", "set s3.endpoint (https://?) or s3.region (AWS_REGION) to the bucket's"
)
_SLOW = _Meaning(
    "the store asks to slow down, again and again", "try later; the next run continues", StoreUnavailableError
)
_CONFLICT = _Meaning("another put of it is going on", "the next run continues", ConflictError)
_TAKEN = _Meaning("another object stands there", None, TakenError)
_NO_CONDITION = _Meaning("the store doesn't know how to do this", None, ConditionUnknownError)
_TOO_SHORT = _Meaning("ends too early", None, FormatError)
_DENIED_HINT = "the credential lacks this right; s3.access: put_only is for those that can only put"

_ANSWERS: Mapping[str, _Meaning] = {
    "InvalidAccessKeyId": _Meaning("the store doesn't know this access key", "check access_key_id (AWS_ACCESS_KEY_ID)"),
    "SignatureDoesNotMatch": _Meaning(
        "the secret doesn't fit the access key", "check secret_access_key (AWS_SECRET_ACCESS_KEY) and the region"
    ),
    "RequestTimeTooSkewed": _Meaning(
        "this machine's clock is off", "set the clock; the store refuses requests out of their time"
    ),
    "NoSuchBucket": _Meaning("no such bucket", "correct its name; vaultik makes no buckets"),
    "AccessDenied": _Meaning("access denied", _DENIED_HINT),
    "AllAccessDisabled": _Meaning("access denied", "the provider has closed it; ask there"),
    "InvalidObjectState": _Meaning("the object is archived", "bring it back from the archive first, then try again"),
    "InvalidBucketName": _Meaning("not a bucket name", "correct its name"),
    "ExpiredToken": _Meaning("the credential has expired", "get a new one"),
    "ExpiredTokenException": _Meaning("the credential has expired", "get a new one"),
    "InvalidToken": _Meaning("the session token isn't valid", "get a new one (AWS_SESSION_TOKEN)"),
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _ELSEWHERE,
    "TemporaryRedirect": _ELSEWHERE,
    "301": _ELSEWHERE,
    "302": _ELSEWHERE,
    "307": _ELSEWHERE,
    "308": _ELSEWHERE,
    "NoSuchKey": _Meaning("no such object", None, ObjectNotFoundError),
    "NoSuchUpload": _Meaning("the upload in parts is gone", "the next run continues", UploadGoneError),
    "InvalidRange": _TOO_SHORT,
    "416": _TOO_SHORT,
    "ConditionalRequestConflict": _CONFLICT,
    "OperationAborted": _CONFLICT,
    "PreconditionFailed": _TAKEN,
    "412": _TAKEN,
    "NotImplemented": _NO_CONDITION,
    "501": _NO_CONDITION,
    "SlowDown": _SLOW,
    "TooManyRequests": _SLOW,
    "429": _SLOW,
    "RequestTimeout": _Meaning("the network is too slow for the store", "try later", StoreUnavailableError),
    # Answers to a HEAD have no body to tell more.
    "403": _Meaning("access denied", "check the credential, its rights, and this machine's clock"),
    "NotFound": _Meaning("no such object", None, ObjectNotFoundError),
    "404": _Meaning("not found", "is the endpoint one of S3, and the bucket there?", ObjectNotFoundError),
    "400": _Meaning(
        "this is not how S3 answers", "is the endpoint one of S3, its scheme (http, https) and region right?"
    ),
}

_OTHER_NAME = _Meaning(
    "its certificate is for another name", "name the endpoint as its certificate does", StoreUnavailableError
)
_CERTIFICATES: Mapping[int, _Meaning] = {
    9: _Meaning("its certificate is not valid yet", "is this machine's clock right?", StoreUnavailableError),
    10: _Meaning(
        "its certificate has expired", "renew it there; or is this machine's clock off?", StoreUnavailableError
    ),
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""By OpenSSL's X509_V_ERR numbers."""
_UNKNOWN_CA = _Meaning(
    "its certificate is of an unknown CA",
    "name a private CA's certificate (PEM) in AWS_CA_BUNDLE",
    StoreUnavailableError,
)
_NO_CA_FILE = _Meaning("the file of CAs is not there", "look at AWS_CA_BUNDLE", StoreUnavailableError)
_NO_TLS = _Meaning("it speaks no TLS", "http:// instead of https://?", StoreUnavailableError)
_NO_TLS_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_TLS = _Meaning("TLS failed", "http:// or https://? which versions of TLS does it speak?", StoreUnavailableError)

_NO_HOST = _Meaning("can't connect: no such host", "correct the endpoint; or is DNS down?", StoreUnavailableError)
_BROKE_OFF = _Meaning("the store broke off without an answer", "is the server up?", StoreUnavailableError)
_BROKE_OFF_PLAIN = _BROKE_OFF._replace(hint="is the server up? a port for https:// does this to http://, too")
_NO_SENSE = _Meaning("this is not how S3 answers", "is the endpoint one of S3?", StoreUnavailableError)
_NO_CREDENTIAL = _Meaning(
    "no credential",
    "access_key_id and secret_access_key in the config of a backup; AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, or a profile, for everything else",
)

_FAILURES: Sequence[tuple[type[Exception], _Meaning]] = (
    (
        exceptions.EndpointConnectionError,
        _Meaning("can't connect", "is the endpoint right, and the server up?", StoreUnavailableError),
    ),
    (
        exceptions.ConnectTimeoutError,
        _Meaning("can't connect: no answer", "is the endpoint right? is a firewall between?", StoreUnavailableError),
    ),
    (exceptions.ReadTimeoutError, _Meaning("no answer in time", _NEXT_RUN, StoreUnavailableError)),
    (
        exceptions.ProxyConnectionError,
        _Meaning("can't connect to the proxy", "look at HTTP_PROXY, HTTPS_PROXY and NO_PROXY", StoreUnavailableError),
    ),
    (exceptions.HTTPClientError, _BROKE_OFF),
    (ResponseParserError, _NO_SENSE),
    (exceptions.NoCredentialsError, _NO_CREDENTIAL),
    (exceptions.PartialCredentialsError, _NO_CREDENTIAL),
    (exceptions.CredentialRetrievalError, _Meaning("no credential: {}", "look at what is to give it")),
    (exceptions.SSOError, _Meaning("no credential: {}", "aws sso login")),
    (exceptions.TokenRetrievalError, _Meaning("no credential: {}", "aws sso login")),
    (exceptions.ProfileNotFound, _Meaning("{}", "look at AWS_PROFILE and the files of profiles")),
    (exceptions.NoRegionError, _Meaning("{}", "set s3.region (AWS_REGION)")),
    (exceptions.InvalidRegionError, _Meaning("{}", "set s3.region (AWS_REGION)")),
    (exceptions.ParamValidationError, _Meaning("{}", None)),
    (KeyError, _Meaning("an answer without {}", "is the endpoint one of S3?", StoreUnavailableError)),
    (ValueError, _Meaning("{}", "is the endpoint right?")),
    (Exception, _Meaning("{}", None, StoreUnavailableError)),
)
"""The first that fits counts; {} is what botocore says."""


def is_denied(error: StoreAccessError) -> bool:
    """Tell whether the server said 403: it was asked the right thing, by somebody who may not."""
    cause = error.__cause__
    status = (
        cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(cause, ClientError) else None
    )
    return status == HTTPStatus.FORBIDDEN


def map_error(exc: Exception, location: str, what: str) -> StoreError | IntegrityError:
    """Return the error to raise for one of `FOREIGN`.

    Args:
        exc: what botocore raised.
        location: of the store.
        what: was asked for.
    """
    where = f"store {location.strip()}: {what}"
    if isinstance(exc, ClientError):
        return _answered(exc, where)
    meaning = _failed(exc)
    if meaning is _BROKE_OFF and location.startswith("http://"):
        meaning = _BROKE_OFF_PLAIN
    return meaning.kind(f"{where}: {meaning.reason.replace('{}', _line(str(exc)))}", hint=meaning.hint)


def hide_userinfo(text: str) -> str:
    """Return text without what stands in front of an @ in its URLs."""
    return re.sub(r"(://)[^/@\s]*@", r"\1", text)


def _answered(exc: ClientError, where: str) -> StoreError | IntegrityError:
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(exc.response.get("Error", {}).get("Code") or status)
    if code in _ANSWERS:
        meaning = _ANSWERS[code]
        return meaning.kind(f"{where}: {meaning.reason}", hint=meaning.hint)
    text = f"{where}: {code} (HTTP {status}): {_line(exc.response.get('Error', {}).get('Message', ''))}"
    if status in range(400, 500):
        return StoreAccessError(text)
    return StoreUnavailableError(text, hint=_NEXT_RUN)


def _failed(exc: Exception) -> _Meaning:
    if isinstance(exc, exceptions.SSLError):
        return _tls(exc)
    if isinstance(exc, exceptions.EndpointConnectionError) and any(
        isinstance(e, socket.gaierror) for e in _causes(exc)
    ):
        return _NO_HOST
    return next(meaning for kind, meaning in _FAILURES if isinstance(exc, kind))


def _tls(exc: Exception) -> _Meaning:
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATES.get(cause.verify_code, _UNKNOWN_CA)
        if isinstance(cause, ValueError) and "match" in str(cause):
            return _OTHER_NAME  # an address is compared by urllib3 itself
        if isinstance(cause, FileNotFoundError):
            return _NO_CA_FILE
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS_REASONS:
            return _NO_TLS
    return _TLS


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, as far as it is kept."""
    seen: list[BaseException] = []
    todo: list[object] = [exc]
    while todo:
        at = todo.pop(0)
        if isinstance(at, BaseException) and at not in seen:
            seen.append(at)
            yield at
            kept = getattr(at, "kwargs", {}).get("error")
            todo += [kept, getattr(at, "reason", None), at.__cause__, at.__context__, *at.args]


def _line(text: str) -> str:
    return hide_userinfo((text.strip().splitlines() or [""])[-1].strip())
