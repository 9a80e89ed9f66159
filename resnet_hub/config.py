"""What a ResNet is made of, and the table of those that have a name. Imports no torch.

Table 1 and sections 3.3 and 4.2 of He et al. 2015, *Deep Residual Learning for Image Recognition*
(https://arxiv.org/abs/1512.03385); wider kin from ResNeXt (https://arxiv.org/abs/1611.05431) and
Wide ResNet (https://arxiv.org/abs/1605.07146).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from reprlib import repr as brief  # of a value from a stranger's file, which may be huge
from typing import Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from resnet_hub.errors import ConfigError

SCHEMA = 1  # of the "resnet_hub" section of config.json; raised when an older reader would misread it
CUSTOM = "resnet_custom"  # the architecture of a network without a row below; no other library knows it

_BASIC, _BOTTLENECK = {"block": "basic"}, {"block": "bottleneck"}
_CIFAR = {"stem": "3x3", "width": 16, "shortcut": "A", "image_size": 32, "crop_pct": 1.0}
_CIFAR |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}

# name -> the fields of ResNetConfig that differ from its defaults
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": _BASIC | {"depths": (2, 2, 2, 2)},
    "resnet34": _BASIC | {"depths": (3, 4, 6, 3)},
    "resnet50": _BOTTLENECK | {"depths": (3, 4, 6, 3)},
    "resnet101": _BOTTLENECK | {"depths": (3, 4, 23, 3)},
    "resnet152": _BOTTLENECK | {"depths": (3, 8, 36, 3)},
    "resnext50_32x4d": _BOTTLENECK | {"depths": (3, 4, 6, 3), "groups": 32, "group_width": 4},
    "resnext101_32x8d": _BOTTLENECK | {"depths": (3, 4, 23, 3), "groups": 32, "group_width": 8},
    "resnext101_64x4d": _BOTTLENECK | {"depths": (3, 4, 23, 3), "groups": 64, "group_width": 4},
    "wide_resnet50_2": _BOTTLENECK | {"depths": (3, 4, 6, 3), "group_width": 128},
    "wide_resnet101_2": _BOTTLENECK | {"depths": (3, 4, 23, 3), "group_width": 128},
    "resnet20": _CIFAR | {"depths": (3, 3, 3)},  # 6n + 2 layers: three stages of n blocks of two
    "resnet32": _CIFAR | {"depths": (5, 5, 5)},
    "resnet44": _CIFAR | {"depths": (7, 7, 7)},
    "resnet56": _CIFAR | {"depths": (9, 9, 9)},
    "resnet110": _CIFAR | {"depths": (18, 18, 18)},
    "resnet1202": _CIFAR | {"depths": (200, 200, 200)},
}

_STRUCTURE = ("block", "depths", "width", "groups", "group_width", "stem", "shortcut", "stride_in_1x1")
_PREPROCESSING = ("crop_pct", "interpolation", "mean", "std")

# A config from a stranger must not be able to ask for more.
_MAX_PARAMETERS = 1_000_000_000
_MAX_IMAGE_SIZE = 2048
_MAX_CHANNELS = 64
_MAX_CLASSES = 100_000
_MAX_LABEL_LENGTH = 1_000
_MAX_JSON_BYTES = 16 * 2**20


class Convolution(NamedTuple):
    """A convolution without bias, followed by a BatchNorm."""

    inputs: int
    outputs: int
    kernel: int
    groups: int
    size: int  # side of the output map

    @property
    def weights(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.kernel**2


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A network, its labels, and how a picture becomes its input: what the weights alone do not say.

    Raises `ConfigError`, with the field and its value, for what describes no network.
    """

    id2label: dict[int, str] = field(default_factory=dict)  # class index -> label; empty: no head
    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)  # blocks of each stage; each stage after the first halves the map
    width: int = 64  # channels of the stem and of the first stage; each stage after it doubles them
    groups: int = 1  # of a bottleneck's 3x3 convolution (ResNeXt's cardinality)
    group_width: int = 64  # channels of each group in the first stage, at width 64 (torchvision's width_per_group)
    stem: Literal["7x7", "3x3"] = "7x7"  # 7x7: stride 2, then max-pool (ImageNet); 3x3: full size (CIFAR)
    shortcut: Literal["A", "B", "C", "none"] = "B"  # section 3.3; none: the plain network
    stride_in_1x1: bool = False  # where a bottleneck halves the map: its first 1x1 (V1, the paper) or its 3x3 (V1.5)
    in_channels: int = 3

    image_size: int = 224  # both sides of the input, in pixels
    crop_pct: float = 0.875  # the short side is resized to int(image_size / crop_pct), then the centre is cropped
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, for pixels in 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for key, value in _checked(vars(self)).items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_name(cls, name: str, *, num_classes: int | None = None, **changes: Any) -> Self:
        """The row `name` of `VARIANTS`, with any field changed; `num_classes` alone makes numbered labels.

        Without `num_classes` and `id2label` the network has no head.
        """
        if name not in VARIANTS:
            raise ConfigError(f"Unknown architecture {name!r}; choose one of {', '.join(VARIANTS)}.")
        if unknown := sorted(changes.keys() - cls.__dataclass_fields__.keys()):
            known = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"ResNetConfig has no field {unknown[0]!r}; it has {known}.")
        if num_classes is not None:
            changes["id2label"] = label_table(changes.get("id2label"), num_classes)
        return cls(**(VARIANTS[name] | changes))

    @property
    def architecture(self) -> str:
        """The row of `VARIANTS` that this network is, whatever its labels, channels and input size."""
        for name, row in VARIANTS.items():
            if all(getattr(self, key) == row.get(key, getattr(ResNetConfig, key)) for key in _STRUCTURE):
                return name
        return CUSTOM

    @property
    def num_classes(self) -> int:
        return len(self.id2label)

    @property
    def labels(self) -> list[str]:
        return [self.id2label[index] for index in range(self.num_classes)]

    @property
    def expansion(self) -> int:
        """Output channels of a block over the width of its stage."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each stage's output map."""
        return tuple(self.width * 2**stage * self.expansion for stage in range(len(self.depths)))

    @property
    def num_features(self) -> int:
        """Length of the pooled vector that the head sees."""
        return self.stage_channels[-1]

    @property
    def resize_size(self) -> int:
        """Short side of the picture before the centre crop, in pixels."""
        return int(self.image_size / self.crop_pct)

    def convolutions(self) -> Iterator[Convolution]:
        """Every convolution in order, the projections of the shortcuts included."""
        kernel, size = (7, math.ceil(self.image_size / 2)) if self.stem == "7x7" else (3, self.image_size)
        yield Convolution(self.in_channels, self.width, kernel, 1, size)
        size = math.ceil(size / 2) if self.stem == "7x7" else size
        inputs = self.width
        for stage, depth in enumerate(self.depths):
            planes = self.width * 2**stage
            outputs = planes * self.expansion
            for block in range(depth):
                before, size = size, math.ceil(size / 2) if stage and not block else size
                if self.block == "basic":
                    yield Convolution(inputs, planes, 3, 1, size)
                    yield Convolution(planes, planes, 3, 1, size)
                else:
                    mid = planes * self.group_width // 64 * self.groups
                    yield Convolution(inputs, mid, 1, 1, size if self.stride_in_1x1 else before)
                    yield Convolution(mid, mid, 3, self.groups, size)
                    yield Convolution(mid, outputs, 1, 1, size)
                if self.shortcut == "C" or (self.shortcut == "B" and (inputs != outputs or before != size)):
                    yield Convolution(inputs, outputs, 1, 1, size)
                inputs = outputs

    @property
    def num_parameters(self) -> int:
        """Learned numbers, without the running statistics of BatchNorm."""
        body = sum(convolution.weights + 2 * convolution.outputs for convolution in self.convolutions())
        return body + (self.num_features + 1) * self.num_classes

    @property
    def multiply_adds(self) -> int:
        """Multiplications of the convolutions and the head for one image; the paper's Table 1 calls them FLOPs."""
        body = sum(convolution.weights * convolution.size**2 for convolution in self.convolutions())
        return body + self.num_features * self.num_classes

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`: timm's keys at the root, where transformers reads them too, and ours beside."""
        pool = math.ceil(self.image_size / (2 ** (len(self.depths) - 1) * (4 if self.stem == "7x7" else 1)))
        content: dict[str, Any] = {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "dtype": "float32",  # transformers would compute in that of the file, which may be half as wide
            "pretrained_cfg": {
                "input_size": [self.in_channels, self.image_size, self.image_size],
                "crop_mode": "center",
                **{key: _plain(getattr(self, key)) for key in _PREPROCESSING},
                "pool_size": [pool, pool],
                "first_conv": "conv1",
                "classifier": "fc",
            },
            "resnet_hub": {"schema": SCHEMA, **{key: _plain(getattr(self, key)) for key in _STRUCTURE}},
        }
        if self.id2label:
            content["label_names"] = self.labels
        if self.in_channels != 3:
            content["model_args"] = {"in_chans": self.in_channels}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The network that a `config.json` describes; what the file says twice must agree."""
        own = _section(content, "resnet_hub")
        if own.get("schema", SCHEMA) != SCHEMA:
            schema = brief(own["schema"])
            raise ConfigError(f"config.json has schema {schema}, this version reads {SCHEMA}; update resnet_hub.")
        name = content.get("architecture")
        if own:
            values = {key: own[key] for key in _STRUCTURE if key in own}
        elif isinstance(name, str) and name in VARIANTS:
            values = dict(VARIANTS[name])
        else:
            raise ConfigError(f"config.json names the architecture {brief(name)}; known are {', '.join(VARIANTS)}.")

        picture = _section(content, "pretrained_cfg")
        values |= {key: picture[key] for key in _PREPROCESSING if key in picture}
        if "input_size" in picture:
            match picture["input_size"]:
                case [channels, height, width] if height == width:
                    values |= {"in_channels": channels, "image_size": height}
                case other:
                    raise ConfigError(f"config.json has input_size {brief(other)}; expected [channels, side, side].")
        if picture.get("crop_mode", "center") != "center":
            raise ConfigError(f"config.json has crop_mode {brief(picture['crop_mode'])}; only 'center' is supported.")

        names = content.get("label_names")
        if names is not None and not isinstance(names, list):
            raise ConfigError(f"config.json has label_names of type {type(names).__name__}; expected a list of texts.")
        values["id2label"] = label_table(names, content.get("num_classes"))
        config = cls(**values)
        if own and name is not None and name != config.architecture:
            raise ConfigError(f"config.json names the architecture {brief(name)}, but describes {config.architecture}.")
        return config

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        if len(text) > _MAX_JSON_BYTES:
            limit = f"{_MAX_JSON_BYTES // 2**20} MB"
            raise ConfigError(f"config.json is larger than {limit}; it is no model configuration.")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config.json is not valid JSON: {error}.") from None
        if not isinstance(content, dict):
            raise ConfigError(f"config.json holds a {type(content).__name__}; expected an object.")
        return cls.from_dict(content)


def label_table(labels: Mapping[int, str] | list[str] | None, num_classes: int | None = None) -> dict[int, str]:
    """`id2label` from a mapping, a list of labels, or a bare number of classes; both given must agree."""
    if num_classes is not None and (type(num_classes) is not int or not 0 <= num_classes <= _MAX_CLASSES):
        raise ConfigError(f"num_classes is {brief(num_classes)}; expected a number from 0 to {_MAX_CLASSES}.")
    if labels is None:
        return {index: f"class {index}" for index in range(num_classes or 0)}
    table = dict(labels) if isinstance(labels, Mapping) else dict(enumerate(labels))
    if num_classes is not None and num_classes != len(table):
        raise ConfigError(f"num_classes is {num_classes}, but there are {len(table)} labels.")
    return table


def _section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = content.get(key, {})
    if not isinstance(section, dict):
        raise ConfigError(f"config.json has {key} of type {type(section).__name__}; expected an object.")
    return section


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config with lists as tuples; raises where a type, a range or a combination is wrong."""
    hints = get_type_hints(ResNetConfig)
    good = {key: _typed(key, value, hints[key]) for key, value in values.items()}

    def need(condition: bool, key: str, wanted: str) -> None:
        if not condition:
            raise ConfigError(f"{key} is {brief(good[key])}; expected {wanted}.")

    labels: dict[int, str] = good["id2label"]
    need(len(labels) <= _MAX_CLASSES, "id2label", f"at most {_MAX_CLASSES} labels")
    need(sorted(labels) == list(range(len(labels))), "id2label", "the class indices 0, 1, 2, ... as keys")
    for label in labels.values():
        if not label.strip() or len(label) > _MAX_LABEL_LENGTH or not label.isprintable():
            raise ConfigError(f"The label {label[:40]!r} is empty, unprintable or over {_MAX_LABEL_LENGTH} characters.")
    good["id2label"] = dict(sorted(labels.items()))

    need(1 <= len(good["depths"]) <= 4, "depths", "one to four stages")
    need(all(1 <= depth <= 1000 for depth in good["depths"]), "depths", "1 to 1000 blocks a stage")
    for key, largest in {"width": 4096, "groups": 4096, "group_width": 4096, "in_channels": _MAX_CHANNELS}.items():
        need(1 <= good[key] <= largest, key, f"a number from 1 to {largest}")
    if good["block"] == "basic":
        for key in ("groups", "group_width", "stride_in_1x1"):
            need(good[key] == getattr(ResNetConfig, key), key, f"{getattr(ResNetConfig, key)!r} in a basic block")
    need(good["width"] * good["group_width"] >= 64, "group_width", f"at least one channel at width {good['width']}")
    need(1 <= good["image_size"] <= _MAX_IMAGE_SIZE, "image_size", f"1 to {_MAX_IMAGE_SIZE} pixels")
    need(0.1 <= good["crop_pct"] <= 1, "crop_pct", "a fraction from 0.1 to 1")
    for key, smallest in {"mean": -math.inf, "std": 1e-6}.items():
        need(len(good[key]) == good["in_channels"], key, f"one value for each of {good['in_channels']} channels")
        need(all(math.isfinite(value) and value >= smallest for value in good[key]), key, "finite values, std above 0")

    config = object.__new__(ResNetConfig)
    config.__dict__.update(good)
    if config.num_parameters > _MAX_PARAMETERS:
        limit = f"{_MAX_PARAMETERS:,}"
        raise ConfigError(f"The network has {config.num_parameters:,} parameters; at most {limit} are built.")
    return good


def _typed(key: str, value: Any, hint: Any) -> Any:
    """`value` as the annotation of its field has it; whole numbers pass for floats, lists for tuples."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise ConfigError(f"{key} is {brief(value)}; choose one of {', '.join(arguments)}.")
    if origin is tuple and isinstance(value, list | tuple) and len(value) <= _MAX_CHANNELS:
        return tuple(_typed(key, item, arguments[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_typed(key, index, int): _typed(key, label, str) for index, label in value.items()}
    if hint is float and (type(value) is float or (type(value) is int and abs(value) < 2**53)):
        return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{key} is {brief(value)}; expected {getattr(hint, '__name__', hint)}.")
