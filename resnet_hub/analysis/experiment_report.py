"""The results of an experiment, for the terminal, for programs and as plots. Imports no torch."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from resnet_hub.evaluation.plots import DPI, FAINT, GRAY, INK, LARGE, SMALL, make_style, matplotlib_lock, render

# Okabe and Ito's colors, which color-blind readers tell apart; line styles repeat the distinction.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#1f2937", "#56b4e9", "#e69f00")
_TITLE_LETTERS, _NOTE_LETTERS = 52, 84  # of a line
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one axis: what a plot shows, as numbers."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> x and y values
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)  # name -> low, high
    note: str = ""  # a sentence under the plot: what to see in it
    log_x: bool = False
    log_y: bool = False

    def to_dict(self) -> dict[str, Any]:
        lines, bands = (
            {name: [list(map(float, values)) for values in pair] for name, pair in pairs.items()}
            for pairs in (self.lines, self.bands)
        )
        return vars(self) | {"lines": lines, "bands": bands}


def plot_chart(chart: Chart) -> Image.Image:
    """Plot the lines of a chart, with a legend under it."""
    from matplotlib.figure import Figure

    with matplotlib_lock:
        figure = Figure(figsize=(4.8, 3.4), dpi=DPI)
        axes = figure.add_subplot()
        axes.set_title(textwrap.fill(chart.title, _TITLE_LETTERS), loc="left", **make_style(LARGE, INK))
        for index, (name, (x, y)) in enumerate(chart.lines.items()):
            color, style = _COLORS[index % len(_COLORS)], _STYLES[index % len(_STYLES)]
            marker = "o" if len(x) <= 30 else None
            axes.plot(x, y, label=name, color=color, linestyle=style, marker=marker, markersize=3, linewidth=1.3)
            if name in chart.bands:
                axes.fill_between(x, *chart.bands[name], color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log" if chart.log_x else "linear")
        axes.set_yscale("log" if chart.log_y else "linear")
        axes.set_xlabel(chart.x_label, **make_style(SMALL, GRAY))
        axes.set_ylabel(chart.y_label, **make_style(SMALL, GRAY))
        axes.tick_params(which="both", labelsize=SMALL, labelcolor=GRAY, length=0)
        axes.grid(axis="y", color=FAINT)
        axes.spines[:].set_color(FAINT)
        axes.spines[["top", "left", "right"]].set_visible(False)
        legend: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.2), "frameon": False, "ncols": 2}
        axes.legend(fontsize=SMALL, labelcolor=INK, **legend)
        if chart.note:
            top = -0.1 - 0.06 * math.ceil(len(chart.lines) / 2)  # under the legend, of two columns
            note = textwrap.fill(chart.note, _NOTE_LETTERS)
            figure.text(0.06, top, note, va="top", **make_style(SMALL, GRAY))
        return render(figure, bbox_inches="tight", pad_inches=0.12)


class Finding(NamedTuple):
    """A statement of a paper, beside what was measured."""

    statement: str
    expected: str
    measured: str
    holds: bool | None  # None: for information, nothing is claimed
    remark: str = ""  # beside the verdict


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an experiment, with what is needed to repeat it."""

    claim: str
    source: str  # the papers
    settings: Mapping[str, Any]
    findings: Sequence[Finding]
    numbers: Mapping[str, Any]  # everything measured, as types that JSON has
    charts: Mapping[str, Chart]  # by the name of the file
    hardware: str
    seconds: float
    date: str  # 2026-01-31

    def to_json(self) -> str:
        content = vars(self) | {
            "findings": [finding._asdict() for finding in self.findings],
            "charts": {name: chart.to_dict() for name, chart in self.charts.items()},
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Format the findings as a table for the terminal."""
        rows = [("", "expected", "measured", "")]
        for finding in self.findings:
            verdict = {True: "holds", False: "does not hold", None: ""}[finding.holds]
            verdict = ", ".join(filter(None, (verdict, finding.remark)))
            rows.append((finding.statement, finding.expected, finding.measured, verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
        shown = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in self.settings.items()}
        settings = ", ".join(f"{name} {value}" for name, value in shown.items() if value not in ("", None))
        lines += ["", f"{settings}; {self.seconds:.0f} seconds on {self.hardware}, {self.date}", self.source]
        return "\n".join(lines) + "\n"
