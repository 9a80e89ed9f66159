"""Labelled images in memory, on which a model is evaluated again and again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnet_hub.analysis.blocks import evaluation_mode, to_inputs
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset, choose_split
from resnet_hub.datasets.labels import match_labels
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import AnalysisError
from resnet_hub.images.transforms import eval_transform
from resnet_hub.inference.classifier import limit_batch_size, load_inputs
from resnet_hub.model import ResNet

_BATCH = 250


class LabelledImages(NamedTuple):
    """Preprocessed images float32 (N, C, H, W), and the class index of each, int64 (N,)."""

    images: Tensor
    targets: Tensor


def load_labelled_images(
    config: ResNetConfig,
    data: ImageDataset | str | Path,
    *,
    count: int | None = None,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Load labelled images, preprocessed for a model. The labels of model and dataset are matched by name.

    Args:
        config: The model's config.
        data: A dataset, or its source as `load_dataset` takes it.
        count: How many images to draw at random; by default all.
        split: The split; by default the first of validation, test and train that exists.
        names: Further arguments of `load_dataset`: subset, columns and revision.
        seed: Of the draw.

    Raises:
        DataError: The dataset has labels that the model does not have, or images without a label.
        ImageError: An image cannot be read.
    """
    if not isinstance(data, ImageDataset):
        data = choose_split(load_dataset(data, **names or {}), split)[1]
    if count is not None and count < len(data):
        data = data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))
    targets = torch.from_numpy(match_labels(config.labels, data))
    images: list[Tensor] = []
    for batch in load_inputs(data, eval_transform(config), limit_batch_size(_BATCH, config.image_size)):
        for item in batch:
            if not isinstance(item, Tensor):
                raise item
            images.append(item)
    return LabelledImages(torch.stack(images), targets)


def split_batches(model: ResNet, labelled: LabelledImages) -> list[LabelledImages]:
    """Split labelled images into batches that a network computes at once.

    Raises:
        AnalysisError: The model has no head, or there is not one target for each image.
    """
    if not model.config.num_classes:
        raise AnalysisError("The model has no head and so no labels. Load it with id2label= or num_classes=.")
    if len(labelled.images) != len(labelled.targets) or not len(labelled.targets):
        images, targets = len(labelled.images), len(labelled.targets)
        raise AnalysisError(f"There are {images} images and {targets} targets. Give each image one target.")
    size = limit_batch_size(_BATCH, max(labelled.images.shape[-2:]))
    pairs = zip(labelled.images.split(size), labelled.targets.split(size), strict=True)
    return [LabelledImages(to_inputs(model, images), targets.to(model.device)) for images, targets in pairs]


def compute_accuracy(model: ResNet, labelled: LabelledImages) -> float:
    """Compute the accuracy (0 to 1) of a model, in evaluation mode; the model does not change.

    Raises:
        AnalysisError: The model has no head, or the images do not fit it.
    """
    correct = 0
    with torch.inference_mode(), evaluation_mode(model):
        for images, targets in split_batches(model, labelled):
            correct += count_correct(model(images), targets)
    return correct / len(labelled.targets)


def count_correct(logits: Tensor, targets: Tensor) -> int:
    return int((logits.argmax(1) == targets).sum())
