"""Convert state dicts of torchvision, timm and the CIFAR repositories to a config and weights of this package.

The network is inferred from the shapes of the tensors. What shapes do not determine is assumed, and each assumption is
reported."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resnet_hub.config import CUSTOM, ResNetConfig, label_table
from resnet_hub.convert.weights_file import MAX_LISTED_KEYS, StateDict, unwrap_state_dict
from resnet_hub.errors import CheckpointError, ConfigError, list_untrusted

if TYPE_CHECKING:
    from torch import Tensor


Library = Literal["torchvision", "timm", "cifar"]  # that a state dict comes from; cifar: the repositories for CIFAR-10

_DOWNSAMPLE = re.compile(r"layer([1-4])\.([0-9]{1,4})\.downsample\.")
_COUNTER = ".num_batches_tracked"  # missing in old files, and never read in inference
_HALVED = "stride 2, then max-pool"
_STEMS = {"torchvision": _HALVED, "timm": _HALVED, "cifar": "full size, no max-pool assumed"}

# https://github.com/akamaster/pytorch_resnet_cifar10 (A) normalizes as for ImageNet; with projections (B),
# https://github.com/kuangliu/pytorch-cifar and https://github.com/chenyaofo/pytorch-cifar-models by CIFAR-10's own.
_IMAGENET = {"mean": ResNetConfig.mean, "std": ResNetConfig.std}
_CIFAR_PROJECTED = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


# Parts of the keys of a network whose weights are computed from other tensors -> its state, and how to undo it
_REPARAMETRIZED = (
    ((".weight_orig", ".weight_mask", ".bias_orig", ".bias_mask"), "pruned", "torch.nn.utils.prune.remove"),
    ((".parametrizations.",), "parametrized", "torch.nn.utils.parametrize.remove_parametrizations"),
    ((".weight_g", ".weight_v"), "weight-normalized", "torch.nn.utils.remove_weight_norm"),
)


class ConvertedCheckpoint(NamedTuple):
    """A converted state dict."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # our keys, float32, complete
    notes: list[tuple[str, str]]  # topic and sentence: what was inferred and why, what was assumed


def convert_state_dict(
    content: Any,
    source: str | Path,
    *,
    library: Library | None = None,
    architecture: str | None = None,
    shortcut: Literal["A", "none"] | None = None,
    stride_in_1x1: bool = False,
    labels: list[str] | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    choice: str | None = None,
    ignore: bool = False,
) -> ConvertedCheckpoint:
    """Infer the network of a state dict, and rename its tensors.

    Args:
        content: The result of `read_state_dict`.
        source: Its name in messages.
        library: The library that the state dict is expected to come from.
        architecture: The architecture that is expected.
        shortcut: The type of the shortcuts, for a network without weights in its shortcuts.
        stride_in_1x1: Whether the first 1x1 convolution of a bottleneck has the stride (V1).
        labels: The labels, in the order of the head's outputs.
        image_size: Both sides of the input, in pixels.
        mean: Of each channel, for pixels in 0..1.
        std: Of each channel.
        choice: "ema" or "raw" for averaged or raw weights, or the name of a network in the file; by default averaged
            weights are preferred.
        ignore: Leave out tensors that do not belong to the network, such as those of a metric-learning head.

    Raises:
        CheckpointError: A key is missing, unexpected or misshapen, a value is NaN or infinite, two networks fit, there
            are other tensors, or an argument contradicts the file.
    """
    state_dict = unwrap_state_dict(content, source, choice=choice, ignore=ignore)
    shapes, notes = state_dict.shapes, state_dict.notes
    if state := describe_reparametrization(shapes):
        raise CheckpointError(f"{source} holds a network that is {state} before you save it.")
    depths = _infer_depths(shapes)
    inferred_library, fields = _infer_stem(shapes)
    if not inferred_library or not depths:
        shape = shapes.get("conv1.weight")
        stem = f"conv1.weight of {_format_shape(shape)}" if shape else "no conv1.weight"
        raise CheckpointError(
            f"{source} is not a ResNet of torchvision, timm or the CIFAR repositories: it has {stem} and "
            f"{len(depths)} stages layer1, layer2, ...; its keys are "
            f"{list_untrusted([*(shapes or content)], MAX_LISTED_KEYS) or 'none'}."
        )
    if library not in (None, inferred_library):
        raise CheckpointError(f"{source} has a {fields['stem']} stem, as in {inferred_library}, not in {library}.")

    fields |= {"depths": depths, "stride_in_1x1": stride_in_1x1}
    conv1 = "of three 3x3" if fields["stem"] == "deep" else fields["stem"]
    notes.append(("library", f"{inferred_library}, since conv1 is {conv1}: {_STEMS[inferred_library]}"))
    if fields["stem"] != "3x3":
        notes.append(
            ("stages", "no dilation and no blur-pool assumed: the weights of networks with them look the same")
        )
    fields |= _infer_blocks(state_dict, fields)
    fields["shortcut"] = _infer_shortcut(state_dict, fields, shortcut)
    if fields["block"] == "bottleneck":
        version = "V1 (first 1x1), as requested" if stride_in_1x1 else "V1.5 (3x3) assumed; --stride-in-1x1 is for V1"
        notes.append(("stride", f"{version}: the weights have the same shapes"))

    classes = _count_classes(state_dict, source, labels)
    requested = {"image_size": image_size, "mean": mean, "std": std}
    fields |= _choose_preprocessing(state_dict, fields, requested)
    try:
        config = ResNetConfig(id2label=label_table(labels, classes), **fields)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    if architecture not in (None, config.architecture):
        raise CheckpointError(f"{source} holds {_describe_network(config)}, not {architecture}.")
    notes.append(("network", f"{_describe_network(config)}, {config.num_parameters:,} parameters"))
    return ConvertedCheckpoint(config, _convert_tensors(state_dict, config), notes)


