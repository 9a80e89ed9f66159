"""How good a model is on labelled pictures: one pass in float32, the figures of the field, and its worst mistakes."""

import copy
import json
import math
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.classifier import _MAX_BATCH_PIXELS, Classifier
from resnet_hub.data import SPLIT_NAMES, TEST, TRAIN, VALIDATION, ImageSet, Splits
from resnet_hub.data import load as load_data
from resnet_hub.errors import CheckpointError, DataError, ImageError
from resnet_hub.images import _printable, load_image
from resnet_hub.model import ResNet

if TYPE_CHECKING:
    from PIL import Image

CALIBRATION_BINS = 15  # of equal width, as in the paper below
_NAMED = 3  # labels or pictures that an error names before it counts the rest
_TABLE_CLASSES = 50  # in the table for the terminal; of more, the weakest
_TABLE_LABEL = 32  # columns


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
        if absent := [_printable(score.label) for score in self.classes if not score.support]:
            taken = int(self.confusion.sum(0)[[not score.support for score in self.classes]].sum())
            lines.append(f"no pictures of {_some(absent)}; {taken:,} were taken for such")

        if self.worst:
            lines += ["", "surest mistakes"]
            for mistake in self.worst[:_NAMED]:
                name = _printable(mistake.name)
                lines.append(f"  {name}: {mistake.label}, taken for {mistake.predicted} ({mistake.score:.1%})")
        return "\n".join(lines) + "\n"


