"""Line charts as SVG: in the colours of the theme, as wide as a phone, with a sentence that says what to see."""

import math
from collections.abc import Sequence
from typing import Any

import gradio as gr

from resnet_hub.analysis.plots import Chart
from resnet_hub.demo import markup

WIDTH, HEIGHT = 300, 200  # in the units of the drawing, about the pixels of a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 20, 38  # margins
_TICKS = 5  # labels of an axis, at most about
_MAX_POINTS = 40  # with more values a line has no dots
_STYLES = 7  # colours and dashes in page.css


def render_chart(chart: Chart, request: gr.Request) -> str:
    """Render a chart; empty if it has no finite value."""
    transform = math.log10 if chart.log_y else float
    lines: list[dict[str, Any]] = []
    for index, (name, (xs, ys)) in enumerate(chart.lines.items()):
        pairs = zip(xs, ys, strict=True)
        values = [(float(x), transform(y), y) for x, y in pairs if math.isfinite(y) and (y > 0 or not chart.log_y)]
        lines.append({"name": name, "style": index % _STYLES, "values": values})
    all_values = [value for line in lines for value in line["values"]]
    if not all_values:
        return ""
    x_ticks = choose_ticks([x for x, _, _ in all_values])
    y_ticks = choose_ticks([y for _, y, _ in all_values])
    x_low, x_high = min(x for x, _, _ in all_values), max(x for x, _, _ in all_values)
    y_low = min(y_ticks[0], *(y for _, y, _ in all_values))
    y_high = max(y_ticks[-1], *(y for _, y, _ in all_values))

    def place_x(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / ((x_high - x_low) or 1), 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / ((y_high - y_low) or 1), 1)

    for line in lines:
        line["points"] = [(place_x(x), place_y(y), f"{x:g}: {shown:.3g}") for x, y, shown in line["values"]]
        line["has_dots"] = len(line["points"]) <= _MAX_POINTS
    labels = [_format_power(y) if chart.log_y else f"{y:g}" for y in y_ticks]
    return markup.render(
        "line_chart.html",
        request,
        chart=chart,
        lines=lines,
        x_ticks=[(place_x(x), f"{x:g}") for x in x_ticks if x_low <= x <= x_high],
        y_ticks=list(zip(map(place_y, y_ticks), labels, strict=True)),
        box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM},
    )


def choose_ticks(values: Sequence[float]) -> list[float]:
    """Choose round numbers from the lowest value, or just below it, to the highest, or just above it."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * _TICKS >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * index:.12g}") for index in range(first, last + 1)]


def _format_power(exponent: float) -> str:
    return f"{10**exponent:.3g}"
