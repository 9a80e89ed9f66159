"""The modules of a network: shapes, parameters, multiply-adds, and where the paper describes them. Imports no torch.

Sections, equations, figures and tables without an address are those of He et al. 2015
(https://arxiv.org/abs/1512.03385).
"""

import math
from dataclasses import dataclass
from typing import Any

from resnet_hub.config import Convolution, ResNetConfig

# By the kind of a block's shortcut: its name, the block's output, and the section of the paper.
_SHORTCUTS = {
    "identity": ("identity", "y = relu(F(x) + x)", "section 3.2, equation 1"),
    "A": ("zero padding (A)", "y = relu(F(x) + pad(x))", "section 3.3, option A"),
    "B": ("projection (B)", "y = relu(F(x) + W_s x)", "section 3.3, option B; equation 2"),
    "C": ("projection (C)", "y = relu(F(x) + W_s x)", "section 4.1, option C; equation 2"),
    "D": ("pooled projection (D)", "y = relu(F(x) + W_s pool(x))", "https://arxiv.org/abs/1812.01187, section 4.2"),
    "none": ("none", "y = relu(F(x))", "section 3.3, plain network; figure 3, middle"),
}
_RESIDUALS = {
    "basic": "F(x) = BN(W_2 relu(BN(W_1 x)))",
    "bottleneck": "F(x) = BN(W_3 relu(BN(W_2 relu(BN(W_1 x)))))",
}

_GROUP_WIDTH = 64  # `group_width` of He et al.'s bottlenecks


@dataclass(frozen=True, kw_only=True)
class ModuleSummary:
    """The stem, a block, or the head of a network. Shapes are (channels, height, width) for one image."""

    name: str  # in the state dict: layer1.0; "stem" and "head" for the others
    kind: str  # stem, basic, bottleneck or head
    stage: int  # from 1; 0: the stem, and one more than the last stage: the head
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, ...]
    stride: int
    convolutions: tuple[str, ...]  # such as "3x3, 64"
    shortcut: str  # its name; empty for stem and head
    num_parameters: int
    multiply_adds: int
    equation: str
    source: str  # section of the paper

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def describe_anatomy(config: ResNetConfig) -> tuple[ModuleSummary, ...]:
    """Describe stem, blocks and head of a network, in order.

    The sums of `num_parameters` and `multiply_adds` over the modules are those of the config.

    Args:
        config: The network.

    Returns:
        A summary of each module.
    """
    groups: dict[str, list[Convolution]] = {}
    for convolution in config.convolutions():
        name = ".".join(convolution.name.split(".")[:2]) if convolution.name.startswith("layer") else "stem"
        groups.setdefault(name, []).append(convolution)
    modules = [_describe_stem(config, groups.pop("stem"))]
    for name, convolutions in groups.items():
        channels, size, _ = modules[-1].output_shape
        modules.append(_describe_block(config, name, convolutions, (channels, size, size)))
    channels, size, _ = modules[-1].output_shape
    weights = config.num_features * config.num_classes
    head = ModuleSummary(
        name="head",
        kind="head",
        stage=len(config.depths) + 1,
        input_shape=(channels, size, size),
        output_shape=(config.num_classes or channels,),
        stride=size,
        convolutions=(),
        shortcut="",
        num_parameters=weights + config.num_classes,
        multiply_adds=weights,
        equation="y = W mean(x) + b" if config.num_classes else "y = mean(x)",
        source="table 1, last row" if config.stem != "3x3" else "section 4.2",
    )
    return (*modules, head)


def _describe_stem(config: ResNetConfig, convolutions: list[Convolution]) -> ModuleSummary:
    size, has_pool = convolutions[-1].size, config.stem != "3x3"
    deep = config.stem == "deep"
    return ModuleSummary(
        name="stem",
        kind="stem",
        stage=0,
        input_shape=(config.in_channels, config.image_size, config.image_size),
        output_shape=(convolutions[-1].outputs, *[math.ceil(size / 2) if has_pool else size] * 2),
        stride=4 if has_pool else 1,
        convolutions=_name_convolutions(convolutions),
        shortcut="",
        num_parameters=_count_parameters(convolutions),
        multiply_adds=_count_multiply_adds(convolutions),
        equation=f"y = {'maxpool(' if has_pool else ''}relu(BN({'...' if deep else 'W x'})){')' if has_pool else ''}",
        source="https://arxiv.org/abs/1812.01187, section 4.2" if deep else "table 1" if has_pool else "section 4.2",
    )


def _describe_block(
    config: ResNetConfig, name: str, convolutions: list[Convolution], input_shape: tuple[int, int, int]
) -> ModuleSummary:
    body = [convolution for convolution in convolutions if ".downsample." not in convolution.name]
    outputs, size = body[-1].outputs, body[-1].size
    stage, index = int(name[len("layer") : name.index(".")]), int(name.split(".")[1])
    stride = config.stage_strides[stage - 1] if index == 0 else 1
    keeps_shape = stride == 1 and input_shape[0] == outputs
    kind = "identity" if keeps_shape and config.shortcut not in ("C", "none") else config.shortcut
    shortcut, equation, source = _SHORTCUTS[kind]
    if config.shortcut != "none":  # figure 5 draws a shortcut
        source += "; figure 5, left" if config.block == "basic" else "; figure 5, right"
    if config.groups > 1:
        source += "; grouped as in https://arxiv.org/abs/1611.05431, figure 3c"
    elif config.block == "bottleneck" and config.group_width > _GROUP_WIDTH:
        source += "; wider as in https://arxiv.org/abs/1605.07146, section 2"
    return ModuleSummary(
        name=name,
        kind=config.block,
        stage=stage,
        input_shape=input_shape,
        output_shape=(outputs, size, size),
        stride=stride,
        convolutions=_name_convolutions(body),
        shortcut=shortcut,
        num_parameters=_count_parameters(convolutions),
        multiply_adds=_count_multiply_adds(convolutions),
        equation=f"{equation}, {_RESIDUALS[config.block]}",
        source=source,
    )


def _name_convolutions(convolutions: list[Convolution]) -> tuple[str, ...]:
    return tuple(
        f"{conv.kernel}x{conv.kernel}, {conv.outputs}" + (f", {conv.groups} groups" if conv.groups > 1 else "")
        for conv in convolutions
    )


def _count_parameters(convolutions: list[Convolution]) -> int:
    return sum(convolution.weights + 2 * convolution.outputs for convolution in convolutions)


def _count_multiply_adds(convolutions: list[Convolution]) -> int:
    return sum(convolution.weights * convolution.size**2 for convolution in convolutions)
