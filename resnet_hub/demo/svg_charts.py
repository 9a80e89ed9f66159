"""Charts as SVG and HTML: in the visitor's language, in the colors of the theme, as wide as a phone."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gradio as gr
from markupsafe import Markup

from resnet_hub.analysis.experiment_report import Chart
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.training.events import Epoch

MAX_CLASSES = 50  # of a confusion matrix, which scrolls
WIDTH, HEIGHT = 300, 200  # of a chart, in the units of its drawing, about the pixels of a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 20, 38  # its margins
_TICKS = 5  # labels of an axis, at most about
_FEW_POWERS = 2.0  # of ten, on a logarithmic axis
_MAX_POINTS = 40  # with more values a line has no dots
_STYLES = 7  # colors and dashes in page.css
Points = tuple[Sequence[float], Sequence[float]]  # x and y values


def make_chart(
    request: gr.Request,
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Points],
    note: str = "",
    *,
    values: Mapping[str, object] = MappingProxyType({}),
    **more: Any,
) -> Chart:
    """A chart whose texts are messages, by their keys ("" for none).

    `values` are filled into the messages, `more` are other fields of the chart.
    """
    keys = {"title": title, "x_label": x_label, "y_label": y_label, "note": note}
    texts: dict[str, Any] = {name: translate(request, key, **values) if key else "" for name, key in keys.items()}
    return Chart(**texts, lines=lines, **more)


def render_chart(
    chart: Chart,
    request: gr.Request,
    *,
    y_range: tuple[float, ...] = (),
    percent: bool = False,
    is_played: bool = False,
    marked: tuple[float, str] | None = None,
) -> str:
    """Render a chart; empty if it has no finite value.

    Args:
        chart: Its lines. One without values only reserves its style.
        request: The visitor's request.
        y_range: Values that the y axis has, whatever the lines have.
        percent: Whether the y axis shows percentages.
        is_played: Whether a script draws it up to a value of x; see `inside.js`.
        marked: A value of x that a vertical line marks, and what it is.
    """
    transform = math.log10 if chart.log_y else float
    lines: list[dict[str, Any]] = []
    for index, (name, (xs, ys)) in enumerate(chart.lines.items()):
        pairs = zip(xs, ys, strict=True)
        values = [(float(x), transform(y), y) for x, y in pairs if math.isfinite(y) and (y > 0 or not chart.log_y)]
        lines.append({"name": name, "style": index % _STYLES, "values": values})
    lines = [line for line in lines if line["values"]]
    if not lines:
        return ""
    all_x: list[float] = [x for line in lines for x, _, _ in line["values"]]
    bands = [transform(y) for band in chart.bands.values() for edge in band for y in edge if y > 0 or not chart.log_y]
    all_y: list[float] = [*y_range, *(y for line in lines for _, y, _ in line["values"]), *bands]
    x_low, x_high, y_ticks = min(all_x), max(all_x), (choose_log_ticks if chart.log_y else choose_ticks)(all_y)
    y_low, y_high = min(y_ticks[0], *all_y), max(y_ticks[-1], *all_y)

    def scale_x(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / ((x_high - x_low) or 1), 1)

    def scale_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / ((y_high - y_low) or 1), 1)

    show = "{:.1%}" if percent else "{:.3g}"
    for line in lines:
        line["x"] = [f"{x:g}" for x, _, _ in line["values"]]
        line["y"] = [show.format(shown) for _, _, shown in line["values"]]
        titles = [f"{x}: {y}" for x, y in zip(line["x"], line["y"], strict=True)]
        line["points"] = [
            (scale_x(x), scale_y(y), title) for (x, y, _), title in zip(line["values"], titles, strict=True)
        ]
        line["has_dots"] = len(line["points"]) <= _MAX_POINTS
        xs, edges = chart.lines[line["name"]][0], chart.bands.get(line["name"], ())
        line["band"] = [
            [
                (scale_x(x), scale_y(transform(y) if y > 0 or not chart.log_y else y_low))
                for x, y in zip(xs, edge, strict=True)
            ]
            for edge in edges
        ]
    box = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    show_y = "{:.0%}" if percent else "{:.3g}" if chart.log_y else "{:g}"
    is_whole = all(x.is_integer() for x in all_x)  # such as epochs: half of one means nothing
    x_ticks = [x for x in choose_ticks(all_x) if x_low <= x <= x_high and (x.is_integer() or not is_whole)]
    return markup.render(
        "line_chart.html",
        request,
        chart=chart,
        lines=lines,
        is_played=is_played,
        marked=(scale_x(marked[0]), marked[1]) if marked else None,
        x_ticks=[(scale_x(x), f"{x:g}") for x in x_ticks],
        y_ticks=[(scale_y(y), show_y.format(10**y if chart.log_y else y)) for y in y_ticks],
        box=box | {"width": WIDTH, "height": HEIGHT},
    )


def choose_ticks(values: Sequence[float]) -> list[float]:
    """Choose round numbers from the lowest value, or just below it, to the highest, or just above it."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * _TICKS >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * index:.12g}") for index in range(first, last + 1)]


