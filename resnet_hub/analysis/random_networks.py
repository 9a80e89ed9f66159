"""Fully connected rectifier networks at initialisation, with their derivative beside each activation.

The networks of Balduzzi et al. 2017 (https://arxiv.org/abs/1702.08591), sections 2 and 3: width N, weights drawn with
variance 2/N (He et al. 2015, https://arxiv.org/abs/1502.01852). With z = norm(x):

    plain:     x' = W relu(z)
    residual:  x' = x + beta W relu(z)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from resnet_hub.errors import AnalysisError

Kind = Literal["plain", "residual"]
Normalization = Literal["none", "center", "batch"]
Gates = Literal["rectifier", "independent"]

_MAX_WIDTH, _MAX_DEPTH = 4096, 10_000


@dataclass(frozen=True, kw_only=True)
class RandomNetwork:
    """A kind of random network.

    Raises:
        AnalysisError: A value is out of its range.
    """

    kind: Kind = "residual"
    depth: int = 50  # layers
    width: int = 128  # units of a layer
    normalization: Normalization = "batch"  # center subtracts each unit's mean over the inputs, batch also divides
    gates: Gates = "rectifier"  # independent: a fair coin for each unit and input, the assumption of the theorems
    beta: float = 1.0  # factor of the residual

    def __post_init__(self) -> None:
        for name, choices in (("kind", Kind), ("normalization", Normalization), ("gates", Gates)):
            if getattr(self, name) not in get_args(choices):
                options = ", ".join(get_args(choices))
                raise AnalysisError(f"{name} is {getattr(self, name)!r}; choose one of {options}.")
        limits = {"depth": (1, _MAX_DEPTH), "width": (2, _MAX_WIDTH), "beta": (0, 100)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise AnalysisError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")


def propagate(
    network: RandomNetwork, x: Tensor, tangents: Tensor, generator: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield activations and derivatives after each layer of a newly drawn network.

    The statistics of a normalization are constants, as in evaluation mode: each output is a function of its own input.
    A positive factor common to all inputs is divided out after each layer where the network is homogeneous, since
    activations or derivatives would overflow in deep networks; so compare derivatives within a layer only.

    Args:
        network: The kind of network.
        x: Activations (n, width) that the first layer takes.
        tangents: Their derivatives (n, m, width) with respect to m coordinates of the input.
        generator: Of weights and gates.
    """
    n, width = x.shape
    for _ in range(network.depth):
        weights = torch.randn(width, width, generator=generator) * math.sqrt(2 / width)
        z, factor = x, torch.ones(width)
        if network.normalization != "none":
            z = z - z.mean(0)
        if network.normalization == "batch":
            factor = 1 / z.std(0, unbiased=False).clamp_min(1e-12)
            z = z * factor
        is_on = z > 0
        if network.gates == "independent":
            is_on = torch.rand(n, width, generator=generator) < 0.5
        branch = (z * is_on) @ weights.T
        branch_tangents = ((is_on * factor).unsqueeze(1) * tangents) @ weights.T
        if network.kind == "plain":
            x, tangents = branch, branch_tangents
        else:
            x, tangents = x + network.beta * branch, tangents + network.beta * branch_tangents
        tangents = tangents / _rms(tangents)
        if network.normalization != "batch":
            x = x / _rms(x)
        yield x, tangents


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt().clamp_min(1e-30)
