"""Charts of a training and of its result, as HTML: in the visitor's language, in the colours of the theme."""

import math
from collections.abc import Sequence
from typing import Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.training.events import Epoch

MAX_CLASSES = 20  # of a confusion matrix; with more, the cells would be too small
WIDTH, HEIGHT = 420, 200  # of a chart, in the units of its drawing
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 36  # its margins
_TICKS = 5  # labels of an axis, at most about
_LOSSES, _ACCURACY = {"training": "train_loss", "validation": "validation_loss"}, {"validation": "accuracy"}


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
    values = [value for epoch in history for value in (epoch.train_loss, epoch.validation_loss) if value is not None]
    top = max(filter(math.isfinite, values), default=1)
    step = _choose_step(top)
    loss = _draw("loss_chart", history, _LOSSES, [step * tick for tick in range(math.ceil(top / step) + 1)])
    accuracy = _draw("accuracy_axis", history, _ACCURACY, [0, 0.25, 0.5, 0.75, 1])
    for tick in accuracy["y_ticks"]:
        tick["label"] = f"{tick['value']:.0%}"
    return markup.render("curves.html", request, charts=[loss, accuracy], rows=[])


def _draw(title: str, history: Sequence[Epoch], series: dict[str, str], y_ticks: list[float]) -> dict[str, Any]:
    """A chart for the template: its lines and ticks in the units of the drawing."""
    first, last, y_max = history[0].epoch, max(history[-1].epoch, history[0].epoch + 1), y_ticks[-1]

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / y_max, 1)

    lines = []
    for name, field in series.items():
        values = [(epoch.epoch, getattr(epoch, field)) for epoch in history if _is_drawn(getattr(epoch, field))]
        lines.append({"name": name, "points": [(x(epoch), y(value)) for epoch, value in values]})
    step = max(1, math.ceil((last - first) / _TICKS))
    return {
        "title": title,
        "lines": lines,
        "x_ticks": [{"at": x(epoch), "label": epoch} for epoch in range(first, last + 1, step)],
        "y_ticks": [{"at": y(value), "value": value, "label": f"{value:g}"} for value in y_ticks],
        "box": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM},
    }


def _is_drawn(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _choose_step(top: float) -> float:
    """The distance of the labels up to `top`: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(top, 1e-6) / _TICKS))
    step = next(factor for factor in (1, 2, 5, 10) if factor * power * _TICKS >= top) * power
    return float(f"{step:.12g}")


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
