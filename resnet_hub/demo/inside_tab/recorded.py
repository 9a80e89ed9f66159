"""The trainings that ship with the package: errors of plain and residual networks by epoch."""

from collections.abc import Sequence

import gradio as gr

from resnet_hub.analysis.plots import Chart
from resnet_hub.analysis.records import TrainingRecord, list_records, summarize
from resnet_hub.demo import markup
from resnet_hub.demo.charts import render_chart
from resnet_hub.demo.i18n import translate

_DEGRADATION = ("plain20", "plain56", "resnet20", "resnet56")
_SHORTCUTS = ("plain20", "resnet20", "resnet20-B", "resnet20-C")


def render_degradation(request: gr.Request) -> str:
    """Render figure 6 of the paper, recorded; without records, the command that makes them."""
    return _render(_DEGRADATION, "inside_no_degradation", request)


def render_shortcuts(request: gr.Request) -> str:
    """Render the networks of 20 layers by their shortcuts; without records, the command that makes them."""
    return _render(_SHORTCUTS, "inside_no_shortcuts", request)


def _render(networks: Sequence[str], missing: str, request: gr.Request) -> str:
    records = {record.network: record for record in reversed(list_records()) if record.is_finished}
    chosen = [records[network] for network in networks if network in records]
    if len(chosen) < 2:
        return markup.render_text(translate(request, missing))
    note = _describe(chosen, request)
    charts = "".join(render_chart(_draw(chosen, split, note, request), request) for split in ("train", "test"))
    return f'<div class="chart-row">{charts}</div>'


def _draw(records: Sequence[TrainingRecord], split: str, note: str, request: gr.Request) -> Chart:
    lines = {}
    for record in records:
        errors = [1 - (epoch.train_accuracy if split == "train" else epoch.test_accuracy) for epoch in record.epochs]
        lines[record.network] = ([epoch.epoch for epoch in record.epochs], errors)
    return Chart(
        title=translate(request, "inside_train_error" if split == "train" else "inside_test_error"),
        x_label=translate(request, "epochs"),
        y_label=translate(request, "inside_error_axis"),
        lines=lines,
        note=note,
    )


def _describe(records: Sequence[TrainingRecord], request: gr.Request) -> str:
    """The mean error of each network over its seeds with their spread, and how the trainings were made."""
    spreads = summarize(list_records())
    errors = []
    for record in records:
        tests = spreads[record.network].test_errors
        mean, half = sum(tests) / len(tests), (max(tests) - min(tests)) / 2
        spread = f" ± {half:.1%}" if len(tests) > 1 else ""
        errors.append(f"{record.network} {mean:.1%}{spread}")
    first = records[0]
    facts = {"data": first.data, "hardware": first.hardware, "command": first.command}
    return translate(request, "inside_recorded_note", errors=", ".join(errors), **facts)
