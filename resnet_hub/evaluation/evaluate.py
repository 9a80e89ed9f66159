"""Evaluates a model on labelled images, in one pass and in float32."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.datasets.dataset import SPLIT_NAMES, ImageDataset, choose_split
from resnet_hub.datasets.labels import match_labels
from resnet_hub.datasets.load import load_dataset as load_data
from resnet_hub.errors import CheckpointError, DataError, ImageError, list_some
from resnet_hub.evaluation.metrics import Evaluation, Mistake, _calibration_error, _class_scores, _confusion, _rank
from resnet_hub.images.load import printable
from resnet_hub.inference.classifier import MAX_BATCH_PIXELS, Classifier, load_inputs
from resnet_hub.model import ResNet

if TYPE_CHECKING:
    pass


def evaluate(
    model: ResNet | Classifier | str | Path,
    data: ImageDataset | str | Path | Mapping[str, Sequence[Any]],
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
    if not isinstance(data, ImageDataset):
        part = split if split and split.lower() not in SPLIT_NAMES else None
        name, data = choose_split(load_data(data, split=part, **names or {}), None if part else split)
        split = part or name
    targets = match_labels(classify.config.labels, data)
    total, size = len(targets), classify.config.image_size

    known = np.zeros(total, bool)  # pictures that could be read
    predicted, rank = np.zeros(total, np.int64), np.zeros(total, np.int64)
    score, loss = np.zeros(total), np.zeros(total)
    done = 0
    for inputs in load_inputs(classify, data, min(batch_size, max(1, MAX_BATCH_PIXELS // size**2))):
        unreadable = [data.name(done + place) for place, item in enumerate(inputs) if isinstance(item, ImageError)]
        if unreadable and not skip_unreadable:
            some = printable(list_some(unreadable))
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
