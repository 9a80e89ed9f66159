"""The experiments of the papers in sizes of a second, their reports and plots."""

import numpy as np
from helpers.reports import is_whole

from resnet_hub.analysis.claims import reproduce_identity, reproduce_shattered_gradients
from resnet_hub.analysis.experiment_report import Chart, Finding, Report, plot_chart

BLUE = (0, 114, 178)


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


def test_a_chart_shows_its_lines():
    settings = {"title": "One", "x_label": "x", "y_label": "y"}
    chart = Chart(
        **settings, lines={"line": ([1, 2], [1, 1])}, bands={"line": ([1, 0.9], [1, 1.1])}, note="A line. " * 30
    )
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
    findings.append(Finding("four", "1", "2", False, "the reverse"))
    assert report.to_text().splitlines()[4].endswith("does not hold, the reverse")
    lines = report.to_text().splitlines()
    assert lines[1].endswith("does not hold") and lines[2].endswith("2         holds") and lines[3].endswith("3")
    assert "seed 1; 61 seconds on 1 thread, 2026-01-31" in lines
