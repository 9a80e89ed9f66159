"""Plots for the model card and the page, drawn by matplotlib without pyplot. Imports no torch."""

import io
import math
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from resnet_hub.evaluation.metrics import Evaluation

LABELED_CLASSES = 50  # with more classes, labels would be too small to read
NUMBERED_CLASSES = 20  # with more classes, the shares in the cells would be too small

INK, GRAY, FAINT = "#1f2937", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE = "#1d4ed8", "#d95f02"  # color-blind readers can distinguish them
DPI = 200
SMALL, LARGE, _HAIRLINE = 8, 10, 0.36  # points; a hairline is one pixel
_LABEL_LETTERS = 22  # longer labels are cut
# matplotlib takes each letter from the first font that has it: its default font, then these fonts of Linux, macOS and
# Windows, which cover Chinese, Japanese and Korean.
_DEFAULT_FONT = "DejaVu Sans"
_CJK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans SC", "WenQuanYi Zen Hei", "PingFang HK", "Hiragino Sans GB"),
    *("Apple SD Gothic Neo", "Microsoft YaHei", "Malgun Gothic", "Yu Gothic", "Arial Unicode MS"),
)
matplotlib_lock = threading.Lock()  # matplotlib is not thread-safe


def plot_confusion_matrix(evaluation: "Evaluation") -> Image.Image:
    """Plots a confusion matrix: rows are true classes, columns predicted ones. A darker cell is a larger share.

    Correct predictions, on the diagonal, are blue, wrong ones orange. Up to `LABELED_CLASSES` classes are labeled; a
    label with letters that no font has is replaced by the number of its class.
    """
    from matplotlib.figure import Figure

    classes = len(evaluation.classes)
    is_labeled, is_numbered = classes <= LABELED_CLASSES, classes <= NUMBERED_CLASSES
    cell = 0.52 if classes <= 10 else 0.36 if is_numbered else 0.18 if is_labeled else 8 / classes  # inches
    if is_labeled:
        cell = math.ceil(max(cell, 2.6 / classes) * DPI) / DPI  # whole pixels, so that all cells are of one size
    side = cell * classes
    shares = evaluation.confusion / evaluation.confusion.sum(1, keepdims=True).clip(1)
    title = f"{evaluation.accuracy:.1%} of {evaluation.num_images:,} images correct"
    title += f" ({evaluation.split})" if evaluation.split else ""
    with matplotlib_lock:
        figure = Figure(figsize=(side, side), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[])
        axes.imshow(_color_shares(shares))
        axes.set_title(title, loc="left", **make_style(LARGE, INK))
        axes.set_ylabel("true", **make_style(LARGE, GRAY))
        legend = "blue: correct, orange: wrong; a darker cell is a larger share of its row"
        axes.set_xlabel(f"predicted\n{legend}", **make_style(SMALL, GRAY))
        axes.spines[:].set(color=FAINT, linewidth=_HAIRLINE)
        axes.tick_params(length=0)
        if is_labeled:
            labels = [_make_drawable(label, index) for index, label in enumerate(evaluation.labels)]
            style = make_style(SMALL, INK) | {"family": _load_fonts()[0]}
            axes.set_yticks(range(classes), labels, **style)
            is_wide = max(map(len, labels)) > 4 or classes > 10
            axes.set_xticks(range(classes), labels, rotation=90 if is_wide else 0, **style)
            edges = np.arange(1, classes) - 0.5
            axes.hlines(edges, -0.5, classes - 0.5, "white", linewidth=_HAIRLINE)
            axes.vlines(edges, -0.5, classes - 0.5, "white", linewidth=_HAIRLINE)
        if is_numbered:
            for (row, column), share in np.ndenumerate(shares):
                if share:
                    number = "<1" if share < 0.01 else ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"
                    style = make_style(SMALL, "white" if share > 0.36 else INK)
                    axes.text(column, row, number, ha="center", va="center", **style)
        return render(figure, bbox_inches="tight", pad_inches=0.12)


