"""Means and ranges of values over x, such as those of several seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Curve(NamedTuple):
    """Means, and the lowest and highest values, by x."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def average_by_x(values: Mapping[float, Sequence[float]]) -> Curve:
    """Average the values at each x, such as those of several seeds."""
    x = sorted(values)
    y = [sum(values[at]) / len(values[at]) for at in x]
    return Curve(x, y, [min(values[at]) for at in x], [max(values[at]) for at in x])
