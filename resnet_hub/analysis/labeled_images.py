"""Labeled images in memory, on which a model is evaluated again and again."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnet_hub.analysis.blocks import evaluation_mode, to_inputs
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset, LazySequence, choose_split
from resnet_hub.datasets.labels import match_labels
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import AnalysisError
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import eval_transform
from resnet_hub.inference.classifier import limit_batch_size, load_inputs
from resnet_hub.model import ResNet

_BATCH = 250
JPEG_COPY = " encoded again as JPEG, quality "  # in the name of a dataset


class LabeledImages(NamedTuple):
    """Preprocessed images float32 (N, C, H, W), and the class index of each, int64 (N,)."""

    images: Tensor
    targets: Tensor


def load_labeled_images(
    config: ResNetConfig,
    data: ImageDataset | str | Path,
    *,
    count: int | None = None,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    seed: int = 0,
    jpeg_quality: int | None = None,
) -> LabeledImages:
    """Load labeled images, preprocessed for a model. The labels of model and dataset are matched by name.

    Args:
        config: The model's config.
        data: A dataset, or its source as `load_dataset` takes it.
        count: How many images to draw at random; by default all.
        split: The split; by default the first of validation, test and train that exists.
        names: Further arguments of `load_dataset`: subset, columns and revision.
        seed: Of the draw.
        jpeg_quality: If set, the images are encoded again first; see `encode_as_jpeg`.

    Returns:
        The images, with their class indices in the model.

    Raises:
        AnalysisError: The model has no head.
        DataError: The dataset has labels that the model does not have, or images without a label.
        ImageError: An image cannot be read.
    """
    _check_head(config)
    if not isinstance(data, ImageDataset):
        data = choose_split(load_dataset(data, **names or {}), split)[1]
    if count is not None and count < len(data):
        data = data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))
    if jpeg_quality is not None:
        data = encode_as_jpeg(data, jpeg_quality)
    targets = torch.from_numpy(match_labels(config.labels, data))
    images: list[Tensor] = []
    for batch in load_inputs(data, eval_transform(config), limit_batch_size(_BATCH, config.image_size)):
        for item in batch:
            if not isinstance(item, Tensor):
                raise item
            images.append(item)
    return LabeledImages(torch.stack(images), targets)


def encode_as_jpeg(data: ImageDataset, quality: int) -> ImageDataset:
    """Encode the images of a dataset again as JPEG, each when it is read.

    The recorded networks learned such a copy of CIFAR-10, whose original has PNG files.

    Args:
        data: The dataset.
        quality: From 1 to 95, as Pillow defines it; colors have half the resolution.

    Raises:
        AnalysisError: The quality is out of its range.
    """
    if not 1 <= quality <= 95:
        raise AnalysisError(f"JPEG has no quality {quality} here. Choose one from 1 to 95.")

    def encode(index: int) -> bytes:
        buffer = io.BytesIO()
        load_image(data.read(index), name=data.name(index)).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    return ImageDataset(data.labels, LazySequence(range(len(data)), encode), data.targets, data.names)


def name_dataset(data: str | Path, jpeg_quality: int | None = None) -> str:
    """Name a dataset for a record: the id of one on the Hub, the name of a folder or file."""
    path = Path(data)
    name = path.name if path.exists() or path.is_absolute() else str(data)
    return name if jpeg_quality is None else f"{name}{JPEG_COPY}{jpeg_quality}"


def split_batches(model: ResNet, labeled: LabeledImages) -> list[LabeledImages]:
    """Split labeled images into batches that a network computes at once.

    Raises:
        AnalysisError: The model has no head, or there is not one target for each image.
    """
    _check_head(model.config)
    if len(labeled.images) != len(labeled.targets) or not len(labeled.targets):
        images, targets = len(labeled.images), len(labeled.targets)
        raise AnalysisError(f"There are {images} images and {targets} targets. Give each image one target.")
    size = limit_batch_size(_BATCH, max(labeled.images.shape[-2:]))
    pairs = zip(labeled.images.split(size), labeled.targets.split(size), strict=True)
    return [LabeledImages(to_inputs(model, images), targets.to(model.device)) for images, targets in pairs]


def _check_head(config: ResNetConfig) -> None:
    if not config.num_classes:
        raise AnalysisError("The model has no head and so no labels. Load it with id2label= or num_classes=.")


def compute_accuracy(model: ResNet, labeled: LabeledImages) -> float:
    """Compute the accuracy (0 to 1) of a model, in evaluation mode; the model does not change.

    Args:
        model: The model, with a head.
        labeled: The images, from `load_labeled_images`.

    Returns:
        The share of right labels, 0 to 1.

    Raises:
        AnalysisError: The model has no head, or the images do not fit it.
    """
    correct = 0
    with torch.inference_mode(), evaluation_mode(model):
        for images, targets in split_batches(model, labeled):
            correct += count_correct(model(images), targets)
    return correct / len(labeled.targets)


def count_correct(logits: Tensor, targets: Tensor) -> int:
    return int((logits.argmax(1) == targets).sum())
