"""The paths through a residual network: how many of each length, and how much gradient each length carries.

Veit et al. 2016 (https://arxiv.org/abs/1605.06431): unrolled, n blocks with shortcuts are 2^n paths, since each block
is passed through its residual or its shortcut (section 3). Path lengths follow a binomial distribution, and most of
the gradient comes from short paths (section 5).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.analysis.blocks import evaluation_mode, forward_head, list_blocks, to_inputs
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet


@dataclass(frozen=True)
class PathGradients:
    """The gradient of the loss at the input of the first block, by the length of the paths that it goes through.

    The arrays have an entry for each length from 0 to the number of blocks.
    """

    norms: np.ndarray  # mean norm of the gradient through one path of this length
    gradient_shares: np.ndarray  # norms times number of paths, as a share of the total

    @property
    def mean_length(self) -> float:
        """Mean length of the paths, weighted by their gradient."""
        return float((self.gradient_shares * np.arange(len(self.gradient_shares))).sum())


def path_lengths(network: ResNet | ResNetConfig | int) -> np.ndarray:
    """Compute the distribution of path lengths, counted in residual blocks.

    Args:
        network: A model, its config, or a number of residual blocks.

    Returns:
        The share of all paths that have length 0, 1, ..., n (n + 1 values): binomial. A plain network has one path,
        of length n.
    """
    config = network.config if isinstance(network, ResNet) else network
    blocks = config if isinstance(config, int) else sum(config.depths)
    if blocks < 0:
        raise AnalysisError(f"A network cannot have {blocks} blocks; expected 0 or more.")
    if isinstance(config, ResNetConfig) and config.shortcut == "none":
        return np.append(np.zeros(blocks), 1.0)
    return np.array([math.comb(blocks, length) / 2**blocks for length in range(blocks + 1)])


def path_gradients(model: ResNet, images: Tensor, targets: Tensor, *, samples: int = 4, seed: int = 0) -> PathGradients:
    """Measure how much gradient the paths of each length carry (Veit et al., figure 6).

    The forward pass is the model's. In the backward pass the gradient goes through the residuals of a random choice of
    blocks and through the shortcuts of all others: one path of that length. The model does not change.

    Args:
        model: A residual network with a head.
        images: Preprocessed images (N, in_channels, H, W).
        targets: The class index of each image (N,).
        samples: Random paths of each length.
        seed: Of the choices.

    Returns:
        The mean norm of the gradient through a path of each length, and the share that each length carries.

    Raises:
        AnalysisError: The network is plain or has no head, the images or targets do not fit it, or the loss has no
            gradient, such as with a single label.
    """
    if model.config.shortcut == "none" or not model.config.num_classes:
        reason = "is plain: it has one path" if model.config.num_classes else "has no head and so no loss"
        raise AnalysisError(f"The network {reason}. Choose a residual network with labels.")
    if len(targets) != len(images):
        raise AnalysisError(f"There are {len(images)} images and {len(targets)} targets. Give each image one target.")
    classes = model.config.num_classes
    if samples < 1 or bool(((targets < 0) | (targets >= classes)).any()):
        raise AnalysisError(f"samples has to be at least 1, and each target an index from 0 to {classes - 1}.")
    count, generator = len(list_blocks(model)), np.random.default_rng(seed)
    norms = np.zeros(count + 1)
    with torch.inference_mode(False), evaluation_mode(model), torch.enable_grad():
        steps, gradient = _run_forward(model, images, targets)
        for length in range(count + 1):
            number = 1 if length in (0, count) else samples  # there is one path without, and one with all blocks
            for _ in range(number):
                chosen = set(generator.permutation(count)[:length].tolist())
                norms[length] += _compute_path_norm(steps, gradient, chosen) / number
    weighted = path_lengths(model) * norms
    if not 0 < weighted.sum() < np.inf:
        reason = "no gradient" if weighted.sum() == 0 else "no finite gradient"
        raise AnalysisError(f"The loss has {reason} here, so that no path carries a share. Use other images.")
    return PathGradients(norms, weighted / weighted.sum())


class _Step(NamedTuple):
    """A block's residual and shortcut, each with the input that it was computed from, and where the sum is above 0."""

    residual: Tensor
    residual_input: Tensor
    shortcut: Tensor
    shortcut_input: Tensor
    is_on: Tensor


def _run_forward(model: ResNet, images: Tensor, targets: Tensor) -> tuple[list[_Step], Tensor]:
    """Run the model once, block by block, so that each path only has to go backward through its own blocks.

    Returns:
        The blocks, and the gradient of the loss at the last one's output.
    """
    with torch.no_grad():
        x = model.forward_stem(to_inputs(model, images))
    steps = []
    for block in list_blocks(model).values():
        inputs = [x.detach().clone().requires_grad_() for _ in range(2)]
        residual, shortcut = block.forward_residual(inputs[0]), block.downsample(inputs[1])
        x = (residual + shortcut).detach().relu()
        steps.append(_Step(residual, inputs[0], shortcut, inputs[1], x > 0))
    last = x.requires_grad_()
    loss = F.cross_entropy(forward_head(model, last).float(), targets.to(model.device))
    (gradient,) = torch.autograd.grad(loss, last)
    return steps, gradient


def _compute_path_norm(steps: list[_Step], gradient: Tensor, residuals: set[int]) -> float:
    """Compute the norm of the loss's gradient at the first block's input through one path."""
    for index, step in reversed([*enumerate(steps)]):
        output, start = (
            (step.residual, step.residual_input) if index in residuals else (step.shortcut, step.shortcut_input)
        )
        (gradient,) = torch.autograd.grad(output, start, gradient * step.is_on, retain_graph=True)
    return float(gradient.float().norm())
