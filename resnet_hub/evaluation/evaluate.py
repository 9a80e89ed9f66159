"""Evaluates a model on labeled images: metrics in one pass and in float32, and the outputs behind them."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.datasets.dataset import SPLIT_NAMES, ImageDataset, choose_split
from resnet_hub.datasets.labels import match_labels
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import CheckpointError, DataError, ImageError, list_some, printable
from resnet_hub.evaluation.metrics import (
    Evaluation,
    Mistake,
    compute_calibration_error,
    compute_class_scores,
    compute_confusion,
    compute_target_ranks,
)
from resnet_hub.images.transforms import crops_transform
from resnet_hub.inference.classifier import Classifier, limit_batch_size, load_inputs
from resnet_hub.inference.engines import create_bf16_engine
from resnet_hub.inference.onnx_graph import fold_batchnorm
from resnet_hub.model import ResNet

_WORST = 16  # mistakes that are listed


def evaluate(
    model: ResNet | Classifier | str | Path,
    data: ImageDataset | str | Path | Mapping[str, Sequence[Any]],
    *,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    tta: bool = False,
    crops: int = 1,
    scales: Sequence[int] = (),
    worst: int = _WORST,
    skip_unreadable: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Evaluates a model on labeled images, with the model's own preprocessing.

    The labels of model and dataset are matched by name, in any order; the dataset may have some of the model's only.

    Args:
        model: A model, a checkpoint folder, or the id of a repo on the Hub.
        data: A dataset, or its source as `load_dataset` takes it.
        split: The split to evaluate on; by default the first of validation, test and train that exists. Parquet files
            and datasets on the Hub also take a part such as `test[:500]`. With an `ImageDataset` it is a name to show.
        names: Further arguments of `load_dataset`: subset, columns and revision.
        batch_size: Images that the model computes at once.
        tta: Whether to average the scores of each image and its mirror image.
        crops: 10 averages the scores of the corners and the center of each image and of its mirror image, as
            torchvision's `TenCrop` cuts them; 1 is the center.
        scales: Lengths to which the short side of an image is resized before it is cropped, to average the scores of
            all of them; by default the model's own.
        worst: How many of the most confident mistakes to return.
        skip_unreadable: Whether to leave out images that cannot be read, instead of raising an error.
        progress: Called with the number of images done and their total after each batch.

    Returns:
        The metrics, per class and over all images, and the most confident mistakes.

    Raises:
        DataError: If the model does not have a label of the dataset, or an image has no label or cannot be read.
        ConfigError: If there is no such number of crops, or a scale is smaller than the model's input or too large.
    """
    if batch_size < 1 or worst < 0:
        raise DataError(f"batch_size is {batch_size} and worst is {worst}; expected at least 1 and 0.")
    if tta and crops > 1:
        raise DataError("Ten crops include the mirror image; leave out tta, or the crops.")
    classifier = _load_classifier(model)
    config = classifier.config
    transform = crops_transform(config, crops=crops, scales=scales) if crops > 1 or scales else classifier.transform
    batch_size = max(1, limit_batch_size(batch_size, config.image_size) // (crops * max(1, len(scales))))
    split, data = _load_split(data, split, names)
    targets = match_labels(classifier.config.labels, data)
    scores = _Scores(len(targets))
    for inputs in load_inputs(data, transform, batch_size):
        unreadable = [data.name(scores.done + i) for i, item in enumerate(inputs) if isinstance(item, ImageError)]
        if unreadable and not skip_unreadable:
            some = printable(list_some(unreadable))
            raise DataError(f"Some images cannot be read: {some}; remove or skip unreadable ones.")
        scores.add(classifier, inputs, targets, tta)
        if progress is not None:
            progress(scores.done, len(targets))
    return _summarize(scores, data, config.labels, targets, split, worst, tta=tta, crops=crops, scales=tuple(scales))


def evaluate_outputs(model: ResNet, data: ImageDataset, outputs: "Outputs", *, split: str) -> Evaluation:
    """Evaluates what `compute_outputs` has computed of `data`, as `evaluate` does that leaves out unreadable images.

    The head is that of `model`: it may have been fitted since.

    Raises:
        DataError: If no image could be read.
        CheckpointError: If the outputs are not finite.
    """
    targets, labels = match_labels(model.config.labels, data), model.config.labels
    scores = _Scores(len(targets))
    with torch.inference_mode():
        logs = F.log_softmax(model.fc(outputs.features.to(model.device)).cpu().double(), 1).numpy()
    scores.set(outputs.indices.numpy(), logs, targets)
    return _summarize(scores, data, labels, targets, split, tta=False, crops=1, scales=())


def _summarize(
    scores: "_Scores",
    data: ImageDataset,
    labels: Sequence[str],
    targets: np.ndarray,
    split: str | None,
    worst: int = _WORST,
    **crops: Any,
) -> Evaluation:
    scores.check(split)
    is_readable, is_correct = scores.is_readable, scores.predicted == targets
    confusion = compute_confusion(targets[is_readable], scores.predicted[is_readable], len(labels))
    classes = compute_class_scores(labels, confusion)
    occurs = confusion.sum(0) + confusion.sum(1) > 0
    return Evaluation(
        split=split,
        **crops,
        num_images=int(is_readable.sum()),
        skipped=int(np.sum(~is_readable)),
        accuracy=float(is_correct[is_readable].mean()),
        top5=float((scores.ranks[is_readable] < 5).mean()),
        macro_f1=float(np.mean([row.f1 for row in classes], where=occurs)),
        loss=float(scores.losses[is_readable].mean()),
        calibration_error=compute_calibration_error(scores.confidences[is_readable], is_correct[is_readable]),
        classes=classes,
        confusion=confusion,
        worst=_list_mistakes(data, labels, np.flatnonzero(is_readable & ~is_correct), targets, scores, worst),
    )


class _Scores:
    """The scores of each image, from the first on."""

    def __init__(self, count: int):
        self.done = 0
        self.first_error: ImageError | None = None
        self.is_readable = np.zeros(count, bool)
        self.predicted, self.ranks = np.zeros(count, np.int64), np.zeros(count, np.int64)  # ranks of the targets
        self.confidences, self.losses = np.zeros(count), np.zeros(count)

    def check(self, split: str | None) -> None:
        """Raises `DataError` if no image could be read."""
        if not self.is_readable.any():
            images = f"images ({split})" if split else "images"
            count, reason = len(self.is_readable), self.first_error or ""
            raise DataError(f"None of the {count:,} {images} can be read. {reason}".strip())

    def add(
        self, classifier: Classifier, inputs: Sequence[Tensor | ImageError], targets: np.ndarray, tta: bool
    ) -> None:
        """Compute the next images, each as one crop or several (crops, C, H, W); those that are errors are left out."""
        if tensors := [item for item in inputs if isinstance(item, Tensor)]:
            rows = np.array([self.done + i for i, item in enumerate(inputs) if isinstance(item, Tensor)])
            crops = torch.stack(tensors, -4).view(-1, len(tensors), *tensors[0].shape[-3:])
            self.set(rows, _compute_log_scores(classifier, crops, tta), targets)
        self.first_error = self.first_error or next((item for item in inputs if isinstance(item, ImageError)), None)
        self.done += len(inputs)

    def set(self, rows: np.ndarray, logs: np.ndarray, targets: np.ndarray) -> None:
        """Set the log-scores (N, classes) of the images `rows` (N,) among all, whose classes are `targets`."""
        if not np.isfinite(logs).all():
            raise CheckpointError("The model's outputs are not finite numbers: its weights are damaged.")
        self.is_readable[rows], self.predicted[rows] = True, logs.argmax(1)
        self.confidences[rows] = np.exp(logs.max(1).clip(max=0))
        self.losses[rows] = -logs[np.arange(len(rows)), targets[rows]]
        self.ranks[rows] = compute_target_ranks(logs, targets[rows])


class Outputs(NamedTuple):
    """The outputs of a model for the readable images of a dataset, float32 on the CPU."""

    logits: Tensor  # (N, classes)
    targets: Tensor  # their classes (N,)
    features: Tensor  # their pooled features (N, C)
    indices: Tensor  # of the images in the dataset (N,)


def compute_outputs(model: ResNet, data: ImageDataset, *, batch_size: int = 64, in_bf16: bool = False) -> Outputs:
    """Computes a model's outputs for labeled images, in float32 or, for features alone, in bfloat16."""
    classifier = _load_classifier(model)
    targets = torch.from_numpy(match_labels(classifier.config.labels, data))
    network = classifier.model
    engine = create_bf16_engine(fold_batchnorm(network)) if in_bf16 else None
    features: list[Tensor] = []
    indices, done = [], 0
    with torch.inference_mode():
        for inputs in load_inputs(
            data, classifier.transform, limit_batch_size(batch_size, classifier.config.image_size)
        ):
            readable = [row for row, item in enumerate(inputs) if isinstance(item, Tensor)]
            if readable:
                batch = torch.stack([inputs[row] for row in readable])  # type: ignore[misc]
                batch = batch.to(classifier.device, memory_format=torch.channels_last)
                feature_maps = engine(batch).feature_maps if engine else network.forward_features(batch)
                features.append(network.avgpool(feature_maps).flatten(1).float().cpu())
                indices += [done + row for row in readable]
            done += len(inputs)
        pooled = torch.cat(features) if features else torch.empty(0, network.config.num_features)
        logits = network.fc(pooled.to(classifier.device)).cpu()
    rows = torch.tensor(indices, dtype=torch.int64)
    return Outputs(logits.clone(), targets[rows], pooled.clone(), rows)


def _list_mistakes(
    data: ImageDataset, labels: Sequence[str], mistakes: np.ndarray, targets: np.ndarray, scores: _Scores, count: int
) -> tuple[Mistake, ...]:
    """List the most confident of the mistakes, which are indices of images."""
    predicted, confidences = scores.predicted, scores.confidences
    most_confident = mistakes[np.argsort(-confidences[mistakes], kind="stable")][:count]
    return tuple(
        Mistake(i, data.name(i), labels[targets[i]], labels[predicted[i]], float(confidences[i]), data.sources[i])
        for i in most_confident.tolist()
    )


def _load_split(
    data: ImageDataset | str | Path | Mapping[str, Sequence[Any]], split: str | None, names: Mapping[str, Any] | None
) -> tuple[str | None, ImageDataset]:
    """Loads the dataset of a split, or of an expression such as `test[:500]`, with its name."""
    if isinstance(data, ImageDataset):
        return split, data
    expression = split if split and split.lower() not in SPLIT_NAMES else None
    splits = load_dataset(data, split=expression, needs_train=False, **names or {})
    name, dataset = choose_split(splits, None if expression else split)
    return expression or name, dataset


def _load_classifier(model: ResNet | Classifier | str | Path) -> Classifier:
    """Loads the model in float32: metrics of half precision would depend on the machine."""
    if isinstance(model, str | Path):
        model = ResNet.from_pretrained(model)
    if isinstance(model, ResNet):
        model = Classifier(model)
    if model.model.dtype != torch.float32:
        return Classifier(copy.deepcopy(model.model).float(), device=model.device)
    return model


def _compute_log_scores(classifier: Classifier, crops: Tensor, tta: bool) -> np.ndarray:
    """Computes log-scores (N, classes) of N images, averaged over their crops (crops, N, C, H, W).

    In float64, where a score that rounds to 0 still has its rank and its loss.
    """
    logs = []
    with torch.inference_mode():
        for crop in crops:
            batch = crop.to(classifier.device, memory_format=torch.channels_last)
            for one in (batch, batch.flip(3)) if tta else (batch,):
                logs.append(F.log_softmax(classifier.model(one).cpu().double(), 1))
        mean = torch.stack(logs).logsumexp(0) - math.log(len(logs))
    return mean.numpy()
