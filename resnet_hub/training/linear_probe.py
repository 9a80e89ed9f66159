"""A new head for a body that stays as it is: its features of each picture once, then a convex fit in seconds."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.atomic import write_atomic
from resnet_hub.inference.engines import select_engine
from resnet_hub.model import ResNet

CACHE_BYTES = 2**30  # of features kept on disk; the oldest go first


def extract_features(model: ResNet, images: Tensor, mean: Tensor, std: Tensor, batch: int = 64) -> Iterator[Tensor]:
    """Pooled features (n, C) of uint8 pictures (N, H, W, C), a batch at a time, from the fastest engine there is."""
    engine = select_engine(model, "fp32")
    for part in images.split(batch):
        pixels = (part.numpy().astype(np.float32) / 255 - mean.numpy()) / std.numpy()
        maps = engine(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).feature_maps
        yield torch.from_numpy(maps.numpy().mean((2, 3)))


def l2_penalty(channels: int, pictures: int) -> float:
    """The `l2` for so many features of so many pictures: a prior that the pictures outweigh as they become more.

    It expects logits to spread by a variance of 10, wherever between 2 and 50 was best in docs/log.md.
    """
    return channels / (10 * pictures)


def fit_head(inputs: Tensor, targets: Tensor, classes: int, *, weights: Tensor, l2: float) -> nn.Linear:
    """Multinomial logistic regression of features (N, C) on targets (N,), each class weighing as `weights` (classes,).

    `l2` is the penalty on the coefficients of standardised features, beside the mean loss. Full-batch L-BFGS: the
    problem is convex, so there is no rate to choose and no seed that matters.
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
    with torch.no_grad():  # the standardisation moves into the head
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head


class FeatureCache:
    """Features on disk under a digest of what made them: the body, its weights and the pictures' pixels."""

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
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            os.utime(path)
            return load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, path: Path, found: Tensor) -> None:
        from safetensors.torch import save

        with suppress(OSError):  # no home to write to, a full disk, another run that makes room: it is only a cache
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"features": found}))
            kept = 0
            for old in sorted(self.folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True):
                kept += old.stat().st_size
                if kept > CACHE_BYTES and old != path:
                    old.unlink(missing_ok=True)
