"""Line charts as SVG: ticks, logarithmic axes, and values that cannot be drawn."""

import math
import re

import pytest
from helpers.page import from_browser

from resnet_hub.analysis.plots import Chart
from resnet_hub.demo.inside_tab.charts import HEIGHT, WIDTH, choose_ticks, render_chart


def draw(**changes: object) -> str:
    settings = {"title": "T", "x_label": "depth", "y_label": "loss", "note": "See.", "lines": {"a": ([1, 2], [0, 3])}}
    return render_chart(Chart(**settings | changes), from_browser())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0.53, 2.49], [0.5, 1, 1.5, 2, 2.5]),
        ([-5, 9.5], [-5, 0, 5, 10]),
        ([3], [3]),
        ([0], [0]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(values: list[float], ticks: list[float]) -> None:
    assert choose_ticks(values) == ticks


def test_a_chart_names_its_axes_and_says_what_to_see() -> None:
    svg = draw()
    for text in (">depth<", ">loss<", '<p class="hint">See.</p>', 'role="img"', "<title>2: 3</title>"):
        assert text in svg
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", svg)]
    assert len(points) == 2 and all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points[0][1] > points[1][1]  # larger values lie higher


def test_values_that_are_not_finite_are_left_out() -> None:
    assert draw(lines={"a": ([1, 2], [math.nan, math.inf])}) == ""
    svg = draw(lines={"a": ([1, 2, 3], [0.5, math.nan, 0.7])})
    assert "nan" not in svg and svg.count("<circle") == 2


def test_a_logarithmic_axis_shows_the_values_and_leaves_out_zero() -> None:
    svg = draw(lines={"a": ([1, 2, 3], [0, 0.01, 1])}, log_y=True)
    assert svg.count("<circle") == 2 and ">0.01<" in svg and ">1<" in svg


def test_names_of_strangers_stay_text() -> None:
    assert "<img" not in draw(lines={"<img src=x>": ([1], [1])})
