"""A plain and a residual stack learn the identity, or a function near it.

He et al. 2015 (https://arxiv.org/abs/1512.03385), sections 1 and 3.1: added layers could be identities, so that a
deeper network should be no worse; yet a solver finds it hard to fit the identity by several nonlinear layers. A
residual block only has to drive its weights to zero.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from resnet_hub.errors import AnalysisError

Target = Literal["identity", "near"]
PLAIN, RESIDUAL = "plain", "residual"
_PERTURBATION = 0.1  # norm of the target's change of its input, relative to the input


class IdentityStep(NamedTuple):
    """The losses after one step of both stacks: mean square error over the variance of the target."""

    step: int
    losses: dict[str, float]  # keys "plain" and "residual"


class _Block(nn.Module):
    """Two layers with BatchNorm, as in figure 2 of the paper, but fully connected."""

    def __init__(self, width: int, *, has_shortcut: bool):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        self.fc2, self.bn2 = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        self.has_shortcut = has_shortcut
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.fc2(self.bn1(self.fc1(x)).relu()))
        return (residual + x if self.has_shortcut else residual).relu()


def learn_identity(
    blocks: int = 5,
    *,
    target: Target = "identity",
    width: int = 32,
    steps: int = 500,
    batch_size: int = 128,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> Iterator[IdentityStep]:
    """Train a plain and a residual stack of blocks, with equal initial weights; yield the losses after each step.

    The inputs are absolute values of normal numbers, new ones in each step: not negative, as behind a ReLU, so that a
    plain stack can represent the identity exactly too.

    Args:
        blocks: Blocks of two layers.
        target: "identity", or "near": the relu of the input plus a fixed random linear map of a tenth of its size.
        width: Dimension of inputs, layers and outputs.
        steps: Steps of Adam.
        batch_size: Inputs of a step.
        learning_rate: Of Adam.
        seed: Of weights and inputs.

    Raises:
        AnalysisError: A value is out of its range.
    """
    if target not in get_args(Target):
        raise AnalysisError(f"target is {target!r}; choose one of {', '.join(get_args(Target))}.")
    if blocks < 1 or width < 1 or steps < 1 or batch_size < 2:
        raise AnalysisError("blocks, width and steps must be at least 1, batch_size at least 2.")
    generator = Generator().manual_seed(seed)
    change = torch.randn(width, width, generator=generator) * _PERTURBATION / width**0.5
    stacks = {}
    with torch.random.fork_rng(devices=[]):
        for name in (PLAIN, RESIDUAL):
            torch.manual_seed(seed)
            stacks[name] = nn.Sequential(*(_Block(width, has_shortcut=name == RESIDUAL) for _ in range(blocks)))
    optimizers = {name: torch.optim.Adam(stack.parameters(), learning_rate) for name, stack in stacks.items()}
    for step in range(1, steps + 1):
        x = torch.randn(batch_size, width, generator=generator).abs()
        wanted = x if target == "identity" else (x + x @ change).relu()
        losses = {}
        for name, stack in stacks.items():
            loss = F.mse_loss(stack(x), wanted) / wanted.var()
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            losses[name] = float(loss.detach())
        yield IdentityStep(step, losses)
