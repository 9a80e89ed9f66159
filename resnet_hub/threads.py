"""Threads that work ahead of their caller."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Generator[R, None, None]:
    """Yields the results of a function in the order of its arguments, computed in threads.

    Few are submitted before they are needed: the results would fill the memory, and so would a million futures. If the
    generator is closed, or a call raises an error, only the calls that have begun are waited for.

    Args:
        function: Called with each item.
        items: The arguments, which may be endless.
        threads: Number of threads.
        ahead: Calls that are submitted ahead of the result that is yielded.
    """
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
