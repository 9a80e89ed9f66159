"""Charts: ticks, logarithmic axes and values that cannot be drawn; of a run, whole epochs and the whole accuracy."""

import math
import re

import pytest
from helpers.page import from_browser

from resnet_hub.analysis.experiment_report import Chart
from resnet_hub.demo import svg_charts
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.training.events import Epoch

EVIL = "<img src=x>"


def make_history(count: int) -> list[Epoch]:
    history = [Epoch(0, None, 1.3, 0.5, True, 0.1, 1.0)]
    return history + [Epoch(n, 1 / n, float("nan") if n == 2 else 0.5, 0.75, False, 0.1, 2.0) for n in range(1, count)]


@pytest.mark.parametrize("language", MESSAGES)
def test_charts_have_whole_epochs_and_all_of_the_accuracy(language: str) -> None:
    texts = MESSAGES[language]
    shown = svg_charts.render_curves(make_history(12), from_browser(language))
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", shown)
    loss, accuracy = (labels[: labels.index(texts["epoch_axis"])], labels[labels.index(texts["epoch_axis"]) + 1 :])
    assert loss == ["0", "0.5", "1", "1.5", "0", "5", "10"]
    assert accuracy == ["", "0%", "20%", "40%", "60%", "80%", "100%", "0", "5", "10", texts["epoch_axis"], ""]
    assert texts["training"] in shown and shown.count("<polyline") == 3 and "nan" not in shown
    validation = re.findall(r'<polyline class="line-1" points="([^"]*)"', shown)  # the same color in both
    assert [len(points.split()) for points in validation] == [11, 12]  # a loss that is no number is left out


def test_the_epoch_that_is_kept_is_marked_and_named() -> None:
    history = [epoch._replace(best=epoch.epoch in (0, 2)) for epoch in make_history(5)]
    shown = svg_charts.render_curves(history, from_browser())
    markers = re.findall(
        r'<line class="marker" x1="([\d.]+)" x2="\1".*<title>Epoch 2: the model that is kept</title>', shown
    )
    assert [float(x) for x in markers] == [
        svg_charts.LEFT + (svg_charts.WIDTH - svg_charts.LEFT - svg_charts.RIGHT) / 2
    ] * 2
    assert shown.count('Accuracy on validation images. Epoch 2: the model that is kept"') == 1


def test_one_point_is_a_table_and_none_is_nothing() -> None:
    shown = svg_charts.render_curves(make_history(1), from_browser())
    assert "<svg" not in shown and "<td>0</td><td>–</td><td>1.30</td><td>50%</td>" in shown
    assert svg_charts.render_curves([], from_browser()) == ""


def test_a_confusion_matrix_has_counts_beside_percentages() -> None:
    evaluation = {"confusion": [[33, 7], [0, 0]], "classes": [{"label": "daisy"}, {"label": EVIL}]}
    shown = svg_charts.render_confusion(evaluation, from_browser())
    assert re.search(r'class="right"[^>]*>33 <small>82%</small>', shown) and ">7 <small>18%</small>" in shown
    assert shown.count(">0</td>") == 2 and EVIL not in shown
    for count, is_shown in ((svg_charts.MAX_CLASSES, True), (svg_charts.MAX_CLASSES + 1, False)):
        many = {"confusion": [[0] * count] * count, "classes": [{"label": str(number)} for number in range(count)]}
        assert bool(svg_charts.render_confusion(many, from_browser())) == is_shown


def draw(**changes: object) -> str:
    settings = {"title": "T", "x_label": "depth", "y_label": "loss", "note": "See.", "lines": {"a": ([1, 2], [0, 3])}}
    return svg_charts.render_chart(Chart(**settings | changes), from_browser())  # type: ignore[arg-type]


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
    assert svg_charts.choose_ticks(values) == ticks


def test_a_chart_has_axis_titles_and_a_note() -> None:
    svg = draw()
    for text in (">depth<", ">loss<", '<p class="hint">See.</p>', 'role="img"', "<title>2: 3</title>"):
        assert text in svg
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", svg)]
    assert len(points) == 2 and all(0 <= x <= svg_charts.WIDTH and 0 <= y <= svg_charts.HEIGHT for x, y in points)
    assert points[0][1] > points[1][1]  # larger values lie higher


def test_values_that_are_not_finite_are_left_out() -> None:
    assert draw(lines={"a": ([1, 2], [math.nan, math.inf])}) == ""
    svg = draw(lines={"a": ([1, 2, 3], [0.5, math.nan, 0.7])})
    assert "nan" not in svg and svg.count("<circle") == 2


def test_a_logarithmic_axis_shows_the_values_and_leaves_out_zero() -> None:
    svg = draw(lines={"a": ([1, 2, 3], [0, 0.01, 1])}, log_y=True)
    assert svg.count("<circle") == 2 and ">0.01<" in svg and ">1<" in svg


def test_few_powers_of_ten_have_ticks_between_them() -> None:
    svg = svg_charts.render_chart(
        Chart(title="T", x_label="x", y_label="y", lines={"a": ([1, 2], [0.03, 0.9])}, log_y=True),
        from_browser(),
        percent=True,
    )
    assert re.findall(r">(\d+%)<", svg) == ["2%", "5%", "10%", "20%", "50%", "100%"]


@pytest.mark.parametrize("is_log", [False, True])
def test_a_band_lies_around_its_line(is_log: bool) -> None:
    svg = draw(lines={"a": ([1, 2], [1, 3])}, bands={"a": ([0.5, 2], [2, 4])}, log_y=is_log)
    edges = re.findall(r"([\d.]+),([\d.]+)", svg[svg.index("<polygon") : svg.index("<polyline")])
    line = re.findall(r"([\d.]+),([\d.]+)", svg[svg.index("<polyline") :])
    assert [x for x, _ in edges] == [line[0][0], line[1][0], line[1][0], line[0][0]]
    assert float(edges[3][1]) < float(line[0][1]) < float(edges[0][1])
    assert "data-x" not in svg


def test_names_of_strangers_stay_text() -> None:
    assert "<img" not in draw(lines={"<img src=x>": ([1], [1])})
