"""The order in which training images are seen, and the generators of all random numbers of a run.

Random numbers depend on (seed, epoch, step) and not on what was drawn before: a resumed or a distributed run repeats
the unbroken one.
"""

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor


def create_generator(seed: int, *position: int) -> Generator:
    """Returns a generator for the epoch, or for the epoch and step, at `position`."""
    words = np.random.SeedSequence([seed, *position]).generate_state(2)
    return Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


def compute_class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Returns weights (num_classes,) inverse to how often each class occurs in `targets` (N,)."""
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1)
    return len(targets) / (num_classes * counts)


def shuffle_indices(
    targets: Tensor, class_weights: Tensor, balance: Literal["none", "sampling", "loss"], generator: Generator
) -> Tensor:
    """Returns the indices (N,) of an epoch: shuffled, or drawn with replacement so that all classes are as frequent."""
    if balance == "sampling":
        return torch.multinomial(class_weights[targets].double(), len(targets), replacement=True, generator=generator)
    return torch.randperm(len(targets), generator=generator)
