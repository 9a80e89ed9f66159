"""The learning rate, image size, order of images and random numbers of each epoch and step of a run.

All depend on the settings and the position in the run only, and not on earlier random numbers. So a resumed or a
distributed run repeats the uninterrupted one.
"""

import math

import numpy as np
import torch
from torch import Generator, Tensor

from resnet_hub.training.config import ResolvedTrainConfig

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
