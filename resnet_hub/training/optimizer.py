"""The optimizer, and the learning rate, image size and random numbers of each epoch and step.

All depend on the settings and the position in the run only, and not on earlier random numbers. So a resumed or a
distributed run repeats the uninterrupted one.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from resnet_hub.errors import TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training.config import ResolvedTrainConfig


def create_optimizer(model: ResNet, config: ResolvedTrainConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a run; each parameter group has a `factor` for the learning rate of the schedule."""
    head = list(model.fc.parameters())
    backbone = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    body_rate = config.body_rate if config.base else 1.0
    groups = [{"params": backbone, "factor": body_rate}, {"params": head, "factor": 1.0}]
    common: dict[str, Any] = {"params": groups, "lr": 0.0, "weight_decay": config.weight_decay}
    if config.optimizer == "lamb":
        return _create_lamb(groups, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(**common, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(**common, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def _create_lamb(groups: list[dict[str, Any]], config: ResolvedTrainConfig) -> torch.optim.Optimizer:
    """Returns timm's LAMB, as arXiv 2110.00476 uses it: biases and BatchNorm do not decay."""
    try:
        from timm.optim.lamb import Lamb
    except ImportError:
        raise TrainingError("lamb needs timm: pip install timm.") from None
    split = []
    for group in groups:
        for is_vector in (False, True):
            chosen = [parameter for parameter in group["params"] if (parameter.ndim == 1) == is_vector]
            decay = 0.0 if is_vector else config.weight_decay
            split.append(group | {"params": chosen, "weight_decay": decay})
    optimizer: torch.optim.Optimizer = Lamb(split, lr=0.0, betas=(config.momentum, 0.999))
    return optimizer


@torch.no_grad()
def update_average(average: ResNet, model: ResNet, decay: float, count: int) -> None:
    """Updates an exponential moving average of the weights, after `count` updates before.

    Its decay rises from 0.1 to `decay` over the first steps, so that the average of a short run does not contain the
    initial weights. PyTorch's `AveragedModel` counts on the device, and each step would wait for the count.
    """
    weight = 1 - min(decay, (1 + count) / (10 + count)) if count else 1.0
    pairs = list(zip(*(chain(one.parameters(), one.buffers()) for one in (average, model)), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([pair[0] for pair in floats], [pair[1] for pair in floats], weight)
    for old, new in pairs:
        if not old.is_floating_point():  # BatchNorm's counters
            old.copy_(new)


def frozen_modules(model: ResNet, stages: int) -> list[nn.Module]:
    """Returns the stem and the first `stages` stages; the last stage is always trained."""
    stages = min(stages, len(model.config.depths) - 1)
    return [model.conv1, model.bn1, *(model.layer1, model.layer2, model.layer3)[:stages]] if stages else []


def set_train_mode(model: nn.Module, frozen: Sequence[nn.Module], *, frozen_norm: bool) -> None:
    """Sets `model` to training mode, except the `frozen` modules and, with `frozen_norm`, all BatchNorm layers."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] if frozen_norm else []
    for module in (*frozen, *norms):
        module.eval()


NUMBERS = 19  # random numbers of an image in an epoch
_SIZE_STEP = 16  # pixels


def learning_rate(config: ResolvedTrainConfig, progress: float) -> float:
    """Returns the learning rate after the fraction `progress` (0 to 1) of all steps."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if config.schedule in ("constant", "plateau"):
        return config.learning_rate
    angle = math.pi * (progress - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(angle))


def image_size(first: int | None, last: int, epoch: int, epochs: int) -> int:
    """Returns the height and width of an epoch's images: sizes from `first` to `last`, 16 apart, each as many epochs.

    Small images teach the early epochs nearly as much in a fraction of the time (progressive resizing,
    https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
    """
    sizes: list[int] = [*range(min(first or last, last), last, _SIZE_STEP), last]
    return sizes[len(sizes) * epoch // epochs]


def create_generator(seed: int, *position: int) -> Generator:
    """Returns a generator for the epoch, or for the epoch and step, at `position`."""
    seeds = np.random.SeedSequence([seed, *position]).generate_state(2)
    return Generator().manual_seed(int(seeds[0]) << 32 | int(seeds[1]))


def draw_numbers(seed: int, epoch: int, start: int, count: int) -> np.ndarray:
    """Returns random numbers from 0 to 1, float64 (count, NUMBERS): a row for each image from position `start` on.

    The row of a position in the order of an epoch is always the same.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    bits.advance(start * NUMBERS)
    return np.random.Generator(bits).random((count, NUMBERS))


def compute_class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Returns weights (num_classes,) inverse to how often each class occurs in `targets` (N,)."""
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1)
    return len(targets) / (num_classes * counts)