def plot_training_curves(history: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Plots loss and accuracy over the epochs; a ring marks the epoch whose weights are saved.

    Args:
        history: A mapping for each epoch with `epoch`, `train_loss`, `validation_loss`, `accuracy` and `best`, as
            `Epoch._asdict` returns it. Values that are None or not finite are left out.
    """
    from matplotlib.figure import Figure

    best_epoch = next((epoch["epoch"] for epoch in reversed(history) if epoch["best"]), None)
    with matplotlib_lock:
        figure = Figure(figsize=(4.4, 5), dpi=DPI)
        # One below the other: side by side they cannot be read on a phone.
        loss = figure.add_axes((60 / 440, 298 / 500, 360 / 440, 150 / 500))
        _plot_curves(loss, "Loss", history, {"train_loss": "training", "validation_loss": "validation"}, best_epoch)
        accuracy = figure.add_axes((60 / 440, 48 / 500, 360 / 440, 150 / 500))
        _plot_curves(accuracy, "Accuracy", history, {"accuracy": "validation"}, best_epoch)
        return render(figure)


def _plot_curves(
    axes: "Axes", title: str, history: Sequence[Mapping[str, Any]], names: Mapping[str, str], best_epoch: int | None
) -> None:
    """Plots fields of the history under their names; the last one has the ring and the value of the best epoch."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(title, loc="left", pad=13, **make_style(LARGE, INK))
    axes.spines[:].set_color(FAINT)
    axes.tick_params(labelsize=SMALL, labelcolor=GRAY, length=0)
    points: dict[int, float] = {}
    line: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.5, "clip_on": False}
    for field, name in names.items():
        values = {row["epoch"]: row[field] for row in history if row[field] is not None}
        points = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        if points:
            line |= {"color": _BLUE if name == "training" else _ORANGE, "markevery": [-1] if len(points) > 30 else None}
            axes.plot(list(points), list(points.values()), label=name, **line)
    if not axes.lines:
        axes.set(xticks=[], yticks=[])
        style: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes} | make_style(SMALL, GRAY)
        axes.text(0.5, 0.5, "not measured yet", **style)
        return
    first, last = history[0]["epoch"], history[-1]["epoch"]
    axes.set_xlim(first, max(last, first + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=FAINT)
    axes.spines[["top", "left", "right"]].set_visible(False)
    is_accuracy = "accuracy" in names
    if is_accuracy:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("epoch", **make_style(SMALL, GRAY))
    legend: dict[str, Any] = {"frameon": False, "handlelength": 0, "handletextpad": 0.6, "labelcolor": "linecolor"}
    axes.legend(loc="upper right", bbox_to_anchor=(1.02, -0.12), ncols=2, fontsize=SMALL, **legend)
    if best_epoch in points:
        axes.plot(best_epoch, points[best_epoch], **line | {"markersize": 9, "markevery": None, "fillstyle": "none"})
        text = (
            f"{points[best_epoch]:.1%} at epoch {best_epoch}"
            if is_accuracy
            else f"{points[best_epoch]:.3g} at epoch {best_epoch}"
        )
        axes.set_title(text, loc="right", pad=13, **make_style(SMALL, GRAY))


def _color_shares(shares: np.ndarray) -> np.ndarray:
    """Maps shares to colors (classes, classes, 3), uint8, by the square root of the share."""
    from matplotlib.colors import to_rgb

    ink = np.where(np.eye(len(shares), dtype=bool)[..., None], to_rgb(_BLUE), to_rgb(_ORANGE))
    return np.asarray(255 * (1 + np.sqrt(shares)[..., None] * (ink - 1))).round().astype(np.uint8)


def make_style(size: int, color: str) -> dict[str, Any]:
    return {"fontsize": size, "color": color, "parse_math": False}


def render(figure: "Figure", **options: Any) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", pil_kwargs={"compress_level": 0}, **options)  # it is read at once
    return Image.open(file).convert("RGB")


@cache
def _load_fonts() -> tuple[list[str], frozenset[int]]:
    """Returns the families of the fonts for labels, and the code points of all letters that these have."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [_DEFAULT_FONT, *(name for name in _CJK_FONTS if name in installed)]
    letters: set[int] = set()
    for family in families:
        letters.update(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    return families, frozenset(letters)


def _make_drawable(label: str, index: int) -> str:
    """Returns the label on one line, cut if it is long, or the number of its class if no font has its letters."""
    label = " ".join(label.split())
    if not {ord(letter) for letter in label} <= _load_fonts()[1]:
        return f"class {index}"
    return label if len(label) <= _LABEL_LETTERS else f"{label[: _LABEL_LETTERS - 1].rstrip()}…"
