"""Fits a new head on a frozen backbone: computes the features of each image once, then solves a convex problem."""

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.atomic import write_atomic
from resnet_hub.inference.engines import select_engine
from resnet_hub.model import ResNet
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.events import Preparing

CACHE_BYTES = 2**30  # of features kept on disk; the oldest are deleted first


def fit_linear_probe(
    model: ResNet,
    images: Tensor,
    targets: Tensor,
    class_weights: Tensor,
    transform: BatchTransform,
    partial: Path | None,
) -> Generator[Preparing, None, nn.Linear]:
    """Fits the head of `model` to its features of every image and its mirror image.

    Args:
        model: Its head is replaced by the fitted one.
        images: uint8 (N, H, W, 3) at the size of the network.
        targets: int64 (N,).
        class_weights: float (num_classes,), the weight of each class in the loss.
        transform: Its mean and standard deviation normalize the images.
        partial: File that keeps the features computed so far if the generator is closed before its end, for the next
            call; None: they are discarded.

    Returns:
        The fitted head.
    """
    cache = FeatureCache()
    path = cache.path(model, images)
    features = cache.read(path)
    if features is None:
        features = yield from _compute_features(model, images, transform, partial)
        cache.write(path, features)
    l2 = l2_penalty(features.shape[1], len(images))  # a mirror image adds no information
    head = fit_head(features, targets.repeat(2), len(class_weights), weights=class_weights, l2=l2)
    model.fc.load_state_dict(head.state_dict())
    return head


def _compute_features(
    model: ResNet, images: Tensor, transform: BatchTransform, partial: Path | None
) -> Generator[Preparing, None, Tensor]:
    """Returns the features (2N, C) of the images and of their mirror images."""
    batches = [load_file(partial)["features"]] if partial and partial.is_file() else []
    done, total = sum(map(len, batches)), 2 * len(images)
    mirrored = images[max(0, done - len(images)) :].flip(2)
    try:
        for pixels in (images[done:], mirrored):
            for features in extract_features(model, pixels, transform.mean, transform.std):
                batches.append(features)
                done += len(features)
                yield Preparing("features", done, total)
    finally:
        if partial and 0 < done < total:
            write_atomic(partial, save({"features": torch.cat(batches)}))
    return torch.cat(batches)


def extract_features(model: ResNet, images: Tensor, mean: Tensor, std: Tensor, batch: int = 64) -> Iterator[Tensor]:
    """Yields the pooled features (batch, C) of uint8 images (N, H, W, 3), computed by the fastest engine."""
    engine = select_engine(model, "fp32")
    for start in range(0, len(images), batch):
        pixels = images[start : start + batch].numpy().astype(np.float32)
        pixels = (pixels / 255 - mean.numpy()) / std.numpy()
        maps = engine(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).feature_maps
        yield torch.from_numpy(maps.numpy().mean((2, 3)))


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


class FeatureCache:
    """Features on disk, in files named by a digest of the backbone, its weights and the pixels of the images."""

    def __init__(self, folder: str | Path | None = None):
        home = os.environ.get("RESNET_HUB_CACHE") or Path("~/.cache/resnet_hub").expanduser()
        self.folder = Path(folder or Path(home) / "features")

    def path(self, model: ResNet, images: Tensor) -> Path:
        config = replace(model.config, id2label={0: "any"})
        digest = hashlib.sha256(repr((config, tuple(images.shape))).encode())
        for name, value in model.state_dict().items():
            if not name.startswith("fc."):
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        digest.update(images.contiguous().numpy().data)
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def read(self, path: Path) -> Tensor | None:
        try:
            os.utime(path)
            return load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, path: Path, features: Tensor) -> None:
        with suppress(OSError):  # such as a full disk; a run needs no cache
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"features": features}))
            size = 0
            for old in sorted(self.folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True):
                size += old.stat().st_size
                if size > CACHE_BYTES and old != path:
                    old.unlink(missing_ok=True)
