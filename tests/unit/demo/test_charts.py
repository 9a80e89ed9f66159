"""The charts of a run: whole epochs, the whole range of the accuracy, and a table where there is one point."""

import re

import pytest
from helpers.page import from_browser

from resnet_hub.demo import charts
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.training.events import Epoch

EVIL = "<img src=x>"


def make_history(count: int) -> list[Epoch]:
    history = [Epoch(0, None, 1.3, 0.5, True, 0.1, 1.0)]
    return history + [Epoch(n, 1 / n, float("nan") if n == 2 else 0.5, 0.75, False, 0.1, 2.0) for n in range(1, count)]


@pytest.mark.parametrize("language", MESSAGES)
def test_charts_have_whole_epochs_and_all_of_the_accuracy(language: str) -> None:
    texts = MESSAGES[language]
    shown = charts.render_curves(make_history(12), from_browser(language))
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", shown)
    loss, accuracy = (labels[: labels.index(texts["epoch_axis"])], labels[labels.index(texts["epoch_axis"]) + 1 :])
    assert loss == ["0", "0.5", "1", "1.5", "0", "3", "6", "9"]
    assert accuracy == ["0%", "25%", "50%", "75%", "100%", "0", "3", "6", "9", texts["epoch_axis"]]
    assert texts["training"] in shown and shown.count("<polyline") == 3 and "nan" not in shown
    validation = re.findall(r'<polyline class="validation" points="([^"]*)"', shown)
    assert [len(points.split()) for points in validation] == [11, 12]  # a loss that is no number is left out


def test_one_point_is_a_table_and_none_is_nothing() -> None:
    shown = charts.render_curves(make_history(1), from_browser())
    assert "<svg" not in shown and "<td>0</td><td>–</td><td>1.30</td><td>50%</td>" in shown
    assert charts.render_curves([], from_browser()) == ""


@pytest.mark.parametrize(("top", "step"), [(1.3, 0.5), (0.004, 0.001), (7, 2), (100, 20)])
def test_ticks_are_round_numbers(top: float, step: float) -> None:
    assert charts._choose_step(top) == step


def test_a_confusion_matrix_has_counts_beside_percentages() -> None:
    evaluation = {"confusion": [[33, 7], [0, 0]], "classes": [{"label": "daisy"}, {"label": EVIL}]}
    shown = charts.render_confusion(evaluation, from_browser())
    assert re.search(r'class="right"[^>]*>33 <small>82%</small>', shown) and ">7 <small>18%</small>" in shown
    assert shown.count(">0</td>") == 2 and EVIL not in shown
    many = [{"label": str(number)} for number in range(charts.MAX_CLASSES + 1)]
    assert charts.render_confusion({"confusion": [[0] * len(many)] * len(many), "classes": many}, from_browser()) == ""
