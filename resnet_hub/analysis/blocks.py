"""The blocks of a model by name, and what a block is without its residual."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor

from resnet_hub.errors import AnalysisError, list_some
from resnet_hub.model import BasicBlock, Bottleneck, ResNet, shortcut

Block: TypeAlias = BasicBlock | Bottleneck
BlockNames: TypeAlias = str | int | Iterable[str | int]


def list_blocks(model: ResNet) -> dict[str, Block]:
    """List the blocks of a model in order, by their names in the state dict: layer1.0, layer1.1, ..."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Block)}


def select_blocks(model: ResNet, blocks: BlockNames) -> dict[str, Block]:
    """Select blocks of a model.

    Args:
        model: The model.
        blocks: Names such as "layer2.0", or positions from 0 over the whole network; one or several.

    Raises:
        AnalysisError: The model has no such block.
    """
    all_blocks = list_blocks(model)
    names = list(all_blocks)
    selected = {}
    for block in blocks if isinstance(blocks, Iterable) and not isinstance(blocks, str) else [blocks]:
        name = names[block] if isinstance(block, Integral) and 0 <= block < len(names) else block
        if not isinstance(name, str) or name not in all_blocks:
            raise AnalysisError(f"The model has no block {block!r}. Its {len(names)} blocks are {list_some(names)}.")
        selected[name] = all_blocks[name]
    return selected


def forward_shortcut(block: Block, x: Tensor) -> Tensor:
    """Compute a block whose residual is zero: relu of its shortcut.

    A block of a plain network has no shortcut. Then it is the identity or, if the block changes the shape, shortcut A
    of He et al. section 3.3: every second pixel, and zeros for new channels.
    """
    out: Tensor
    if block.plain:
        last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
        stride = block.conv1.stride[0] * block.conv2.stride[0]
        out = shortcut("A", block.conv1.in_channels, last.out_channels, stride)(x)
    else:
        out = block.downsample(x).relu()
    return out


def changes_shape(block: Block) -> bool:
    """Whether the output of a block has another shape than its input."""
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    return block.conv1.in_channels != last.out_channels or block.conv1.stride[0] * block.conv2.stride[0] != 1


def forward_head(model: ResNet, x: Tensor) -> Tensor:
    """Compute the logits (N, num_classes) from the last block's output."""
    logits: Tensor = model.fc(model.avgpool(x).flatten(1))
    return logits


def to_inputs(model: ResNet, images: Tensor) -> Tensor:
    """Move preprocessed images (N, C, H, W) to the device and dtype of a model.

    Raises:
        AnalysisError: The shape is another one, or the model takes other channels.
    """
    channels = model.config.in_channels
    if images.ndim != 4 or images.shape[1] != channels or not len(images):
        raise AnalysisError(f"The images have shape {tuple(images.shape)}; the model takes (N, {channels}, H, W).")
    return images.to(model.device, model.dtype)


@contextmanager
def evaluation_mode(model: ResNet) -> Iterator[None]:
    """Switch a model to evaluation mode in the block, so that BatchNorm statistics do not change, and back."""
    modes = [(module, module.training) for module in model.modules()]
    if any(training for _, training in modes):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


def iterate_inference(model: ResNet, images: Tensor) -> Iterator[tuple[str, Block, Tensor]]:
    """Yield the name and the input of each block for preprocessed images, without gradients."""
    with torch.no_grad(), evaluation_mode(model):  # not inference mode: callers may go on with the tensors
        x = model.forward_stem(to_inputs(model, images))
        for name, block in list_blocks(model).items():
            yield name, block, x
            x = block(x)
