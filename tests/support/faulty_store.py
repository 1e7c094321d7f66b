"""A store whose calls do to some of those who ask what a map says: what the real ones make of faults of the network and the server.

The map's keys are numbers of calls, counted from 0 over all methods, or a method and a number, counted of that method
only; its values are faults:

    "down"        StoreUnavailableError, and nothing has happened: timeouts, HTTP 409, 500, 503, a reset connection
    "down, done"  the same, and it has happened: only the answer was lost
    "refused"     StoreAccessError: HTTP 403
    "not found"   ObjectNotFoundError: HTTP 404; a head finds nothing
    "breaks"      StoreUnavailableError in the middle of a body or a listing
    "bad sector"  IntegrityError in the middle of a body
    "short"       a body without its end
    "long"        a body with more behind its end
    "flip"        a body with one bit flipped
    "late"        a listing without what was stored within LATE_S
    "some"        a delete that leaves every other key, with a reason
    "taken"       a put that says no, and has happened: HTTP 412 for what an earlier try of the same put stored
    "lie"         a put or a delete that says yes, and has not happened
    "lie, taken"  a put that says no, and nothing stands there

Against all but the last two vaultik promises: an operation ends right or with an error that says why, nothing that was
committed is lost, and the next run without faults mends all. (A restore that names damaged files has come to its end:
there it is the next one with `--force`.)

A store that lies breaks its contract, and nothing can be promised of what it was trusted with last. What is promised:
a run lists the store before it puts its manifest and DB, so it notices of each blob that was put by then that it
isn't there, and stores it anew. A lie about what is put after its last listing (a layer of the DB, the DB), or about
the manifest, can break or lose a snapshot of that very run and no other: what was committed before stays whole. The
next run notices that layer or that DB missing in its own listing, and stores a whole snapshot; a verification names
the layer or the manifest, and notes a manifest without its DB. A credential that can only put has no listing: there it
is the verification that notices, and `--heal` that mends. A delete that lied is done by the next prune; if it was of a
DB, whose manifest was deleted after it, that prune refuses, and names the `--drop` that does it.
"""

import random
from collections import Counter
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

from vaultik.errors import IntegrityError, ObjectNotFoundError, StoreAccessError, StoreUnavailableError
from vaultik.store.base import Listing

LATE_S = 3600.0
LIES = ("lie", "lie, taken")
BODIES = ("short", "long", "flip")
"""Bodies that are not what is stored, and come to their end as if they were."""
FAULTS = {
    "ask_time": ("down",),
    "put": ("down", "down, done", "refused", "not found", "taken", *LIES),
    "open": ("down", "refused", "not found", "breaks", "bad sector", *BODIES),
    "head": ("down", "refused", "not found"),
    "walk": ("down", "refused", "not found", "breaks", "late"),
    "children": ("down", "refused", "not found", "late"),
    "look_behind": ("down", "refused"),
    "retention": ("down", "refused"),
    "delete": ("down", "down, done", "refused", "not found", "some", "lie"),
}
"""What can happen to the calls of each method."""


class Call(NamedTuple):
    """A call that was made, and what happened to it."""

    method: str
    what: str
    fault: str | None
    is_whole: bool
    """It asked for all of a body."""


class Faults:
    """What happens to which calls, counted over all stores that share this."""

    def __init__(self, script=None, *, seed=0):
        self.met = Counter()
        """How often each fault took place, of all maps."""
        self.begin(script, seed=seed)

    def begin(self, script=None, *, seed=0):
        """Count anew, by another map. The seed says which bit is flipped, and the like."""
        self.script = dict(script or {})
        self.random = random.Random(seed)
        self.calls = []
        self._counts = Counter()

    def take(self, method, what, *, is_whole=True):
        """Count a call. Returns what happens to it; a fault that doesn't fit the method is none."""
        number, nth = len(self.calls), self._counts[method]
        self._counts[method] += 1
        fault = self.script.get(number, self.script.get((method, nth)))
        call = Call(method, what, fault if fault in FAULTS[method] else None, is_whole)
        self.calls.append(call)
        if call.fault is not None:
            self.met[method, call.fault] += 1
        return call.fault

    @property
    def happened(self):
        """The calls that didn't go as they should."""
        return [call for call in self.calls if call.fault is not None]


