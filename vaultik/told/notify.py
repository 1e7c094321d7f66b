"""Ping a dead-man service: one request at a run's beginning and one at its end, with a summary as body.

What the service doesn't take is told in a line and no more. No URL is ever shown: whoever knows it may
ping. The one door to urllib3 besides boto3's.
"""

from __future__ import annotations

import logging
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError
from urllib3.util import Retry, Timeout, make_headers

import vaultik

if TYPE_CHECKING:
    from typing import Any

_TIMEOUT = Timeout(connect=4.0, read=8.0)
_BRIEF = Timeout(connect=1.0, read=1.0)
_BUSY = (429, 500, 502, 503, 504)
_NO_POST = (404, 405)
_REFUSED = 400

# It would name URLs in its warnings.
logging.getLogger("urllib3").setLevel(logging.ERROR)


def ping(url: str, body: str, *, is_brief: bool = False) -> str | None:
    """Tell a service. Returns why it wasn't told, None if it was.

    A service that takes no POST, as some that only listen for an address, is asked with GET.

    Args:
        url: as the config has it; never shown.
        body: text of a few hundred bytes.
        is_brief: there is no time for more than one short try.
    """
    retries = Retry(
        total=0 if is_brief else 2,
        backoff_factor=0.5,
        status_forcelist=_BUSY,
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    target, headers = _without_user(url)
    try:
        with _pool(target) as pool:
            status = 0
            for method in ("POST", "GET"):
                answer = pool.request(
                    method,
                    target,
                    body=body.encode() if method == "POST" else None,
                    headers={**headers, "Content-Type": "text/plain; charset=utf-8"} if method == "POST" else headers,
                    retries=retries,
                    timeout=_BRIEF if is_brief else _TIMEOUT,
                )
                status = answer.status
                if status not in _NO_POST:
                    break
    except (HTTPError, OSError, ValueError) as exc:
        return _reason(exc)
    return f"HTTP {status}" if status >= _REFUSED else None


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its user and password, and headers that carry them."""
    parts = urlsplit(url)
    headers = make_headers(user_agent=f"vaultik/{vaultik.__version__}")
    if parts.username is not None:
        headers |= make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), headers


def _pool(url: str) -> Any:
    """Return connections to a URL's host: direct, or through the proxy that the environment names."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager()
    proxy, headers = _without_user(proxy if "://" in proxy else f"http://{proxy}")
    authorization = headers.get("authorization")
    return urllib3.ProxyManager(
        proxy, proxy_headers=None if authorization is None else {"proxy-authorization": authorization}
    )


def _reason(exc: Exception) -> str:
    """Return what kind of failure it was: the error's own text names the URL."""
    cause = exc.reason if isinstance(exc, MaxRetryError) and exc.reason is not None else exc
    if isinstance(cause, NewConnectionError):  # one of the next kind, for urllib3
        return "no connection"
    if isinstance(cause, ConnectTimeoutError | ReadTimeoutError):
        return "no answer in time"
    return type(cause).__name__
