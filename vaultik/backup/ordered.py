"""Run a function over a stream, on threads where some are to be had: results in order, a bounded number under way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(executor: Executor | None, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield `function(item)` for each item, in order.

    Without an executor it is done in this thread, one by one. Else at most `ahead` calls are under way or done and
    not yet taken, so memory is bounded by them. The first exception, of an item or of the stream itself, comes out
    where its result would have.
    """
    if executor is None:
        yield from map(function, items)
        return
    under_way: deque[Future[R]] = deque()
    for item in items:
        under_way.append(executor.submit(function, item))
        if len(under_way) >= ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
