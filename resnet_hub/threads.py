"""Threads that work ahead of their caller."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Queue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

POLL_SECONDS = 0.5  # between two looks at whether to wait on


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


class ReadAhead(Iterator[T]):
    """Iterates over items that a thread reads ahead.

    A read may take minutes, so the thread is waited for neither at the end of the process nor, for longer than a
    moment, when this is closed. It ends with the item that it reads.

    Args:
        items: What the thread reads.
        ahead: Items that it reads ahead, at least 1.
        should_end: Called every `POLL_SECONDS` of a wait for an item, with the seconds since the wait began. If it
            returns a true value, the iteration ends; it may raise an error.
        name: That of the thread.
    """

    def __init__(
        self,
        items: Iterable[T],
        ahead: int,
        should_end: Callable[[float], object] = lambda seconds: False,
        *,
        name: str = "read-ahead",
    ):
        self._should_end = should_end
        self._results: Queue[tuple[Any, BaseException | None]] = Queue(ahead)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(items,), name=name, daemon=True)
        self._thread.start()

    def _read(self, items: Iterable[T]) -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                self._results.put((item, None))
                if self._is_closed.is_set():
                    return
        except BaseException as error:
            end = error
        self._results.put((None, end))

    def __next__(self) -> T:
        start = time.monotonic()
        while not self._is_closed.is_set():
            try:
                item, end = self._results.get(timeout=POLL_SECONDS)
            except Empty:
                if self._should_end(time.monotonic() - start):
                    self.close()
                continue
            if end is None:
                return item  # type: ignore[no-any-return]
            self._is_closed.set()
            raise end
        raise StopIteration

    def close(self, wait: float = 1.0) -> None:
        """Ends the iteration, and waits so many seconds for the end of the thread."""
        self._is_closed.set()
        with suppress(Empty):
            while True:  # the thread may wait for space to put one more item
                self._results.get_nowait()
        self._thread.join(wait)
