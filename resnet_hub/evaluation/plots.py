"""Plots for the model card and the page. Imports no torch."""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from resnet_hub.evaluation.metrics import Evaluation


LABELLED_CLASSES = 50  # with more, labels would be too small to read
NUMBERED_CLASSES = 20  # with more, so would be the shares in the cells

_SCALE = 2  # pixels a unit below, for screens with fine pixels
_INK, _GREY, _FAINT, _PAPER = (31, 41, 55), (107, 114, 128), (229, 231, 235), (255, 255, 255)
_BLUE, _ORANGE = (29, 78, 216), (217, 95, 2)  # told apart by colour-blind readers
_MARGIN, _GAP = 24, 8
_LABEL_WIDTH = 150  # longer labels are cut
_LARGEST = 2000  # pixels of the matrix; that of more classes is shrunk
# The font that Pillow carries knows Latin letters only; these are what systems have for the others.
_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "PingFang.ttc", "msyh.ttc", "DejaVuSans.ttf")


class EpochFigures(Protocol):
    """What the curves show of an epoch; see `training.events.Epoch`."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float | None: ...
    @property
    def validation_loss(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def best(self) -> bool: ...


_Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def plot_confusion_matrix(evaluation: "Evaluation") -> Image.Image:
    """Rows are the true classes, columns the predicted: the darker a cell, the larger its share of the row.

    What is right, on the diagonal, is blue, what is wrong orange. Up to 50 classes have their labels.
    """
    classes = len(evaluation.classes)
    labelled, numbered = classes <= LABELLED_CLASSES, classes <= NUMBERED_CLASSES
    cell = (52 if classes <= 10 else 36 if numbered else 18 if labelled else max(1, 800 // classes)) * _SCALE
    side = min(cell * classes, _LARGEST)
    shares = evaluation.confusion / evaluation.confusion.sum(1, keepdims=True).clip(1)

    font, small = 13 * _SCALE, 11 * _SCALE
    labels = evaluation.labels if labelled else ()
    names = [_cut(_drawable(label, index, small), small, _LABEL_WIDTH * _SCALE) for index, label in enumerate(labels)]
    wide = max((_length(name, small) for name in names), default=0)
    upright = wide > cell - 4 * _SCALE
    below = wide if upright else small
    title = f"{evaluation.accuracy:.1%} of {evaluation.num_images:,} pictures right"
    title += f" ({evaluation.split})" if evaluation.split else ""

    # from the left: "true", labels, matrix; from the top: title, matrix, labels, "predicted", legend
    edge, gap = _MARGIN * _SCALE, _GAP * _SCALE
    left, top = edge + font + gap + wide + gap, edge + font + 2 * gap
    bottom = top + side + gap + (below + gap if labelled else 0)
    width = max(left + side, edge + _length(title, font), left + 260 * _SCALE) + edge
    picture = Image.new("RGB", (width, bottom + font + 2 * gap + small + edge), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((edge, edge), title, _INK, _font(font), anchor="lt")
    heat = Image.fromarray(_heat(shares)).resize((side, side), Image.Resampling.BOX)
    picture.paste(heat, (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_FAINT, width=1)

    if labelled:
        for index, name in enumerate(names):
            middle = index * cell + cell // 2
            draw.text((left - gap, top + middle), name, _INK, _font(small, name), anchor="rm")
            if upright:
                _upright(picture, name, small, (left + middle, top + side + gap))
            else:
                draw.text((left + middle, top + side + gap), name, _INK, _font(small, name), anchor="mt")
        for place in range(cell, side, cell):
            draw.line((left, top + place, left + side, top + place), _PAPER)
            draw.line((left + place, top, left + place, top + side), _PAPER)
    if numbered:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                at = (left + column * cell + cell // 2, top + row * cell + cell // 2)
                colour = _PAPER if share > 0.36 else _INK
                text = "<1" if share < 0.01 else ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"
                draw.text(at, text, colour, _font(small), anchor="mm")

    _upright(picture, "true", font, (edge + font // 2, top + side // 2), colour=_GREY, centred=True)
    draw.text((left + side // 2, bottom), "predicted", _GREY, _font(font), anchor="mt")
    _legend(draw, (left, bottom + font + 2 * gap), small)
    return picture


def _heat(shares: np.ndarray) -> np.ndarray:
    """Colours (classes, classes, 3), uint8, as deep as the root of the share: a few per cent can be seen."""
    ink = np.where(np.eye(len(shares), dtype=bool)[..., None], _BLUE, _ORANGE)
    return (255 + np.sqrt(shares)[..., None] * (ink - 255)).round().astype(np.uint8)


def _legend(draw: ImageDraw.ImageDraw, at: tuple[int, int], size: int) -> None:
    """The colours of some shares, and what they are shares of."""
    x, y = at
    for share in (0.01, 0.1, 0.5, 1.0):
        for ink in (_BLUE, _ORANGE):
            colour = tuple(round(255 + math.sqrt(share) * (value - 255)) for value in ink)
            draw.rectangle((x, y, x + size - 1, y + size - 1), fill=colour)
            x += size
        text = f"{share:.0%}"
        draw.text((x + size // 3, y + size // 2), text, _GREY, _font(size), anchor="lm")
        x += _length(text, size) + size
    draw.text((x, y + size // 2), "of the row", _GREY, _font(size), anchor="lm")


def _upright(
    picture: Image.Image,
    text: str,
    size: int,
    at: tuple[int, int],
    *,
    colour: _Colour = _INK,
    centred: bool = False,
) -> None:
    """Text that reads from below to above; its top, or its middle, is at `at`."""
    width, height = _length(text, size) + 2, round(size * 1.4)
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((width - 1, height // 2), text, 255, _font(size, text), anchor="rm")
    mask = mask.transpose(Image.Transpose.ROTATE_90)
    x, y = at
    picture.paste(colour, (x - height // 2, y - width // 2 if centred else y), mask)


class _Curve(NamedTuple):
    name: str
    colour: _Colour
    points: list[tuple[float, float]]


def plot_training_curves(history: Sequence[EpochFigures]) -> Image.Image:
    """Loss and accuracy over the epochs; a ring marks the epoch whose weights were kept."""
    train = _Curve("training", _BLUE, _points(history, "train_loss"))
    validation = _Curve("validation", _ORANGE, _points(history, "validation_loss"))
    accuracy = _Curve("validation", _ORANGE, _points(history, "accuracy"))
    kept = next((epoch.epoch for epoch in reversed(history) if epoch.best), None)
    epochs = [float(epoch.epoch) for epoch in history]
    panels = (
        _panel("Loss", epochs, [train, validation], kept, percent=False),
        _panel("Accuracy", epochs, [accuracy], kept, percent=True),
    )
    # One below the other: side by side they cannot be read on a phone.
    picture = Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), _PAPER)
    picture.paste(panels[0], (0, 0))
    picture.paste(panels[1], (0, panels[0].height))
    return picture


def _points(history: Sequence[EpochFigures], field: str) -> list[tuple[float, float]]:
    """Epoch and value, where there is one."""
    found = ((epoch.epoch, getattr(epoch, field)) for epoch in history)
    return [(float(epoch), float(value)) for epoch, value in found if value is not None and math.isfinite(value)]


def _panel(
    title: str, epochs: Sequence[float], curves: Sequence[_Curve], kept: int | None, *, percent: bool
) -> Image.Image:
    """One diagram; drawn at twice its size, since Pillow draws lines without smooth edges."""
    unit = 2 * _SCALE
    width, height, size = 440 * unit, 250 * unit, 11 * unit
    left, right, top, bottom = 60 * unit, width - 20 * unit, 52 * unit, height - 48 * unit
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((left, 18 * unit), title, _INK, _font(14 * unit), anchor="lt")

    values = [y for curve in curves for _, y in curve.points]
    if not values:
        draw.rectangle((left, top, right, bottom), outline=_FAINT, width=unit)
        draw.text(((left + right) // 2, (top + bottom) // 2), "nothing measured yet", _GREY, _font(size), anchor="mm")
        return picture.reduce(2)
    across = _ticks(epochs, smallest=1)
    up = _ticks(values, smallest=0.01 if percent else 0.001, limit=1 if percent else math.inf)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - across[0]) / (across[-1] - across[0]) * (right - left),
            bottom - (y - up[0]) / (up[-1] - up[0]) * (bottom - top),
        )

    for y in up:
        draw.line((*at(across[0], y), *at(across[-1], y)), _FAINT, unit)
        text = f"{y:.0%}" if percent else f"{y:.4g}"
        draw.text((left - 8 * unit, at(across[0], y)[1]), text, _GREY, _font(size), anchor="rm")
    for x in across:
        draw.text((at(x, up[0])[0], bottom + 8 * unit), f"{x:g}", _GREY, _font(size), anchor="mt")
    draw.text(((left + right) // 2, height - 14 * unit), "epoch", _GREY, _font(size), anchor="mb")

    place = right
    for curve in reversed([curve for curve in curves if curve.points]):
        draw.text((place, height - 20 * unit), curve.name, curve.colour, _font(size), anchor="rm")
        place -= _length(curve.name, size) + 16 * unit
        line = [at(*point) for point in curve.points]
        draw.line(line, curve.colour, 2 * unit, joint="curve")
        for x, y in line if len(line) <= 30 else line[-1:]:
            draw.circle((x, y), 3 * unit, curve.colour)
    for x, y in curves[-1].points:
        if x == kept:
            draw.circle(at(x, y), 6 * unit, outline=curves[-1].colour, width=2 * unit)
            text = f"{y:.1%} at epoch {kept}" if percent else f"{y:.3g} at epoch {kept}"
            after = left + _length(title, 14 * unit) + 16 * unit
            draw.text((after, 26 * unit), text, _GREY, _font(size), anchor="lm")
    return picture.reduce(2)


def _ticks(values: Sequence[float], *, smallest: float, limit: float = math.inf) -> list[float]:
    """Round numbers, seven at most, that hold all values: 1, 2 or 5 times a power of ten apart, or `smallest`."""
    low, high = min(values), max(values)
    if high - low < 2 * smallest:
        low = max(0.0, low - 2 * smallest)
        high = min(limit, high + 2 * smallest)
    power = 10 ** math.floor(math.log10((high - low) / 5))
    step = max(smallest, next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 5))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _font(size: int, text: str = "") -> _Font:
    """The font that Pillow carries, or the first of this system's that has all letters of `text`."""
    return next((font for font in _fonts(size) if _has_letters(font, text)), _fonts(size)[0])


@cache
def _fonts(size: int) -> list[_Font]:
    found: list[_Font] = [ImageFont.load_default(size)]
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return found


def _has_letters(font: _Font, text: str) -> bool:
    return all(letter.isspace() or _has_letter(font, letter) for letter in set(text))


@lru_cache(4096)
def _has_letter(font: _Font, letter: str) -> bool:
    drawn, missing = font.getmask(letter), font.getmask("\uffff")  # no letter: what stands for all that the font lacks
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _drawable(label: str, index: int, size: int) -> str:
    """The label, or the number of its class where no font has its letters."""
    return label if any(_has_letters(font, label) for font in _fonts(size)) else f"class {index}"


def _length(text: str, size: int) -> int:
    return math.ceil(_font(size, text).getlength(text))


def _cut(text: str, size: int, width: int) -> str:
    if _length(text, size) <= width:
        return text
    text = text[: width // 2]  # the thinnest letter has two pixels
    while text and _length(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
