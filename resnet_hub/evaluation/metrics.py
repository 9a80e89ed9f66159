"""The metrics of an evaluation: accuracy, F1, calibration error, confusion matrix, and the most confident mistakes."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet_hub.errors import list_some, printable
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image


_MAX_CLASSES_SHOWN = 50  # of the table for the terminal; with more classes it shows those with the lowest F1
_LABEL_COLUMNS = 32
_MAX_MISTAKES = 3  # that the text shows
MANY_IMAGES = 1000  # from here on an accuracy is exact to three points


class ClassScore(NamedTuple):
    """The metrics of one class against all others. A metric with a denominator of zero is 0, as in scikit-learn.

    Ignore the metrics of a class whose `support` is 0: there are no images to measure them on.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # images of this class


@dataclass(frozen=True)
class Mistake:
    """An image with a wrong prediction, and the score of the predicted label."""

    index: int  # in the dataset
    name: str
    label: str
    predicted: str
    score: float
    source: Any = field(repr=False, compare=False)  # as `load_image` takes it

    def load_image(self) -> "Image.Image":
        return load_image(self.source, name=self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """The metrics of a model on a dataset; fractions are in 0..1."""

    split: str | None  # of the dataset; None if an `ImageDataset` was evaluated
    tta: bool  # whether the scores were averaged with those of the mirror image
    crops: int = 1  # of each image, over which the scores were averaged
    scales: tuple[int, ...] = ()  # lengths of the short side, as well; empty: the model's own
    num_images: int
    skipped: int  # images that could not be read; no metric includes them
    accuracy: float
    top5: float  # how often the true label is among the five of the highest score; ties go to the lower index
    macro_f1: float  # mean over the classes that occur among the labels or the predictions
    loss: float  # mean cross-entropy, in nats
    calibration_error: float  # as `compute_calibration_error` returns it
    classes: tuple[ClassScore, ...]  # in the model's order
    confusion: np.ndarray  # int64 (classes, classes): rows are true classes, columns predicted ones
    worst: tuple[Mistake, ...]  # the most confident first

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(score.label for score in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, without the images, as types that JSON has."""
        scalars = (
            "split",
            "tta",
            "crops",
            "num_images",
            "skipped",
            "accuracy",
            "top5",
            "macro_f1",
            "loss",
            "calibration_error",
        )
        mistakes = ("index", "name", "label", "predicted", "score")
        return {
            **{key: getattr(self, key) for key in scalars},
            "scales": list(self.scales),
            "classes": [score._asdict() for score in self.classes],
            "confusion": self.confusion.tolist(),
            "worst": [{key: getattr(mistake, key) for key in mistakes} for mistake in self.worst],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Returns a table for the terminal. With many classes it shows those with the lowest F1."""
        images = f"{self.num_images:,} images" + (f" of the split {self.split}" if self.split else "")
        skipped = f", {self.skipped:,} unreadable ones skipped" if self.skipped else ""
        averaged = ", each averaged with its mirror image" if self.tta else ""
        if self.crops == 1 and len(self.scales) == 1:
            averaged += f", each resized to {self.scales[0]} pixels"
        elif self.crops > 1 or self.scales:
            sizes = f" at {', '.join(map(str, self.scales))} pixels" if self.scales else ""
            averaged += f", each averaged over {self.crops * max(1, len(self.scales))} crops{sizes}"
        lines = [f"{images}{skipped}{averaged}", ""]
        uncertainty = describe_uncertainty(self.accuracy, self.num_images)
        lines.append(f"{'accuracy':<20}{self.accuracy:>8.2%}  {uncertainty}".rstrip())
        if len(self.classes) > 5:
            lines.append(f"{'top-5 accuracy':<20}{self.top5:>8.2%}")
        lines.append(f"{'macro F1':<20}{self.macro_f1:>8.2%}")
        lines.append(f"{'loss':<20}{self.loss:>8.4f}")
        lines.append(f"{'calibration error':<20}{self.calibration_error:>8.2%}")

        occurring = [score for score in self.classes if score.support]
        rows = sorted(occurring, key=lambda score: score.f1) if len(occurring) > _MAX_CLASSES_SHOWN else occurring
        rows = rows[:_MAX_CLASSES_SHOWN]
        width = max(_count_columns("class"), *(min(_count_columns(score.label), _LABEL_COLUMNS) for score in rows))
        lines += ["", f"{_fit_columns('class', width)}  precision  recall      F1    images"]
        for score in rows:
            numbers = f"{score.precision:>9.1%}  {score.recall:>6.1%}  {score.f1:>6.1%}  {score.support:>8,}"
            lines.append(f"{_fit_columns(score.label, width)}  {numbers}")
        if hidden := len(occurring) - len(rows):
            lines.append(f"... and {hidden:,} classes with a higher F1")
        if absent := [printable(score.label) for score in self.classes if not score.support]:
            count = int(self.confusion.sum(0)[[not score.support for score in self.classes]].sum())
            lines.append(f"no images of {list_some(absent)}; {count:,} were classified as such")

        if self.worst:
            lines += ["", "most confident mistakes"]
            for mistake in self.worst[:_MAX_MISTAKES]:
                name = printable(mistake.name)
                lines.append(f"  {name}: {mistake.label}, classified as {mistake.predicted} ({mistake.score:.1%})")
        return "\n".join(lines) + "\n"


def compute_target_ranks(logs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Computes how many classes a `Classifier` ranks before the true one (N,), from log-scores (N, classes)."""
    of_target = logs[np.arange(len(targets)), targets][:, None]
    wins_tie = (logs == of_target) & (np.arange(logs.shape[1]) < targets[:, None])
    ranks: np.ndarray = ((logs > of_target) | wins_tie).sum(1)
    return ranks


def compute_confusion(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Computes the confusion matrix (classes, classes): rows are true classes, columns predicted ones."""
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def compute_class_scores(labels: Sequence[str], confusion: np.ndarray) -> tuple[ClassScore, ...]:
    """Computes the metrics of each class from a confusion matrix."""
    correct, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = correct / predicted.clip(1), correct / support.clip(1)
    f1 = 2 * correct / (support + predicted).clip(1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    return tuple(ClassScore(*row) for row in zip(labels, *columns, strict=True))


def _count_columns(text: str) -> int:
    """Counts the columns of a terminal: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _fit_columns(text: str, width: int) -> str:
    """Cuts or pads a text to `width` columns."""
    if _count_columns(text) > width:
        while _count_columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _count_columns(text))


def compute_wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Computes the accuracies that `correct` of `total` images are compatible with, at a confidence of 95%.

    Unlike the normal approximation, the interval of Wilson (1927) holds for few images and near 0 and 1.

    Returns:
        The lower and the upper bound, in 0..1.
    """
    z = 1.959964  # of the normal distribution, two-sided
    share, spread = correct / total, z * z / total
    middle = share + spread / 2
    width = z * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    low, high = (middle - width) / (1 + spread), (middle + width) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def describe_uncertainty(accuracy: float, num_images: int) -> str:
    """Returns the counts behind an accuracy and its 95% interval; "" if there are many images, or their number is 0."""
    if not 0 < num_images < MANY_IMAGES:
        return ""
    correct = round(accuracy * num_images)
    low, high = compute_wilson_interval(correct, num_images)
    return f"{correct:,} of {num_images:,}, 95% interval {100 * low:.0f} to {high:.0%}"


CALIBRATION_BINS = 15  # of equal width, as in the paper below


def compute_calibration_error(confidences: np.ndarray, is_correct: np.ndarray) -> float:
    """Computes the expected calibration error (https://arxiv.org/abs/1706.04599, section 2).

    Args:
        confidences: The score of each predicted label (N,), in 0..1.
        is_correct: Whether each predicted label is the true one (N,).

    Returns:
        The mean gap between score and accuracy over bins (low, high] of the score, weighted by their images, in 0..1.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidences)
    gaps = np.bincount(bins, weights=confidences - is_correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))
