"""The effect of each block of a model on an image: its strongest feature maps, and how much it changes its input."""

from typing import NamedTuple

import torch
from torch import Tensor

from resnet_hub.analysis.blocks import BlockNames, forward_shortcut, iterate_inference, select_blocks
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet


class FeatureMaps(NamedTuple):
    """The channels of a block's output with the highest mean, the strongest first."""

    channels: Tensor  # int64 (N, k): indices of the channels
    strengths: Tensor  # float32 (N, k): mean of each channel over the pixels
    values: Tensor  # float32 (N, k, h, w), on the CPU, not negative


def feature_maps(
    model: ResNet, images: Tensor, blocks: BlockNames | None = None, *, strongest: int = 8
) -> dict[str, FeatureMaps]:
    """Compute the strongest feature maps of blocks for images; the model does not change.

    Args:
        model: A model with or without a head, in any mode, dtype and device.
        images: Preprocessed images (N, in_channels, H, W).
        blocks: Names such as "layer2.0" or positions from 0 over the whole network; by default all blocks.
        strongest: Channels for each image; a block with fewer gives all.

    Returns:
        The feature maps by the name of the block, in the order of the network.

    Raises:
        AnalysisError: The model has no such block, or the images do not fit it.
    """
    if strongest < 1:
        raise AnalysisError(f"strongest is {strongest}; expected at least 1.")
    names = None if blocks is None else select_blocks(model, blocks)
    result = {}
    for name, block, x in iterate_inference(model, images):
        if names is None or name in names:
            output = block(x).float().cpu()
            strengths, channels = output.mean((2, 3)).topk(min(strongest, output.shape[1]), dim=1)
            outputs = output.gather(1, channels[:, :, None, None].expand(-1, -1, *output.shape[2:]))
            result[name] = FeatureMaps(channels, strengths, outputs)
    return result


def residual_ratios(model: ResNet, images: Tensor) -> dict[str, float]:
    """Compute how much each block changes its input: the norm of F(x) over the norm of the shortcut.

    Equation 1 of He et al., y = F(x) + x; their section 4.2 and figure 7 show that F(x) is small. A block of a plain
    network has no shortcut: there it is the norm of the output minus the input over the norm of the input, where the
    input is carried over as by shortcut A if the shape changes.

    Args:
        model: A model, which does not change.
        images: Preprocessed images (N, in_channels, H, W).

    Returns:
        For each block the mean over the images of the ratio of Euclidean norms.

    Raises:
        AnalysisError: The images do not fit the model.
    """
    ratios = {}
    for name, block, x in iterate_inference(model, images):
        if block.plain:
            carried = forward_shortcut(block, x)
            change = block(x) - carried
        else:
            carried, change = block.downsample(x), block.forward_residual(x)
        norms = [value.float().flatten(1).norm(dim=1) for value in (change, carried)]
        ratios[name] = float((norms[0] / norms[1].clamp_min(torch.finfo(torch.float32).eps)).mean())
    return ratios
