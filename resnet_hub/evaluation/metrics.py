"""The figures of an evaluation: accuracy, F1, calibration, confusion, and the surest mistakes."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet_hub.errors import list_some
from resnet_hub.images.load import load_image, printable

if TYPE_CHECKING:
    from PIL import Image


CALIBRATION_BINS = 15  # of equal width, as in the paper below
_TABLE_CLASSES = 50  # in the table for the terminal; of more, the weakest
_TABLE_LABEL = 32  # columns
_NAMED = 3  # mistakes that the text shows


class ClassScore(NamedTuple):
    """One class against all others; a figure whose denominator is zero is 0, as in scikit-learn.

    So are all of a class without pictures, whose `support` is 0: they say nothing of the model.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # pictures of this class


@dataclass(frozen=True)
class Mistake:
    """A picture that got another label than its own, with the score of that label."""

    index: int  # in the data set
    name: str
    label: str
    predicted: str
    score: float
    source: Any = field(repr=False, compare=False)  # what `load_image` takes

    def image(self) -> "Image.Image":
        return load_image(self.source, name=self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The figures of a model on a data set; fractions are in 0..1."""

    split: str | None  # of the data set; None where the pictures were given as they are
    tta: bool  # whether each picture's mirror image was asked too
    num_images: int
    skipped: int  # pictures that could not be read, in none of the figures
    accuracy: float
    top5: float  # the true label is among the five likeliest; of equal scores the lower index is likelier
    macro_f1: float  # mean over the classes that occur among the labels or the predictions
    loss: float  # mean cross-entropy, in nats
    calibration_error: float  # expected calibration error over 15 bins (https://arxiv.org/abs/1706.04599, section 2)
    classes: tuple[ClassScore, ...]  # in the model's order
    confusion: np.ndarray  # int64 (classes, classes): rows are true, columns predicted
    worst: tuple[Mistake, ...]  # the surest first

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(score.label for score in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON has it."""
        plain = ("split", "tta", "num_images", "skipped", "accuracy", "top5", "macro_f1", "loss", "calibration_error")
        mistakes = ("index", "name", "label", "predicted", "score")
        return {
            **{key: getattr(self, key) for key in plain},
            "classes": [score._asdict() for score in self.classes],
            "confusion": self.confusion.tolist(),
            "worst": [{key: getattr(mistake, key) for key in mistakes} for mistake in self.worst],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """A table for the terminal; of many classes, the weakest."""
        pictures = f"{self.num_images:,} pictures" + (f" of the split {self.split}" if self.split else "")
        skipped = f", {self.skipped:,} unreadable ones skipped" if self.skipped else ""
        lines = [f"{pictures}{skipped}" + (", each with its mirror image" if self.tta else ""), ""]
        lines.append(f"{'accuracy':<20}{self.accuracy:>8.2%}")
        if len(self.classes) > 5:
            lines.append(f"{'top-5 accuracy':<20}{self.top5:>8.2%}")
        lines.append(f"{'macro F1':<20}{self.macro_f1:>8.2%}")
        lines.append(f"{'loss':<20}{self.loss:>8.4f}")
        lines.append(f"{'calibration error':<20}{self.calibration_error:>8.2%}")

        asked = [score for score in self.classes if score.support]
        rows = sorted(asked, key=lambda score: score.f1) if len(asked) > _TABLE_CLASSES else asked
        rows = rows[:_TABLE_CLASSES]
        wide = max(_width("class"), *(min(_width(score.label), _TABLE_LABEL) for score in rows))
        lines += ["", f"{_cell('class', wide)}  precision  recall      F1  pictures"]
        for score in rows:
            figures = f"{score.precision:>9.1%}  {score.recall:>6.1%}  {score.f1:>6.1%}  {score.support:>8,}"
            lines.append(f"{_cell(score.label, wide)}  {figures}")
        if rest := len(asked) - len(rows):
            lines.append(f"... and {rest:,} classes with a higher F1")
        if absent := [printable(score.label) for score in self.classes if not score.support]:
            taken = int(self.confusion.sum(0)[[not score.support for score in self.classes]].sum())
            lines.append(f"no pictures of {list_some(absent)}; {taken:,} were taken for such")

        if self.worst:
            lines += ["", "surest mistakes"]
            for mistake in self.worst[:_NAMED]:
                name = printable(mistake.name)
                lines.append(f"  {name}: {mistake.label}, taken for {mistake.predicted} ({mistake.score:.1%})")
        return "\n".join(lines) + "\n"


def _rank(logs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one in the order that `Classifier` gives, (N,)."""
    true = logs[np.arange(len(targets)), targets][:, None]
    before = (logs == true) & (np.arange(logs.shape[1]) < targets[:, None])
    return ((logs > true) | before).sum(1)


def _confusion(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _class_scores(names: Sequence[str], confusion: np.ndarray) -> tuple[ClassScore, ...]:
    right, support, asked = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = right / asked.clip(1), right / support.clip(1)
    f1 = 2 * right / (support + asked).clip(1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    return tuple(ClassScore(*row) for row in zip(names, *columns, strict=True))


def _calibration_error(score: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between score and accuracy over bins (low, high] of the score, each weighing as its pictures."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    gaps = np.bincount(np.searchsorted(edges[1:-1], score), weights=score - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(score))


def _width(text: str) -> int:
    """Columns of a terminal: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cell(text: str, width: int) -> str:
    """The text in `width` columns, cut or filled."""
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _width(text))