class FaultyStore:
    """Another store, and what happens to its calls."""

    def __init__(self, inner, faults, lied=lambda _key: None):
        """`lied` is told of each key of which it is said that it is stored, or deleted, and isn't."""
        self.inner = inner
        self._faults = faults
        self._lied = lied
        self._knows_time = False

    @property
    def can_lock(self):
        return self.inner.can_lock

    @property
    def location(self):
        return self.inner.location

    def now(self):
        return self.inner.now() if self._knows_time else self.ask_time()

    def ask_time(self):
        self._begin("ask_time")
        return self.inner.ask_time()

    def put(self, key, body, *, sha256, until=None):
        fault = self._begin("put", key)
        if fault in LIES:
            self._lied(key)
            return fault == "lie"
        stored = self.inner.put(key, body, sha256=sha256, until=until)
        self._end(fault, f"put {key}")
        return stored and fault != "taken"

    @contextmanager
    def open(self, key, *, offset=0, length=None):
        fault = self._begin("open", key, is_whole=not offset and length is None)
        with self.inner.open(key, offset=offset, length=length) as stream:
            if fault is None:
                yield stream
            elif fault in BODIES:
                yield BytesIO(self._altered(stream.read(), fault))
            else:
                kind = StoreUnavailableError if fault == "breaks" else IntegrityError
                yield _Breaking(stream.read(), kind(f"{key}: {fault}, on purpose"))

    def head(self, key):
        return None if self._begin("head", key) == "not found" else self.inner.head(key)

    def look_behind(self, key, sha256):
        self._begin("look_behind", key)
        return self.inner.look_behind(key, sha256)

    def retention(self, key):
        self._begin("retention", key)
        return self.inner.retention(key)

    def walk(self, prefix=""):
        fault = self._begin("walk", prefix)
        if fault is None:
            yield from self.inner.walk(prefix)
            return
        found = list(self.inner.walk(prefix))
        if fault == "late":
            yield from self._not_too_new(found)
            return
        yield from found[: len(found) // 2]
        raise StoreUnavailableError(f"list {prefix}: breaks, on purpose")

    def children(self, prefix=""):
        fault = self._begin("children", prefix)
        found = self.inner.children(prefix)
        if fault != "late":
            return found
        # A level that holds new objects only is not there yet.
        there = {info.key for info in self._not_too_new(self.inner.walk(prefix))}
        objects = [info for info in found.objects if info.key in there]
        return Listing(objects, [p for p in found.prefixes if any(key.startswith(p) for key in there)])

    def delete(self, keys):
        keys = list(keys)
        fault = self._begin("delete", f"{len(keys)} objects")
        if fault == "lie":
            for key in keys:
                self._lied(key)
            return {}
        left = keys[::2] if fault == "some" else []
        failed = self.inner.delete([key for key in keys if key not in left])
        self._end(fault, "delete")
        return failed | dict.fromkeys(left, "left, on purpose")

    def close(self):
        self.inner.close()

    # -- faults -----------------------------------------------------------------------------------

    def _begin(self, method, what="", *, is_whole=True):
        """Count a call, and raise what comes before its effect. Returns what else is to happen."""
        fault = self._faults.take(method, what, is_whole=is_whole)
        if fault == "down":
            raise StoreUnavailableError(f"{method} {what}: down, on purpose")
        self._knows_time = True
        if fault == "refused":
            raise StoreAccessError(f"{method} {what}: refused, on purpose")
        if fault == "not found" and method != "head":
            raise ObjectNotFoundError(f"{method} {what}: not found, on purpose")
        return fault

    def _end(self, fault, what):
        if fault == "down, done":
            raise StoreUnavailableError(f"{what}: done, but nobody hears of it")

    def _altered(self, data, fault):
        chance = self._faults.random
        if fault == "short":
            return data[: chance.randrange(max(1, len(data)))]
        if fault == "long":
            return data + chance.randbytes(chance.randint(1, 100))
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    def _not_too_new(self, found):
        found = list(found)
        before = self.inner.now() - LATE_S
        return [info for info in found if info.modified <= before]


class _Breaking:
    """Gives the first half of a body, then fails."""

    def __init__(self, data, failure):
        self._stream = BytesIO(data[: len(data) // 2])
        self._failure = failure

    def read(self, size=-1, /):
        if size == 0 or (data := self._stream.read(size)):
            return data if size else b""
        raise self._failure
