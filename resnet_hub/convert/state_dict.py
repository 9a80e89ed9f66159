"""Convert state dicts of torchvision, timm and the CIFAR repositories to a config and weights of this package.

The network is inferred from the shapes of the tensors. What shapes do not determine is assumed, and each assumption is
reported. Pickles are read with torch's restricted unpickler (`weights_only=True`), which runs no code."""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resnet_hub.config import CUSTOM, ResNetConfig, label_table
from resnet_hub.convert.config_json import imagenet_labels
from resnet_hub.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


Layout = Literal["torchvision", "timm", "cifar"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which training scripts put the weights
_PREFIX = re.compile(r"(?:(?:module|_orig_mod|timm_model)\.)+")  # of DataParallel, torch.compile, transformers
_RENAMED = {"linear": "fc", "shortcut": "downsample"}  # as the CIFAR repositories call them
_TRANSFORMERS = re.compile(
    r"(?:resnet\.)?(?:embedder\.embedder|encoder\.stages\.(\d{1,4})\.layers\.(\d{1,4})\.(?:shortcut|layer\.(\d)))"
    r"\.(convolution|normalization)(\..+)"
)
_COUNTER = ".num_batches_tracked"  # missing in old files, and never read in inference
_SOME = 8  # keys that a message names
_HALVED = "stride 2, then max-pool"
_STEMS = {"torchvision": _HALVED, "timm": _HALVED, "cifar": "full size, no max-pool assumed"}
_IMAGENET = {"mean": ResNetConfig.mean, "std": ResNetConfig.std}

# https://github.com/akamaster/pytorch_resnet_cifar10 (A) normalises as for ImageNet; with projections (B),
# https://github.com/kuangliu/pytorch-cifar and https://github.com/chenyaofo/pytorch-cifar-models by CIFAR-10's own.
_CIFAR_PROJECTED = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
LABEL_SETS = ("cifar10", "cifar100", "imagenet")


class ConvertedCheckpoint(NamedTuple):
    """A converted state dict."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # our keys, float32, complete
    notes: list[tuple[str, str]]  # topic and sentence: what was inferred and why, what was assumed


def read_state_dict(path: str | Path) -> Any:
    """Read a weights file: `.safetensors`, else a pickle, without running its code.

    Raises:
        CheckpointError: The file is missing or damaged, or the pickle needs to run code.
    """
    path = Path(path).expanduser()
    try:
        path.open("rb").close()  # the parsers below word it in their own ways
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)

        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of old: what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # damaged or hostile bytes can fail anywhere in the parsers
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} is a pickle that asks to run {wanted[1]}; it was refused and nothing was run: "
                "ask its author for the state dict alone, best as safetensors."
            ) from None
        raise CheckpointError(
            f"{path} is damaged, or no file of weights that can be read safely; nothing of it was run: "
            "fetch it again, or ask its author for safetensors."
        ) from None


def convert_state_dict(
    content: Any,
    source: str | Path,
    *,
    layout: Layout | None = None,
    architecture: str | None = None,
    shortcut: Literal["A", "none"] | None = None,
    stride_in_1x1: bool = False,
    labels: list[str] | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConvertedCheckpoint:
    """Infer the network of a state dict, and rename its tensors.

    Args:
        content: The result of `read_state_dict`.
        source: Its name in messages.
        layout: The library whose layout is expected.
        architecture: The architecture that is expected.
        shortcut: The kind of shortcut, where none has weights.
        stride_in_1x1: Whether the first 1x1 convolution of a bottleneck has the stride (V1).
        labels: The labels, in the order of the head's outputs.
        image_size: Both sides of the input, in pixels.
        mean: Of each channel, for pixels in 0..1.
        std: Of each channel.

    Raises:
        CheckpointError: A key is missing, unexpected or misshapen, two networks fit, or an argument contradicts the
            file.
    """
    tensors, notes = _state_dict(content, source)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    depths = _depths(shapes)
    found, fields = _stem(shapes)
    if not found or not depths:
        shape = shapes.get("conv1.weight")
        stem = f"conv1.weight of {_size(shape)}" if shape else "no conv1.weight"
        raise CheckpointError(
            f"{source} is no ResNet as torchvision, timm or the CIFAR repositories lay it out: it has {stem} and "
            f"{len(depths)} stages layer1, layer2, ...; its keys are {_some(list(shapes)) or 'none'}."
        )
    stem, width = fields["stem"], fields["width"]
    if layout not in (None, found):
        raise CheckpointError(f"{source} has a {stem} stem, so its layout is {found}, not {layout}.")

    fields |= {"depths": depths, "stride_in_1x1": stride_in_1x1}
    conv1 = "of three 3x3" if stem == "deep" else stem
    notes.append(("layout", f"{found}, since conv1 is {conv1}: {_STEMS[found]}"))
    fields |= _block(shapes, depths, width, notes)
    fields["shortcut"] = _shortcut(shapes, depths, fields, shortcut, source, notes)
    if fields["block"] == "bottleneck":
        version = "V1 (first 1x1), as asked" if stride_in_1x1 else "V1.5 (3x3) assumed; --stride-in-1x1 is for V1"
        notes.append(("stride", f"{version}: the weights look the same"))

    head = shapes.get("fc.weight", ())
    classes = head[0] if len(head) == 2 else 0
    if labels is not None and len(labels) != classes:
        raise CheckpointError(f"{len(labels)} labels were given, but the head of {source} has {classes} outputs.")
    notes.append(("head", f"{classes} classes, since fc is {_size(head)}" if head else "none: it gives features"))
    if classes:
        given = "as given" if labels else "only numbered: name them with --labels or --labels-from"
        notes.append(("labels", given))

    fields |= _preprocessing(found, fields, image_size, mean, std, source, notes)
    try:
        config = ResNetConfig(id2label=label_table(labels, classes), **fields)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    if architecture not in (None, config.architecture):
        raise CheckpointError(f"{source} holds {_described(config)}, not {architecture}.")
    notes.append(("network", f"{_described(config)}, {config.num_parameters:,} parameters"))
    return ConvertedCheckpoint(config, _weights(tensors, config, source, notes), notes)


def canonical_key(key: str) -> str:
    """Our key for a tensor of transformers, the CIFAR repositories or a wrapper; other keys are returned unchanged."""
    key = _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key
    if found := _TRANSFORMERS.fullmatch(key):
        stage, block, number, kind, rest = found.groups()
        at = f"layer{int(stage) + 1}.{block}." if stage else ""
        if stage and number is None:
            return f"{at}downsample.{0 if kind == 'convolution' else 1}{rest}"
        return f"{at}{'conv' if kind == 'convolution' else 'bn'}{int(number or 0) + 1}{rest}"
    if key.startswith("classifier.1."):  # of transformers
        return "fc" + key.removeprefix("classifier.1")
    return ".".join(_RENAMED.get(part, part) for part in key.split("."))


def read_label_file(text: str) -> list[str]:
    """Labels from a file with one per line, or from a comma-separated list; raises `CheckpointError`."""
    path = Path(text).expanduser()
    try:
        if "," not in text or path.is_file():
            return [line.strip() for line in path.read_text("utf-8-sig").strip().splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CheckpointError(
            f"Labels {text[:80]} cannot be read ({reason}); name a text file with one a line, or list them: a,b,c."
        ) from None
    return [label.strip() for label in text.split(",")]


def known_label_set(name: str) -> list[str]:
    """The labels of one of `LABEL_SETS`, in the order of the published dataset."""
    return imagenet_labels() if name == "imagenet" else {"cifar10": _CIFAR10, "cifar100": _CIFAR100}[name].split()


def _state_dict(content: Any, source: str | Path) -> "tuple[dict[str, Tensor], list[tuple[str, str]]]":
    """The tensors under our keys, without wrappers, and notes on what was renamed and left out."""
    from torch import Tensor

    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds a {type(content).__name__}; expected a state dict: names with tensors.")
    notes = []
    left_out: list[Any] = []
    wrappers = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    if len(wrappers) > 1:
        raise CheckpointError(f"{source} holds several state dicts ({', '.join(wrappers)}); save one of them alone.")
    for wrapper in wrappers:
        notes.append(("wrapping", f"the weights are under {wrapper!r}"))
        left_out += [key for key in content if key != wrapper]
        content = content[wrapper]

    tensors: dict[str, Tensor] = {}
    renamed = set()
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            left_out.append(key)
            continue
        prefix = _PREFIX.match(key)
        parts = key[prefix.end() if prefix else 0 :].split(".")
        renamed |= {f"{prefix[0]} dropped"} if prefix else set()
        renamed |= {f"{part} is {_RENAMED[part]}" for part in parts if part in _RENAMED}
        name = canonical_key(key)
        renamed |= {"transformers' names are torchvision's"} if _TRANSFORMERS.search(key) else set()
        if name in tensors:
            raise CheckpointError(f"{source} has {_some([name])} twice, once under another name.")
        tensors[name] = value
    if renamed:
        notes.append(("names", _some(sorted(renamed))))
    if left_out:
        notes.append(("left out", f"{_some(left_out)}: no weights"))
    return tensors, notes


def _depths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    depths = [0] * 4
    for key in shapes:
        if at := re.match(r"layer([1-4])\.([0-9]{1,4})\.", key):
            depths[int(at[1]) - 1] = max(depths[int(at[1]) - 1], int(at[2]) + 1)
    return tuple(depths[: depths.index(0)] if 0 in depths else depths)


def _stem(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layout | None, dict[str, Any]]:
    """The layout inferred from the stem, and the config fields of the stem."""
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


def _block(
    shapes: Mapping[str, tuple[int, ...]], depths: tuple[int, ...], width: int, notes: list[tuple[str, str]]
) -> dict[str, Any]:
    """The config fields of the blocks: type, groups and their width."""
    blocks = f"{' + '.join(map(str, depths))} of them"
    if "layer1.0.conv3.weight" not in shapes:
        notes.append(("block", f"basic, since layer1.0 has no conv3; {blocks}"))
        return {"block": "basic"}
    fields: dict[str, Any] = {"block": "bottleneck"}
    match shapes.get(f"layer{len(depths)}.0.conv2.weight"):
        case (outputs, channels, *_) if channels:
            # The last stage determines the group width best: at small widths those of earlier stages are rounded down.
            planes = width * 2 ** (len(depths) - 1)
            fields |= {"groups": outputs // channels, "group_width": math.ceil(channels * 64 / planes)}
    notes.append(("block", f"bottleneck, since layer1.0 has a conv3; {blocks}"))
    if fields.get("groups", 1) != 1 or fields.get("group_width", 64) != 64:
        notes.append(("groups", f"{fields['groups']} of width {fields['group_width']}, by the shape of conv2"))
    return fields


def _projecting(kind: str, block: str, depths: tuple[int, ...]) -> set[tuple[int, int]]:
    """Stage and index of the blocks whose shortcut has weights."""
    if kind == "C":
        return {(stage, index) for stage, depth in enumerate(depths) for index in range(depth)}
    return {(stage, 0) for stage in range(len(depths)) if stage or block == "bottleneck"} if kind == "B" else set()


def _shortcut(
    shapes: Mapping[str, tuple[int, ...]],
    depths: tuple[int, ...],
    fields: Mapping[str, Any],
    asked: str | None,
    source: str | Path,
    notes: list[tuple[str, str]],
) -> str:
    found = {
        (int(at[1]) - 1, int(at[2]))
        for key in shapes
        if (at := re.match(r"layer([1-4])\.([0-9]{1,4})\.downsample\.", key))
    }
    if found:
        if asked:
            raise CheckpointError(f"{source} has weights in its shortcuts (downsample); leave --shortcut {asked} out.")
        kind = min("BC", key=lambda kind: len(found ^ _projecting(kind, fields["block"], depths)))
        stage, index = min(found)
        if len(shapes.get(f"layer{stage + 1}.{index}.downsample.1.weight", ())) == 4:
            kind = "D"
        where = {"B": "where the shape changes", "C": "in every block", "D": "after an average pool"}[kind]
        notes.append(("shortcut", f"{kind} (projection), since downsample is there {where}"))
        return kind
    if not asked and fields["stem"] != "3x3":
        raise CheckpointError(
            f"{source} has no weights in its shortcuts (downsample), so it may be zero-padded or a plain network: "
            "say which with --shortcut A or --shortcut none."
        )
    if asked:
        notes.append(("shortcut", f"{asked}, as asked: no block has a downsample"))
        return asked
    notes.append(
        ("shortcut", "A (zero padding) assumed: no block has a downsample; a plain network is --shortcut none")
    )
    return "A"


def _preprocessing(
    layout: Layout,
    fields: Mapping[str, Any],
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    source: str | Path,
    notes: list[tuple[str, str]],
) -> dict[str, Any]:
    if fields["in_channels"] != 3 and (mean is None or std is None):
        channels = fields["in_channels"]
        raise CheckpointError(f"{source} takes {channels} channels: give --mean and --std with one value for each.")
    values: dict[str, Any] = dict(_IMAGENET)
    if layout == "cifar":
        values |= {"image_size": 32, "crop_pct": 1.0} | (_CIFAR_PROJECTED if fields["shortcut"] in ("B", "C") else {})
    values |= {
        key: value for key, value in {"image_size": image_size, "mean": mean, "std": std}.items() if value is not None
    }
    side = values.get("image_size", ResNetConfig.image_size)
    assumed = {"--image-size": image_size, "--mean": mean, "--std": std}
    options = [option for option, value in assumed.items() if value is None]
    shown = "; ".join(f"{key} {','.join(f'{value:g}' for value in values[key])}" for key in ("mean", "std"))
    doubt = f" (assumed; to change: {' '.join(options)})" if options else ""
    notes.append(("preprocessing", f"{side} pixels; {shown}{doubt}"))
    return values


def expected_shapes(config: ResNetConfig) -> dict[str, tuple[int, ...]]:
    """Key and shape of every tensor of the network, in the order of its state dict."""
    shapes: dict[str, tuple[int, ...]] = {}
    for made in config.convolutions():
        shapes[f"{made.name}.weight"] = (made.outputs, made.inputs // made.groups, made.kernel, made.kernel)
        shapes |= {f"{made.norm}.{key}": (made.outputs,) for key in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{made.norm}{_COUNTER}"] = ()
    if config.num_classes:
        shapes |= {"fc.weight": (config.num_classes, config.num_features), "fc.bias": (config.num_classes,)}
    return shapes


def _weights(
    tensors: "Mapping[str, Tensor]", config: ResNetConfig, source: str | Path, notes: list[tuple[str, str]]
) -> "dict[str, Tensor]":
    """The tensors as float32, complete and in order; raises `CheckpointError` that names the keys that do not fit."""
    import torch

    expected = expected_shapes(config)
    present = [key for key in expected if key in tensors]
    problems = {
        "missing": [key for key in expected if key not in tensors and not key.endswith(_COUNTER)],
        "unexpected": [key for key in tensors if key not in expected],
        "misshapen": [
            f"{key} ({_size(tensors[key].shape)} for {_size(expected[key])})"
            for key in present
            if tensors[key].shape != expected[key]
        ],
        "not plain numbers": [key for key in present if not _is_plain(tensors[key], whole=key.endswith(_COUNTER))],
    }
    if found := [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]:
        raise CheckpointError(f"{source} looks like {_described(config)}, but does not match it; {'; '.join(found)}.")

    if filled := sum(key not in tensors for key in expected):
        notes.append(("filled in", f"{filled} {_COUNTER[1:]}, which nothing reads after training"))
    kinds = {str(tensors[key].dtype).removeprefix("torch.") for key in present if not key.endswith(_COUNTER)}
    if cast := sorted(kinds - {"float32"}):
        notes.append(("numbers", f"{', '.join(cast)} in the file, float32 from now on"))
    weights = {}
    for key in expected:
        dtype = torch.long if key.endswith(_COUNTER) else torch.float32
        tensor = tensors.get(key, torch.zeros((), dtype=torch.long))
        weights[key] = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    return weights


def _is_plain(tensor: "Tensor", *, whole: bool) -> bool:
    import torch

    strided = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return strided and (tensor.is_floating_point() or whole) and not tensor.is_complex()


def _described(config: ResNetConfig) -> str:
    name = "a ResNet without a name" if config.architecture == CUSTOM else config.architecture
    blocks = " + ".join(map(str, config.depths))
    return f"{name} ({blocks} {config.block} blocks from width {config.width}, shortcut {config.shortcut})"


def _size(shape: "tuple[int, ...] | Any") -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(keys: list[Any]) -> str:
    """The first of some untrusted keys, printable and on one line."""
    names = [key if isinstance(key, str) and key.isprintable() else ascii(key) for key in keys[:_SOME]]
    return ", ".join(name[:80] for name in names) + (f" and {len(keys) - _SOME} more" if len(keys) > _SOME else "")
