"""Fits a new head on a frozen backbone: computes the features of each image once, then solves a convex problem."""

import copy
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.atomic import write_atomic
from resnet_hub.inference.engines import Engine, create_bf16_engine, select_engine
from resnet_hub.inference.onnx_graph import fold_batchnorm
from resnet_hub.model import ResNet
from resnet_hub.training.augmentation import BatchTransform, resize_batch
from resnet_hub.training.events import Preparing
from resnet_hub.training.gpu_memory import ChunkedFunction
from resnet_hub.training.loader import DecodedImages, Loader, split_batches

_BATCH = 64
MAX_FITTED = 20_000  # images that the head is fitted to before a fine-tuning, which sees all of them


def fit_linear_probe(
    model: ResNet,
    images: DecodedImages,
    indices: np.ndarray,
    class_weights: Tensor,
    transform: BatchTransform,
    loader: Loader,
    partial: Path | None,
    *,
    in_bf16: bool = False,
    mirrored: bool = True,
) -> Generator[Preparing, None, nn.Linear]:
    """Fits the head of `model` to its features of images.

    Args:
        model: Its head is replaced by the fitted one.
        images: The images, of which the center is used.
        indices: Those to fit it to, int64 (N,).
        class_weights: float (num_classes,), the weight of each class in the loss.
        transform: Crops and normalizes the images, which are then resized to its `crop_size`.
        loader: Loads the images.
        partial: File that keeps the features computed so far if the generator is closed before its end, for the next
            call; None: they are discarded.
        in_bf16: As in `create_engine`.
        mirrored: Whether to fit the head to the mirror images too.

    Returns:
        The fitted head.
    """
    engine = create_engine(model, transform.crop_size, in_bf16=in_bf16)
    features, targets = yield from _compute_features(engine, images, indices, transform, loader, partial, mirrored)
    l2 = l2_penalty(features.shape[2], len(indices))  # a mirror image adds no information
    inputs, classes = features.transpose(0, 1).flatten(0, 1), len(class_weights)
    head = fit_head(inputs, targets.repeat(features.shape[1]), classes, weights=class_weights, l2=l2)
    model.fc.load_state_dict(head.state_dict())
    return head


def create_engine(model: ResNet, size: int, *, in_bf16: bool) -> Engine:
    """Returns what computes the features of images of `size` pixels.

    In bfloat16 it has twice the speed, where the processor multiplies it.
    """
    if in_bf16:
        return create_bf16_engine(fold_batchnorm(model))
    resized = copy.copy(model)  # ONNX Runtime's graph has the size of the config
    resized.config = replace(model.config, image_size=size)
    return select_engine(resized, "fp32")


def _compute_features(
    engine: Engine,
    images: DecodedImages,
    indices: np.ndarray,
    transform: BatchTransform,
    loader: Loader,
    partial: Path | None,
    mirrored: bool,
) -> Generator[Preparing, None, tuple[Tensor, Tensor]]:
    """Returns the features (N, 1, C) of the images, or (N, 2, C) with those of their mirror images; and the targets."""
    batches, targets, total = list[Tensor](), list[Tensor](), len(indices)
    extract = ChunkedFunction(lambda flip: extract_features(engine, flip))
    if partial and partial.is_file():
        saved = load_file(partial)
        batches = [saved["features"]]
        done_targets = torch.from_numpy(images.images.targets[indices[: len(batches[0])]])
        targets = [saved.get("targets", done_targets)]  # those of version 0.1 are missing
    done = sum(map(len, batches))
    loading = loader.load(
        images, split_batches(indices[done:], _BATCH), lambda decoded, _: transform.center_crop(decoded)
    )
    try:
        with closing(loading):
            for loaded, pixels in loading:
                batch = resize_batch(transform.normalize(pixels), transform.crop_size)
                flips = (batch, batch.flip(3)) if mirrored else (batch,)
                batches.append(torch.stack([extract(flip) for flip in flips], 1))
                targets.append(torch.from_numpy(loaded.targets))  # of another image, where one cannot be read
                done += len(pixels)
                yield Preparing("features", done, total)
    finally:
        if partial and done:  # all of them too: the head is not saved yet
            write_atomic(partial, save({"features": torch.cat(batches), "targets": torch.cat(targets)}))
    return torch.cat(batches), torch.cat(targets)


def extract_features(engine: Engine, batch: Tensor) -> Tensor:
    """Returns the pooled features (N, C) of normalized images (N, 3, H, W)."""
    feature_maps = engine(batch.contiguous()).feature_maps
    return torch.from_numpy(feature_maps.numpy().mean((2, 3)))


def l2_penalty(num_features: int, num_images: int) -> float:
    """Returns the `l2` of `fit_head` for a Gaussian prior under which the logits have a variance of 10.

    Variances between 2 and 50 gave the best accuracy (docs/log.md).
    """
    return num_features / (10 * num_images)


def fit_head(inputs: Tensor, targets: Tensor, classes: int, *, weights: Tensor, l2: float) -> nn.Linear:
    """Fits a multinomial logistic regression with full-batch L-BFGS.

    The problem is convex, so there is no learning rate to choose and the result does not depend on a seed.

    Args:
        inputs: Features, float (N, C).
        targets: int64 (N,).
        classes: Number of classes.
        weights: float (classes,), the weight of each class in the loss.
        l2: Penalty on the squared coefficients of the standardized features.

    Returns:
        The head, for features that are not standardized.
    """
    mean, std = inputs.mean(0), inputs.std(0, correction=0).clamp_min(1e-6)
    inputs = (inputs - mean) / std
    head = nn.Linear(inputs.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (F.cross_entropy(head(inputs), targets, reduction="none") * weights[targets]).mean()
        loss = loss + l2 / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():  # the standardization moves into the head
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head