def choose_log_ticks(logarithms: Sequence[float]) -> list[float]:
    """Choose logarithms of round numbers: of 1, 2 and 5 in each power of ten if there are few powers."""
    low, high = min(logarithms), max(logarithms)
    if high - low > _FEW_POWERS:
        return choose_ticks(logarithms)
    rounds = [power + math.log10(digit) for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
    first = max((index for index, tick in enumerate(rounds) if tick <= low + 1e-9), default=0)
    last = min((index for index, tick in enumerate(rounds) if tick >= high - 1e-9), default=len(rounds) - 1)
    return rounds[first : last + 1]


def find_kept_epoch(history: Sequence[Epoch]) -> int | None:
    """The epoch of the model that is kept, by the run's own choice; None before the first evaluation."""
    return max((epoch.epoch for epoch in history if epoch.best), default=None)


def render_curves(history: Sequence[Epoch], request: gr.Request) -> str:
    """Loss and accuracy over the epochs; a table as long as a chart would show one point."""
    measured = [epoch for epoch in history if epoch.accuracy is not None]
    if not measured:
        return ""
    if len(measured) < 2:
        epoch = measured[0]
        losses = ["–" if value is None else f"{value:.2f}" for value in (epoch.train_loss, epoch.validation_loss)]
        keys = ("epoch_axis", "training_loss", "validation_loss", "accuracy_axis")
        columns, rows = [translate(request, key) for key in keys], [[epoch.epoch, *losses, f"{epoch.accuracy:.0%}"]]
        return markup.render("curves.html", request, columns=columns, rows=rows, charts=[])

    def make_curves(title: str, training: str, validation: str) -> Chart:
        lines = {}
        for name, attribute in (("training", training), ("validation", validation)):
            points = [(epoch.epoch, getattr(epoch, attribute)) for epoch in history] if attribute else []
            measured = [(x, y) for x, y in points if y is not None]
            lines[translate(request, name)] = ([x for x, _ in measured], [y for _, y in measured])
        return make_chart(request, title, "epoch_axis", "", lines)

    kept = find_kept_epoch(history)
    marked = None if kept is None else (kept, translate(request, "marked_epoch", epoch=kept))
    loss = make_curves("loss_chart", "train_loss", "validation_loss")
    accuracy = make_curves("accuracy_axis", "", "accuracy")
    charts = [
        render_chart(loss, request, y_range=(0,), marked=marked),
        render_chart(accuracy, request, y_range=(0, 1), percent=True, marked=marked),
    ]
    return markup.render("curves.html", request, charts=[Markup(chart) for chart in charts], rows=[])


def render_confusion(evaluation: dict[str, Any], request: gr.Request) -> str:
    """The confusion matrix with counts and, of each row, percentages; empty if there are too many classes."""
    confusion, labels = evaluation["confusion"], [row["label"] for row in evaluation["classes"]]
    if len(labels) > MAX_CLASSES:
        return ""
    rows = []
    for index, (label, counts) in enumerate(zip(labels, confusion, strict=True)):
        shares = [count / max(1, sum(counts)) for count in counts]
        cells = [
            {"count": count, "share": f"{share:.0%}", "weight": round(100 * math.sqrt(share)), "right": index == column}
            for column, (count, share) in enumerate(zip(counts, shares, strict=True))
        ]
        rows.append({"label": label, "cells": cells})
    return markup.render("confusion.html", request, labels=labels, rows=rows)
