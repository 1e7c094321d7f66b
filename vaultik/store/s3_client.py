"""Clients of S3: boto3's own chain of environment, profiles and roles, and what vaultik sets on top.

A client is never used across a fork. What the caller names goes before what boto3 finds by itself.
"""

from __future__ import annotations

import email.utils
import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import boto3.session
import botocore.config
import botocore.session

from vaultik.store.pace import PacedBody
from vaultik.store.s3_body import READ_S
from vaultik.store.s3_parts import PART_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from vaultik.store.pace import Pace

_CONNECT_S = 10
_FIRST_REGION = "us-east-1"
"""What servers that know no regions sign by."""

Addressing = Literal["path", "virtual"]


class Settings(NamedTuple):
    """What every client of a store is made by."""

    endpoint: str | None
    """URL; None is what boto3 finds, and AWS if that is nothing."""
    region: str | None
    access_key_id: str | None
    secret_access_key: str | None
    addressing: Addressing | None
    checksums: bool
    attempts: int


class Clients:
    """The clients of one store in one process, each made when it is first asked for."""

    def __init__(self, settings: Settings, tell: Callable[[float], None], pace: Pace | None = None) -> None:
        """Prepare.

        Args:
            settings: of every client.
            tell: takes the time of each answer, seconds since 1970.
            pace: how fast bodies are sent; None is as fast as it goes.
        """
        self._pace = pace
        self._settings = settings
        self._tell = tell
        self._sessions: tuple[Any, Any] | None = None
        self._clients: dict[bool, Any] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def get(self, *, once: bool = False) -> Any:
        """Return this process's client; with `once`, one that sends each request a single time.

        Raises:
            BotoCoreError, ValueError: none can be made of these settings.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._sessions, self._clients = os.getpid(), None, {}
            if once not in self._clients:
                self._clients[once] = self._make(1 if once else self._settings.attempts)
            return self._clients[once]

    def close(self) -> None:
        """Close the connections of this process."""
        if self._pid == os.getpid():
            for client in self._clients.values():
                client.close()
        self._clients = {}

    def _make(self, attempts: int) -> Any:
        settings = self._settings
        if self._sessions is None:
            session = botocore.session.get_session()
            self._sessions = session, boto3.session.Session(botocore_session=session)
        session, maker = self._sessions
        endpoint = settings.endpoint or configured_endpoint(session)
        config = botocore.config.Config(
            connect_timeout=_CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3=_addressing(settings.addressing, endpoint, session),
            request_checksum_calculation="when_supported" if settings.checksums else "when_required",
            response_checksum_validation="when_required",
            max_pool_connections=2 * PART_THREADS,
            user_agent_extra="vaultik",
        )
        client = maker.client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.region or session.get_config_variable("region") or (endpoint and _FIRST_REGION),
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key,
            config=config,
        )
        client.meta.events.register("response-received.s3", self._note_time)
        client.meta.events.register("response-received.s3", functools.partial(_name_region, client.meta.region_name))
        if self._pace is not None:
            client.meta.events.register("before-send.s3", functools.partial(_slow_down, self._pace))
        return client

    def _note_time(self, response_dict: dict[str, Any] | None = None, **_ignored: Any) -> None:
        found = parse_date((response_dict or {}).get("headers", {}).get("date"))
        if found is not None:
            self._tell(found.timestamp())


def _slow_down(pace: Pace, request: Any = None, **_ignored: Any) -> None:
    """Let a request's body be sent no faster than it may: it is signed by now, and read once more to be sent."""
    if request.method == "PUT" and request.body:
        request.body = PacedBody(request.body, pace)


def _name_region(region: str, parsed_response: dict[str, Any] | None = None, **_ignored: Any) -> None:
    """Let a redirect that names no region name the client's own.

    Else botocore asks the bucket for its region, and does the same to the answer, until its stack is full:
    a server that only tells everybody to come by https:// is enough.
    """
    answer = parsed_response or {}
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if answer.get("Error") and "x-amz-bucket-region" not in headers:
        answer["Error"].setdefault("Region", region)


def parse_date(text: str | None) -> datetime | None:
    """Return the time that a Date header names, None if there is none or it can't be read."""
    try:
        found = email.utils.parsedate_to_datetime(text or "")
    except ValueError:
        return None
    # Without a zone, it would be taken for this machine's.
    return None if found.tzinfo is None else found


def configured_endpoint(session: Any) -> str | None:
    """Return the endpoint that boto3's environment and profile name for S3, None for AWS itself.

    Raises:
        BotoCoreError: no such profile, or its file can't be read.
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    found = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or services.get("s3", {}).get("endpoint_url")
        or profile.get("endpoint_url")
    )
    return None if found is None else str(found)


def _addressing(given: Addressing | None, endpoint: str | None, session: Any) -> Any:
    """Return where the bucket's name goes: as the caller says, else the profile, else into the path if it isn't AWS."""
    if given is not None:
        return {"addressing_style": given}
    configured = session.get_scoped_config().get("s3")
    if endpoint is None or (isinstance(configured, dict) and "addressing_style" in configured):
        return {}
    return {"addressing_style": "path"}
