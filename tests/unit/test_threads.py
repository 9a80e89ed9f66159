"""Threads that work ahead: the order of the results, how far ahead they work, and their end."""

import threading
import time
from contextlib import closing

import pytest

from resnet_hub.threads import map_ahead


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
