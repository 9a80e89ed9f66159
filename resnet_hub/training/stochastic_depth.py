"""Stochastic depth (https://arxiv.org/abs/1603.09382): images skip random blocks while a network is trained."""

from typing import Any

from torch import Tensor, nn

from resnet_hub.model import BasicBlock, Bottleneck, ResNet


def add_stochastic_depth(model: ResNet, rate: float) -> None:
    """Makes the blocks of a model skip their residual in training mode, and scale it up for the other images.

    The probability rises linearly over the blocks, up to `rate` in the last. Nothing is added to the state of the
    model, and nothing happens in evaluation mode. The random numbers are those of PyTorch's default generator.
    """
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    for number, block in enumerate(blocks, 1):
        last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        last.register_forward_hook(_SkipResidual(block, rate * number / len(blocks)))


class _SkipResidual:
    def __init__(self, block: nn.Module, rate: float):
        self.block, self.rate = block, rate

    def __call__(self, module: nn.Module, inputs: Any, residual: Tensor) -> Tensor:
        from torchvision.ops import stochastic_depth

        skipped: Tensor = stochastic_depth(residual, self.rate, "row", training=self.block.training)
        return skipped