def evaluate(
    model: ResNet | Classifier | str | Path,
    data: ImageSet | str | Path | Mapping[str, Sequence[Any]],
    *,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    tta: bool = False,
    worst: int = 16,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Asks the model for the label of every picture, with the model's own preprocessing, and counts.

    `model` may be a checkpoint folder or Hub id, `data` all that `data.load` takes; of its splits `split`, or the first
    of validation, test, train that exists, or a part such as `test[:500]` of parquet and the Hub; `names` are those of
    `data.load` for subset, columns and revision. With an `ImageSet`, `split` only names it. Labels are matched by name,
    whatever their order, and may be some of the model's. `tta` takes the mean of the scores of the picture and of its
    mirror image. `worst` mistakes are kept. `progress` hears how many pictures are done, and of how many. Raises
    `DataError` for labels that the model does not know, a picture without label, or one that cannot be read, unless
    `skip_unreadable`.
    """
    if batch_size < 1 or worst < 0:
        raise DataError(f"batch_size is {batch_size} and worst is {worst}; expected at least 1 and 0.")
    classify = _classifier(model)
    if not isinstance(data, ImageSet):
        part = split if split and split.lower() not in SPLIT_NAMES else None
        name, data = one_split(load_data(data, split=part, **names or {}), None if part else split)
        split = part or name
    targets = true_indices(classify.config.labels, data)
    total, size = len(targets), classify.config.image_size

    known = np.zeros(total, bool)  # pictures that could be read
    predicted, rank = np.zeros(total, np.int64), np.zeros(total, np.int64)
    score, loss = np.zeros(total), np.zeros(total)
    done = 0
    for inputs in network_inputs(classify, data, min(batch_size, max(1, _MAX_BATCH_PIXELS // size**2))):
        unreadable = [data.name(done + place) for place, item in enumerate(inputs) if isinstance(item, ImageError)]
        if unreadable and not skip_unreadable:
            some = _printable(_some(unreadable))
            raise DataError(f"Some pictures cannot be read: {some}; remove or skip unreadable ones.")
        good = [(done + place, item) for place, item in enumerate(inputs) if isinstance(item, Tensor)]
        if good:
            at = np.array([place for place, _ in good])
            logs = _log_scores(classify, torch.stack([item for _, item in good]), tta)
            known[at], predicted[at], score[at] = True, logs.argmax(1), np.exp(logs.max(1).clip(max=0))
            loss[at], rank[at] = -logs[np.arange(len(at)), targets[at]], _rank(logs, targets[at])
        done += len(inputs)
        if progress is not None:
            progress(done, total)
    if not known.any():
        raise DataError(f"None of the {total:,} pictures can be read.")

    wrong = np.flatnonzero(known & (predicted != targets))
    wrong = wrong[np.argsort(-score[wrong], kind="stable")][:worst]
    labels = classify.config.labels
    mistakes = (
        Mistake(i, data.name(i), labels[targets[i]], labels[predicted[i]], float(score[i]), data.sources[i])
        for i in wrong.tolist()
    )
    confusion = _confusion(targets[known], predicted[known], len(labels))
    classes = _class_scores(labels, confusion)
    occurs = confusion.sum(0) + confusion.sum(1) > 0
    return Evaluation(
        split=split,
        tta=tta,
        num_images=int(known.sum()),
        skipped=int(total - known.sum()),
        accuracy=float(confusion.trace() / known.sum()),
        top5=float((rank[known] < 5).mean()),
        macro_f1=float(np.mean([row.f1 for row in classes], where=occurs)),
        loss=float(loss[known].mean()),
        calibration_error=_calibration_error(score[known], (predicted == targets)[known]),
        classes=classes,
        confusion=confusion,
        worst=tuple(mistakes),
    )


def _classifier(model: ResNet | Classifier | str | Path) -> Classifier:
    """The model on the fastest device, in float32: half precision would count other figures on other machines."""
    if isinstance(model, str | Path):
        model = ResNet.from_pretrained(model)
    if isinstance(model, ResNet):
        model = Classifier(model)
    if model.model.dtype != torch.float32:
        return Classifier(copy.deepcopy(model.model).float(), device=model.device)
    return model


def one_split(splits: Splits, split: str | None) -> tuple[str, ImageSet]:
    """The split of that name, or the first of validation, test, train that exists, with its name."""
    wanted = (VALIDATION, TEST, TRAIN) if split is None else (split,)
    for name in wanted:
        if name in splits:
            return name, splits[name]
    raise DataError(f"The data set has no split {split!r}; it has {', '.join(splits)}.")


def true_indices(names: Sequence[str], data: ImageSet) -> np.ndarray:
    """The model's class index of every picture, (N,); the data set may have some of its labels, in another order."""
    targets = np.asarray(data.targets, np.int64)
    if not len(targets):
        raise DataError("The data set holds no pictures; there is nothing to evaluate.")
    if bad := int(((targets < 0) | (targets >= len(data.labels))).sum()):
        raise DataError(f"{bad:,} of {len(targets):,} pictures have no label; choose a split with labels.")
    if list(data.labels) == list(names):
        return targets
    known = set(names)
    if unknown := [repr(label) for label in data.labels if label not in known]:
        told = _some([repr(label) for label in names])
        raise DataError(
            f"The model does not know {_some(unknown)}, only {told}; rename those classes, or leave them out."
        )
    counts = Counter(names) | Counter(data.labels)
    if twice := [label for label in data.labels if counts[label] > 1]:
        raise DataError(f"The label {twice[0]!r} names several classes, so model and data set must order them alike.")
    place = {label: index for index, label in enumerate(names)}
    return np.array([place[label] for label in data.labels])[targets]


def network_inputs(classify: Classifier, data: ImageSet, batch: int) -> Iterator[list[Tensor | ImageError]]:
    """The network's input for each picture, in order; threads decode one batch ahead, so that memory stays bounded."""

    def read(index: int) -> Tensor | ImageError:
        try:
            return classify.transform(load_image(data.sources[index], name=data.name(index)))
        except ImageError as error:
            return error

    ahead: deque[list[Future[Tensor | ImageError]]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(data), batch):
            ahead.append([pool.submit(read, index) for index in range(start, min(start + batch, len(data)))])
            if len(ahead) == 2:
                yield [future.result() for future in ahead.popleft()]
        yield [future.result() for future in ahead.popleft()]


def _log_scores(classify: Classifier, batch: Tensor, tta: bool) -> np.ndarray:
    """Logarithms of the scores (N, classes), float64: a score that rounds to 0 still has its rank and its loss."""
    with torch.inference_mode():
        batch = batch.to(classify.device, memory_format=torch.channels_last)
        views = (batch, batch.flip(3)) if tta else (batch,)
        logs = [F.log_softmax(classify.model(view).cpu().double(), 1) for view in views]
        mean = torch.logaddexp(logs[0], logs[1]) - math.log(2) if tta else logs[0]
    if not mean.isfinite().all():
        raise CheckpointError("The model answers with values that are no numbers: its weights are damaged.")
    return mean.numpy()


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


def _some(items: Sequence[str]) -> str:
    rest = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


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
