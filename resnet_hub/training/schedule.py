"""The learning rate and the image size over a run, as pure functions."""

import math

from resnet_hub.training.config import ResolvedTrainConfig

_SIZE_STEP = 16  # pixels


def learning_rate(config: ResolvedTrainConfig, progress: float) -> float:
    """Returns the learning rate after the fraction `progress` (0 to 1) of all steps."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if config.schedule == "constant":
        return config.learning_rate
    angle = math.pi * (progress - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(angle))


def image_size(first: int | None, last: int, epoch: int, epochs: int) -> int:
    """Returns the pixels of a side in an epoch: sizes from `first` to `last`, 16 apart, share the epochs equally.

    Small images teach the early epochs nearly as much in a fraction of the time (progressive resizing,
    https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
    """
    sizes: list[int] = [*range(min(first or last, last), last, _SIZE_STEP), last]
    return sizes[len(sizes) * epoch // epochs]
