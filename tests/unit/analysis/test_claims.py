"""The experiments of the papers in sizes of a second, their reports and plots."""

import json

import numpy as np
import pytest
from helpers.data import encode_image
from helpers.networks import network

from resnet_hub.analysis.claims import (
    reproduce_degradation,
    reproduce_identity,
    reproduce_lesion,
    reproduce_shattered_gradients,
    reproduce_shortcuts,
)
from resnet_hub.analysis.report import Chart, Finding, Report, plot_chart
from resnet_hub.errors import AnalysisError

BLUE = (0, 114, 178)


@pytest.fixture
def colours(tmp_path):
    for split, count in (("train", 8), ("test", 6)):
        for channel, label in enumerate(("red", "green")):
            (folder := tmp_path / "colours" / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(encode_image(channel, number))
    return tmp_path / "colours"


def is_whole(report: Report) -> bool:
    content = json.loads(report.to_json())
    text = report.to_text()
    return (
        content["claim"] == report.claim
        and all(finding.statement in text for finding in report.findings)
        and all(min(plot_chart(chart).size) > 300 for chart in report.charts.values())
        and report.source.split(",")[0] in text
    )


def test_shattered_gradients():
    report = reproduce_shattered_gradients(depth=16, width=32, inputs=24, draws=3, seed=1)
    assert is_whole(report)
    assert sum(finding.holds is not None for finding in report.findings) == 10
    assert [finding.holds for finding in report.findings[-3:]] == [True] * 3
    assert len(report.numbers["correlations"]) == 9
    assert {*report.charts} == {"gradient-correlation", "autocorrelation"}
    again = reproduce_shattered_gradients(depth=16, width=32, inputs=24, draws=3, seed=1)
    assert again.findings == report.findings


def test_identity():
    calls = []
    report = reproduce_identity(blocks=2, width=16, steps=60, progress=lambda *call: calls.append(call))
    assert is_whole(report) and calls[-1] == (120, 120)
    assert [finding.holds for finding in report.findings] == [True, True]
    assert len(report.numbers["near"]["plain"]) == 60


def test_lesion(colours):
    labels = {0: "green", 1: "red"}
    models = {
        name: network(stem="3x3", width=8, depths=(3, 1, 1), image_size=16, id2label=labels, shortcut=shortcut)
        for name, shortcut in (("residual", "B"), ("plain", "none"))
    }
    report = reproduce_lesion(models, colours, draws=1)
    assert is_whole(report) and {*report.charts} == {"one-block", "removal", "reorder"}
    assert [finding.expected for finding in report.findings] == ["at most 5 points", "nearly all accuracy"]
    values = report.numbers["plain"]
    assert len(values["lesions"]) == 5 and values["images"] == 12
    drops = [values["accuracy"] - lesion["accuracy"] for lesion in values["lesions"]]
    assert values["mean_drop"] == pytest.approx(np.mean(drops))
    fast = reproduce_lesion(models, colours, images=4, curves=False)
    assert {*fast.charts} == {"one-block"} and fast.numbers["residual"]["images"] == 4


def test_degradation_and_shortcuts_on_gratings():
    report = reproduce_degradation(layers=(8, 14), width=2, steps=2, seeds=(0, 1))
    assert is_whole(report) and len(report.findings) == 3
    assert report.findings[0].statement == "train error of plain14 and plain8"
    assert report.findings[0].measured.count(" to ") == 2  # the spread over the seeds
    shortcuts = reproduce_shortcuts(layers=8, width=2, steps=2)
    assert is_whole(shortcuts)
    assert shortcuts.findings[-1].holds and shortcuts.findings[-1].expected == "none = A < B < C"


def test_shortcuts_on_images(colours, tmp_path):
    report = reproduce_shortcuts(data=colours, work=tmp_path / "work", layers=8, width=2, epochs=1)
    assert is_whole(report) and [row["network"] for row in report.numbers["records"]] == [
        *("plain8", "resnet8", "resnet8-B", "resnet8-C")
    ]
    assert {*report.charts} == {"train-error", "test-error"}
    assert report.findings[0].statement == "test error of plain8 and resnet8"


def test_missing_settings_are_named():
    with pytest.raises(AnalysisError, match="Name a folder with work"):
        reproduce_degradation(data="colours")
    with pytest.raises(AnalysisError, match="give steps"):
        reproduce_shortcuts()


def test_a_chart_shows_its_lines():
    chart = Chart(title="One", x_label="x", y_label="y", lines={"line": ([1, 2], [1, 1])}, note="A line. " * 30)
    pixels = np.asarray(plot_chart(chart))
    rows, columns = np.nonzero((pixels == BLUE).all(2))
    assert len(rows) > 500 and columns.max() - columns.min() > 500  # level, across the plot
    assert plot_chart(Chart(**vars(chart) | {"note": ""})).height < plot_chart(chart).height


def test_a_report_shows_verdicts():
    findings = [Finding("one", "1", "2", False), Finding("two", "2", "2", True), Finding("three", "", "3", None)]
    report = Report(
        **{"claim": "c", "source": "paper", "settings": {"seed": 1}, "findings": findings, "numbers": {}},
        **{"charts": {}, "hardware": "1 thread", "seconds": 61.0, "date": "2026-01-31"},
    )
    lines = report.to_text().splitlines()
    assert lines[1].endswith("does not hold") and lines[2].endswith("2         holds") and lines[3].endswith("3")
    assert "seed 1; 61 seconds on 1 thread, 2026-01-31" in lines
