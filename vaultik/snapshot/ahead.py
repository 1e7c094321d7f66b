"""Read ranges of an object side by side, in bounded memory.

Threads that nobody waits for: whoever is interrupted doesn't wait for a store that has stopped answering.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultik.snapshot.reads import Range

SIDE_BY_SIDE = 4
THREAD = "vaultik-range"
AHEAD_BYTES = 32 << 20
"""Bytes that have come or are on their way, but for one range that is larger."""


def side_by_side(read: Callable[[Range], bytes], ranges: Sequence[Range]) -> Iterator[tuple[Range, Future[bytes]]]:
    """Yield ranges in their order with what becomes of each; some after it are being read meanwhile.

    Args:
        read: reads one; called on several threads.
        ranges: which.
    """
    begin = _now if len(ranges) == 1 else _soon
    under_way: deque[tuple[Range, Future[bytes]]] = deque()
    held = 0
    for one in ranges:
        size = one.end - one.begin
        while under_way and (len(under_way) >= SIDE_BY_SIDE or held + size > AHEAD_BYTES):
            yield under_way[0]
            first, _ = under_way.popleft()
            held -= first.end - first.begin
        under_way.append((one, begin(read, one)))
        held += size
    while under_way:
        yield under_way.popleft()


def _soon(read: Callable[[Range], bytes], one: Range) -> Future[bytes]:
    future: Future[bytes] = Future()
    threading.Thread(target=_run, args=(future, read, one), name=THREAD, daemon=True).start()
    return future


def _now(read: Callable[[Range], bytes], one: Range) -> Future[bytes]:
    """Nothing is to be read beside it: no thread is needed."""
    future: Future[bytes] = Future()
    _run(future, read, one)
    return future


def _run(future: Future[bytes], read: Callable[[Range], bytes], one: Range) -> None:
    try:
        future.set_result(read(one))
    except BaseException as exc:  # noqa: BLE001 - raised again where the result is taken
        future.set_exception(exc)
