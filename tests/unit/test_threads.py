"""Threads that work ahead: the order of the results, how far ahead they work, and their end."""

import threading
import time
from contextlib import closing

import pytest

from resnet_hub import threads
from resnet_hub.threads import ReadAhead, map_ahead


def test_results_are_in_order_and_few_calls_are_ahead() -> None:
    taken: list[int] = []
    before = threading.enumerate()

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    def square(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number**2

    with closing(map_ahead(square, items(), threads=3, ahead=5)) as results:
        for number in range(20):
            assert next(results) == number**2
            assert len(taken) == number + 6
    assert set(threading.enumerate()) <= set(before)
    assert list(map_ahead(square, range(7), threads=2, ahead=50)) == [number**2 for number in range(7)]
    assert list(map_ahead(square, [], threads=2, ahead=50)) == []


def test_an_error_ends_the_calls() -> None:
    called: list[int] = []

    def fail(number: int) -> float:
        called.append(number)
        return 1 / (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(map_ahead(fail, range(1000), threads=1, ahead=10))
    assert len(called) <= 14


def test_reading_ahead_is_bounded_and_ends_with_the_items_or_their_error() -> None:
    taken: list[int] = []

    def items(last: int):
        for number in range(last):
            taken.append(number)
            yield number
        if last == 3:
            raise ValueError("damaged")

    assert list(ReadAhead(items(50), 4)) == list(range(50))
    reader = ReadAhead(items(3), 1)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(reader)
    assert list(reader) == []
    taken.clear()
    with closing(ReadAhead(items(50), 4, name="bounded")) as reader:
        assert next(reader) == 0
    assert len(taken) <= 1 + 4 + 1 and list(reader) == []
    assert not any(thread.name == "bounded" for thread in threading.enumerate())


def test_a_read_that_never_ends_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "POLL_SECONDS", 0.01)
    release = threading.Event()

    def items():
        release.wait(60)
        yield 1

    start = time.monotonic()
    reader = ReadAhead(items(), 1, lambda seconds: seconds > 0.05)
    assert list(reader) == []

    def fail(seconds: float) -> None:
        raise TimeoutError(seconds)

    with closing(ReadAhead(items(), 1, fail, name="silent")) as reader, pytest.raises(TimeoutError):
        next(reader)
    assert time.monotonic() - start < 10
    blocked = [thread for thread in threading.enumerate() if thread.name == "silent"]
    assert blocked and blocked[0].daemon
    release.set()