def _count_classes(state_dict: StateDict, source: str | Path, labels: list[str] | None) -> int:
    """The outputs of the head, 0 without one."""
    head = state_dict.shapes.get("fc.weight", ())
    classes = head[0] if len(head) == 2 else 0
    if labels is not None and len(labels) != classes:
        raise CheckpointError(f"There are {len(labels)} labels, but the head of {source} has {classes} outputs.")
    description = f"{classes} classes, since fc is {_format_shape(head)}" if head else "none: it has no fc"
    state_dict.notes.append(("head", description))
    if classes:
        named = "as requested" if labels else "numbered; to name them: --labels or --labels-from"
        state_dict.notes.append(("labels", named))
    return classes


def _infer_depths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The number of blocks of each stage, up to the first stage without blocks."""
    depths = [0] * 4
    for key in shapes:
        if match := re.match(r"layer([1-4])\.([0-9]{1,4})\.", key):
            depths[int(match[1]) - 1] = max(depths[int(match[1]) - 1], int(match[2]) + 1)
    return tuple(depths[: depths.index(0)] if 0 in depths else depths)


def _infer_stem(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Library | None, dict[str, Any]]:
    """The library that has such a stem, and the config fields of the stem."""
    match shapes.get("conv1.weight"), shapes.get("conv1.0.weight"), shapes.get("layer1.0.conv1.weight"):
        case (width, in_channels, 3 | 7 as kernel, side), _, _ if kernel == side and width:
            fields = {"stem": f"{kernel}x{kernel}", "width": width, "in_channels": in_channels}
            return "torchvision" if kernel == 7 else "cifar", fields
        case None, (first, in_channels, 3, 3), (planes, *_) if planes:
            second, last = (shapes.get(f"conv1.{index}.weight", (0,))[:1] for index in (3, 6))
            width = shapes["layer1.0.conv3.weight"][0] // 4 if "layer1.0.conv3.weight" in shapes else planes
            channels = (first, *second, *last)
            return "timm", {"stem": "deep", "stem_channels": channels, "width": width, "in_channels": in_channels}
    return None, {}


def _infer_blocks(state_dict: StateDict, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields of the blocks: type, groups and their width."""
    shapes, depths = state_dict.shapes, fields["depths"]
    counts = f"{' + '.join(map(str, depths))} of them"
    if "layer1.0.conv3.weight" not in shapes:
        state_dict.notes.append(("block", f"basic, since layer1.0 has no conv3; {counts}"))
        return {"block": "basic"}
    blocks: dict[str, Any] = {"block": "bottleneck"}
    match shapes.get(f"layer{len(depths)}.0.conv2.weight"):
        case (outputs, channels, *_) if channels:
            # The last stage determines the group width best: at small widths those of earlier stages are rounded down.
            planes = fields["width"] * 2 ** (len(depths) - 1)
            blocks |= {"groups": outputs // channels, "group_width": math.ceil(channels * 64 / planes)}
    state_dict.notes.append(("block", f"bottleneck, since layer1.0 has a conv3; {counts}"))
    if blocks.get("groups", 1) != 1 or blocks.get("group_width", 64) != 64:
        note = f"{blocks['groups']} of width {blocks['group_width']}, by the shape of conv2"
        state_dict.notes.append(("groups", note))
    return blocks


def _infer_shortcut(state_dict: StateDict, fields: Mapping[str, Any], requested: str | None) -> str:
    """The type of the shortcuts, from the blocks that have weights in theirs."""
    shapes, source, notes = state_dict.shapes, state_dict.source, state_dict.notes
    projections = {(int(match[1]) - 1, int(match[2])) for key in shapes if (match := _DOWNSAMPLE.match(key))}
    if projections:
        if requested:
            raise CheckpointError(
                f"{source} has weights in its shortcuts (downsample). Leave --shortcut {requested} out."
            )
        all_blocks = {(stage, index) for stage, depth in enumerate(fields["depths"]) for index in range(depth)}
        expected = {
            "B": {(stage, 0) for stage, _ in all_blocks if stage or fields["block"] == "bottleneck"},
            "C": all_blocks,
        }
        shortcut = min(expected, key=lambda letter: len(projections ^ expected[letter]))
        stage, index = min(projections)
        if len(shapes.get(f"layer{stage + 1}.{index}.downsample.1.weight", ())) == 4:
            shortcut = "D"
        blocks = {"B": "where the shape changes", "C": "in every block", "D": "after an average pool"}[shortcut]
        notes.append(("shortcut", f"{shortcut} (projection), since there is a downsample {blocks}"))
        return shortcut
    if not requested and fields["stem"] != "3x3":
        raise CheckpointError(
            f"{source} has no weights in its shortcuts (downsample): they are zero-padded, or it is a plain network "
            "without shortcuts. Choose with --shortcut A or --shortcut none."
        )
    assumption = "A (zero padding) assumed: no block has a downsample; for a plain network: --shortcut none"
    notes.append(("shortcut", f"{requested}, as requested: no block has a downsample" if requested else assumption))
    return requested or "A"


def _choose_preprocessing(
    state_dict: StateDict, fields: Mapping[str, Any], requested: Mapping[str, Any]
) -> dict[str, Any]:
    """The config fields of the preprocessing: the requested ones, and assumptions by the network for the others."""
    overrides = {key: value for key, value in requested.items() if value is not None}
    channels = fields["in_channels"]
    if channels != 3 and not {"mean", "std"} <= overrides.keys():
        raise CheckpointError(
            f"{state_dict.source} has {channels} input channels. Set --mean and --std with one value for each."
        )
    values: dict[str, Any] = dict(_IMAGENET)
    if fields["stem"] == "3x3":
        values |= {"image_size": 32, "crop_pct": 1.0} | (_CIFAR_PROJECTED if fields["shortcut"] in ("B", "C") else {})
    values |= overrides
    options = " ".join(f"--{key.replace('_', '-')}" for key in requested if key not in overrides)
    statistics = "; ".join(f"{key} {','.join(f'{value:g}' for value in values[key])}" for key in _IMAGENET)
    assumed = f" (assumed; to change: {options})" if options else ""
    side = values.get("image_size", ResNetConfig.image_size)
    state_dict.notes.append(("preprocessing", f"{side} pixels; {statistics}{assumed}"))
    return values


def list_expected_shapes(config: ResNetConfig) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of the network, in the order of its state dict."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in config.convolutions():
        shapes[f"{layer.name}.weight"] = (layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel)
        shapes |= {f"{layer.norm}.{key}": (layer.outputs,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{layer.norm}{_COUNTER}"] = ()
    if config.num_classes:
        shapes |= {"fc.weight": (config.num_classes, config.num_features), "fc.bias": (config.num_classes,)}
    return shapes


def describe_mismatch(expected: Mapping[str, Sequence[int]], tensors: "Mapping[str, Tensor]") -> str:
    """Compare tensors with the expected shapes.

    Returns:
        The keys that are missing, unexpected, misshapen or of an unsupported type, as text for a message; empty if all
        tensors fit. BatchNorm's counters may be missing.
    """
    unsupported = [key for key in expected if key in tensors and not _is_supported(key, tensors[key])]
    return describe_shape_mismatch(expected, {key: tensor.shape for key, tensor in tensors.items()}, unsupported)


def describe_shape_mismatch(
    expected: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]], unsupported: Sequence[str] = ()
) -> str:
    """As `describe_mismatch`, from shapes alone and the keys of an unsupported type. Imports no torch."""
    problems = {
        "missing": [key for key in expected if key not in shapes and not key.endswith(_COUNTER)],
        "unexpected": [key for key in shapes if key not in expected],
        "misshapen": [
            f"{key} ({_format_shape(shapes[key])} for {_format_shape(shape)})"
            for key, shape in expected.items()
            if key in shapes and tuple(shapes[key]) != tuple(shape)
        ],
        "of an unsupported type": unsupported,
    }
    lists = [f"{len(keys)} {name}: {list_untrusted(keys, MAX_LISTED_KEYS)}" for name, keys in problems.items() if keys]
    return "; ".join(lists)


def fill_counters(expected: Mapping[str, Sequence[int]], tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors in the expected order, with int64 zeros for the counters of BatchNorm that are missing."""
    import torch

    zero = torch.zeros((), dtype=torch.long)
    return {
        key: tensors.get(key, zero).to(torch.long, copy=True) if key.endswith(_COUNTER) else tensors[key]
        for key in expected
    }


def _convert_tensors(state_dict: StateDict, config: ResNetConfig) -> "dict[str, Tensor]":
    """The tensors as float32, complete and in order; raises `CheckpointError` that names the keys that do not fit."""
    import torch

    tensors, notes = state_dict.tensors, state_dict.notes
    expected = list_expected_shapes(config)
    if mismatch := describe_mismatch(expected, tensors):
        network = _describe_network(config)
        raise CheckpointError(f"{state_dict.source} looks like {network}, but does not match it: {mismatch}.")
    if missing := len(expected.keys() - tensors.keys()):
        notes.append(("added", f"{missing} {_COUNTER[1:]}, which nothing reads after training"))
    dtypes = {str(tensor.dtype).removeprefix("torch.") for key, tensor in tensors.items() if not key.endswith(_COUNTER)}
    if other_dtypes := sorted(dtypes - {"float32"}):
        notes.append(("dtype", f"{', '.join(other_dtypes)} in the file, converted to float32"))
    converted = {
        key: tensor.detach().to(
            tensor.dtype if key.endswith(_COUNTER) else torch.float32,
            copy=True,  # tensors of one file may share memory
            memory_format=torch.contiguous_format,
        )
        for key, tensor in fill_counters(expected, tensors).items()
    }
    if problem := describe_bad_values(converted):
        raise CheckpointError(f"{state_dict.source} has {problem}. Such a network has no use; convert another state.")
    return converted


def describe_reparametrization(keys: Iterable[str]) -> str:
    """That weights are computed from other tensors and what undoes it, as text for a message; empty if they are not."""
    for fragments, state, remedy in _REPARAMETRIZED:
        if computed := [key for key in keys if any(fragment in key for fragment in fragments)]:
            return f"{state} ({list_untrusted(computed, MAX_LISTED_KEYS)}). Call {remedy}"
    return ""


def describe_bad_values(tensors: "Mapping[str, Tensor]") -> str:
    """The tensors with NaN, infinite values or negative variances, as text for a message; empty if there are none."""
    floats = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    problems = {
        "NaN": [key for key, tensor in floats.items() if bool(tensor.isnan().any())],
        "infinite values": [key for key, tensor in floats.items() if bool(tensor.isinf().any())],
        "negative variances": [
            key for key, tensor in floats.items() if key.endswith(".running_var") and bool((tensor < 0).any())
        ],
    }
    return "; ".join(f"{name} in {list_untrusted(keys, MAX_LISTED_KEYS)}" for name, keys in problems.items() if keys)


def _is_supported(key: str, tensor: "Tensor") -> bool:
    """Whether a tensor holds plain values: floating-point numbers, or for a counter whole ones too."""
    import torch

    strided = tensor.layout == torch.strided and tensor.device.type != "meta" and not tensor.is_quantized
    return strided and (tensor.is_floating_point() or key.endswith(_COUNTER)) and not tensor.is_complex()


def _describe_network(config: ResNetConfig) -> str:
    name = "a ResNet without a name" if config.architecture == CUSTOM else config.architecture
    blocks = " + ".join(map(str, config.depths))
    return f"{name} ({blocks} {config.block} blocks from width {config.width}, shortcut {config.shortcut})"


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
