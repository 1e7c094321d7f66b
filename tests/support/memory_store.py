"""A store in memory with the contract of the real ones, for tests that want many stores fast."""

import hashlib
import threading
import time
from contextlib import contextmanager
from io import BytesIO

from vaultik.errors import DigestMismatchError, LostBodyError, ObjectNotFoundError
from vaultik.store.base import Listing, ObjectInfo


class MemoryStore:
    """Objects in a dict that several stores may share."""

    can_lock = True

    def __init__(self, prefix="", shared=None, clock=time.time):
        self._prefix = prefix
        self._objects = {} if shared is None else shared
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def location(self):
        return f"memory {id(self._objects)} {self._prefix}"

    def now(self):
        return self._clock()

    def ask_time(self):
        return self.now()

    def put(self, key, body, *, sha256, until=None):  # noqa: ARG002 - nothing takes time here
        try:
            data = body if isinstance(body, bytes) else body.read_bytes()
        except FileNotFoundError as exc:
            raise LostBodyError(f"put {body}: {exc.strerror}") from exc
        if hashlib.sha256(data).digest() != sha256:
            raise DigestMismatchError(f"put {key}: the body is not what its digest says")
        with self._lock:
            if self._prefix + key in self._objects:
                return False
            self._objects[self._prefix + key] = (data, self._clock())
            return True

    @contextmanager
    def open(self, key, *, offset=0, length=None):
        if self._prefix + key not in self._objects:
            raise ObjectNotFoundError(f"{key}: no such object")
        data, _ = self._objects[self._prefix + key]
        yield BytesIO(data[offset:] if length is None else data[offset : offset + length])

    def head(self, key):
        found = self._objects.get(self._prefix + key)
        return None if found is None else self.info(key, *found)

    def retention(self, key):  # noqa: ARG002 - no locks
        return None

    def look_behind(self, key, sha256):  # noqa: ARG002 - no versions are kept
        return None

    def info(self, key, data, modified):
        return ObjectInfo(key, len(data), modified)

    def walk(self, prefix=""):
        for key in sorted(self._objects):
            if key.startswith(self._prefix + prefix):
                yield self.head(key.removeprefix(self._prefix))

    def children(self, prefix=""):
        listing = Listing([], [])
        for info in self.walk(prefix):
            first, slash, _ = info.key.removeprefix(prefix).partition("/")
            if not slash:
                listing.objects.append(info)
            elif prefix + first + "/" not in listing.prefixes:
                listing.prefixes.append(prefix + first + "/")
        return listing

    def delete(self, keys):
        for key in keys:
            self._objects.pop(self._prefix + key, None)
        return {}

    def close(self):
        pass
