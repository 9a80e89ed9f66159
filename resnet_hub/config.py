"""The configuration of a ResNet, and the table of named variants. Imports no torch.

Table 1 and sections 3.3 and 4.2 of He et al. 2015, *Deep Residual Learning for Image Recognition*
(https://arxiv.org/abs/1512.03385); wider variants from ResNeXt (https://arxiv.org/abs/1611.05431) and
Wide ResNet (https://arxiv.org/abs/1605.07146); deep stems and shortcut D from *Bag of Tricks for Image Classification
with Convolutional Neural Networks* (https://arxiv.org/abs/1812.01187).
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from reprlib import repr as brief  # for values from untrusted files, which may be huge
from typing import Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from resnet_hub.errors import ConfigError, format_bytes

SCHEMA = 2  # version of the "resnet_hub" section of config.json; raised when older readers would misread it
CUSTOM = "resnet_custom"  # the architecture of networks without a name below; no other library uses it

_BASIC, _BOTTLENECK = {"block": "basic"}, {"block": "bottleneck"}
_18 = {"depths": (2, 2, 2, 2)}
_50, _101, _152, _200 = ({"depths": (3, middle, late, 3)} for middle, late in ((4, 6), (4, 23), (8, 36), (24, 36)))
# Stems and shortcuts that timm names by a letter, after MXNet's model zoo
_C: dict[str, Any] = {"stem": "deep"}
_D = _C | {"shortcut": "D"}
_S = _C | {"stem_channels": (64, 64, 128)}
_T = _D | {"stem_channels": (24, 32, 64)}
_CIFAR = {"stem": "3x3", "width": 16, "shortcut": "A", "image_size": 32, "crop_pct": 1.0}
_CIFAR |= {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}

# name -> the fields of ResNetConfig that differ from its defaults
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": _BASIC | _18,
    "resnet34": _BASIC | _50,
    "resnet50": _BOTTLENECK | _50,
    "resnet101": _BOTTLENECK | _101,
    "resnet152": _BOTTLENECK | _152,
    "resnext50_32x4d": _BOTTLENECK | _50 | {"groups": 32, "group_width": 4},
    "resnext101_32x8d": _BOTTLENECK | _101 | {"groups": 32, "group_width": 8},
    "resnext101_64x4d": _BOTTLENECK | _101 | {"groups": 64, "group_width": 4},
    "wide_resnet50_2": _BOTTLENECK | _50 | {"group_width": 128},
    "wide_resnet101_2": _BOTTLENECK | _101 | {"group_width": 128},
    # in timm, not in torchvision
    "resnet10t": _BASIC | _T | {"depths": (1, 1, 1, 1)},
    "resnet14t": _BOTTLENECK | _T | {"depths": (1, 1, 1, 1)},
    "resnet18d": _BASIC | _D | _18,
    "resnet26": _BOTTLENECK | _18,
    "resnet26d": _BOTTLENECK | _D | _18,
    "resnet26t": _BOTTLENECK | _T | _18,
    "resnet34d": _BASIC | _D | _50,
    "resnet50c": _BOTTLENECK | _C | _50,
    "resnet50d": _BOTTLENECK | _D | _50,
    "resnet50s": _BOTTLENECK | _S | _50,
    "resnet50t": _BOTTLENECK | _T | _50,
    "resnet101c": _BOTTLENECK | _C | _101,
    "resnet101d": _BOTTLENECK | _D | _101,
    "resnet101s": _BOTTLENECK | _S | _101,
    "resnet152c": _BOTTLENECK | _C | _152,
    "resnet152d": _BOTTLENECK | _D | _152,
    "resnet152s": _BOTTLENECK | _S | _152,
    "resnet200": _BOTTLENECK | _200,
    "resnet200d": _BOTTLENECK | _D | _200,
    "resnext50d_32x4d": _BOTTLENECK | _D | _50 | {"groups": 32, "group_width": 4},
    "resnext101_32x4d": _BOTTLENECK | _101 | {"groups": 32, "group_width": 4},
    "resnext101_32x16d": _BOTTLENECK | _101 | {"groups": 32, "group_width": 16},
    "resnext101_32x32d": _BOTTLENECK | _101 | {"groups": 32, "group_width": 32},
    # section 4.2: 6n + 2 layers, three stages of n blocks of two
    "resnet20": _CIFAR | {"depths": (3, 3, 3)},
    "resnet32": _CIFAR | {"depths": (5, 5, 5)},
    "resnet44": _CIFAR | {"depths": (7, 7, 7)},
    "resnet56": _CIFAR | {"depths": (9, 9, 9)},
    "resnet110": _CIFAR | {"depths": (18, 18, 18)},
    "resnet1202": _CIFAR | {"depths": (200, 200, 200)},
}

_STRUCTURE = (
    "block", "depths", "width", "stage_widths", "groups", "group_width",
    "stem", "stem_channels", "shortcut", "stride_in_1x1", "halve_first_stage",
)  # fmt: skip
# Schema 1 had neither these fields and names, nor deep stems, shortcut D and squashing.
_SINCE_2 = ("stage_widths", "stem_channels", "halve_first_stage")
_NAMED_SINCE_2 = ("resnet26", "resnet200", "resnext101_32x4d", "resnext101_32x16d", "resnext101_32x32d")
_PREPROCESSING = ("crop_pct", "crop_mode", "interpolation", "mean", "std")

# Limits for configs from untrusted repos
_MAX_PARAMETERS = 1_000_000_000
_MAX_PEAK = 2**30  # values, 4 GB in float32; ResNeXt-101 at 224 pixels has 14 million
_MAX_IMAGE_SIZE = 2048
_MAX_CHANNELS = 64
_MAX_CLASSES = 100_000
_MAX_LABEL_LENGTH = 1_000
_MAX_CONFIG_BYTES = 16 * 10**6


NOT_SURE_BELOW = 0.35  # score; for models that store no threshold


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The reliability of the scores of a model, which `evaluation.reliability` fits on held-out images."""

    threshold: float = NOT_SURE_BELOW  # a label with a lower score is not sure
    subspace: str | None = None  # `FeatureSubspace` of the images that the model knows
    most_distance: float | None = None  # an image whose features are farther from it shows none of the labels

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not 0 <= (self.most_distance or 0.0) < math.inf:
            raise ConfigError(f"The reliability {brief(vars(self))} is invalid; fit it again, or remove it.")


class Convolution(NamedTuple):
    """A convolution without bias, followed by a BatchNorm."""

    name: str  # in the state dict
    norm: str
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
    """The network, its labels and its preprocessing: everything but the weights.

    Raises:
        ConfigError: A field is invalid; the message names it with its value.
    """

    id2label: dict[int, str] = field(default_factory=dict)  # class index -> label; empty: no head
    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)  # blocks of each stage; each stage after the first halves the map
    width: int = 64  # channels of the stem and of the first stage; each stage after it doubles them
    stage_widths: tuple[int, ...] = ()  # channels of each stage, `width` first, where they do not double
    groups: int = 1  # of a bottleneck's 3x3 convolution (ResNeXt's cardinality)
    group_width: int = 64  # channels of each group in the first stage, at width 64 (torchvision's width_per_group)
    stem: Literal["7x7", "3x3", "deep"] = "7x7"  # 7x7, or deep (three 3x3): stride 2, then max-pool; 3x3: full size
    stem_channels: tuple[int, ...] = ()  # of each stem convolution; empty: `width`; deep: half, half, `width`
    shortcut: Literal["A", "B", "C", "D", "none"] = "B"  # section 3.3; D: average pool, then B; none: the plain network
    stride_in_1x1: bool = False  # of a bottleneck: stride in the first 1x1 (V1, the paper) or in the 3x3 (V1.5)
    halve_first_stage: bool = False
    in_channels: int = 3

    image_size: int = 224  # both sides of the input, in pixels
    crop_pct: float = 0.875  # the short side is resized to int(image_size / crop_pct), then the center is cropped
    crop_mode: Literal["center", "squash"] = "center"  # squash: both sides are resized, ignoring the ratio
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel, for pixels in 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    reliability: Reliability = Reliability()

    def __post_init__(self) -> None:
        for key, value in _validate(vars(self)).items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_name(cls, name: str, *, num_classes: int | None = None, **changes: Any) -> Self:
        """Create the config of a named variant.

        Args:
            name: A key of `VARIANTS`.
            num_classes: Number of classes, with numbered labels unless `id2label` is given too.
            changes: Other values for any field. Without `num_classes` and `id2label` the network has no head.

        Returns:
            The config.

        Raises:
            ConfigError: The name is unknown, or a field is unknown or invalid.
        """
        if name not in VARIANTS:
            raise ConfigError(f"Unknown architecture {name!r}; choose one of {', '.join(VARIANTS)}.")
        if unknown := sorted(changes.keys() - cls.__dataclass_fields__.keys()):
            names = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"ResNetConfig has no field {unknown[0]!r}; it has {names}.")
        if num_classes is not None:
            changes["id2label"] = label_table(changes.get("id2label"), num_classes)
        return cls(**(VARIANTS[name] | changes))

    @property
    def architecture(self) -> str:
        """The name in `VARIANTS` of this network, ignoring labels, input channels and image size; else `CUSTOM`."""
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
        """Output channels of a block divided by the width of its stage."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each stage's output map."""
        return tuple(planes * self.expansion for planes in self.stage_planes)

    @property
    def stage_planes(self) -> tuple[int, ...]:
        """Channels of each stage before `expansion`."""
        return self.stage_widths or tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def stem_outputs(self) -> tuple[int, ...]:
        """Output channels of each convolution of the stem."""
        halves = (self.width // 2, self.width // 2) if self.stem == "deep" else ()
        return self.stem_channels or (*halves, self.width)

    @property
    def stage_strides(self) -> tuple[int, ...]:
        return (2 if self.halve_first_stage else 1, *[2] * (len(self.depths) - 1))

    @property
    def stride(self) -> int:
        """Pixels of the input from one cell of the last feature map to the next."""
        return math.prod(self.stage_strides) * (1 if self.stem == "3x3" else 4)

    @property
    def feature_map_size(self) -> int:
        """Side of the last feature map, in cells."""
        return math.ceil(self.image_size / self.stride)

    @property
    def num_features(self) -> int:
        """Length of the pooled feature vector, the input of the head."""
        return self.stage_channels[-1]

    @property
    def resize_size(self) -> int:
        """Short side of the image before the center crop, in pixels."""
        return int(self.image_size / self.crop_pct)

    def convolutions(self) -> Iterator[Convolution]:
        """List the convolutions.

        Yields:
            Every convolution in order, including the projections of the shortcuts.
        """
        size, inputs = self.image_size, self.in_channels
        if self.stem != "3x3":
            size = math.ceil(size / 2)
        for index, outputs in enumerate(self.stem_outputs):
            last = index == len(self.stem_outputs) - 1
            name = f"conv1.{3 * index}" if self.stem == "deep" else "conv1"
            norm = "bn1" if last else f"conv1.{3 * index + 1}"
            yield Convolution(name, norm, inputs, outputs, 7 if self.stem == "7x7" else 3, 1, size)
            inputs = outputs
        if self.stem != "3x3":
            size = math.ceil(size / 2)
        for stage, (depth, planes, stride) in enumerate(
            zip(self.depths, self.stage_planes, self.stage_strides, strict=True)
        ):
            outputs = planes * self.expansion
            for block in range(depth):
                before, size = size, size if block else math.ceil(size / stride)
                if self.block == "basic":
                    shapes = [(inputs, planes, 3, 1, size), (planes, planes, 3, 1, size)]
                else:
                    mid = planes * self.group_width // 64 * self.groups
                    shapes = [(inputs, mid, 1, 1, size if self.stride_in_1x1 else before)]
                    shapes += [(mid, mid, 3, self.groups, size), (mid, outputs, 1, 1, size)]
                prefix = f"layer{stage + 1}.{block}"
                for number, shape in enumerate(shapes, start=1):
                    yield Convolution(f"{prefix}.conv{number}", f"{prefix}.bn{number}", *shape)
                changes = inputs != outputs or (stride != 1 and not block)
                if self.shortcut == "C" or (self.shortcut in ("B", "D") and changes):
                    index = 1 if self.shortcut == "D" else 0  # after the pool
                    name, norm = f"{prefix}.downsample.{index}", f"{prefix}.downsample.{index + 1}"
                    yield Convolution(name, norm, inputs, outputs, 1, 1, size)
                inputs = outputs

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, which does not count the running statistics of BatchNorm."""
        body = sum(convolution.weights + 2 * convolution.outputs for convolution in self.convolutions())
        return body + (self.num_features + 1) * self.num_classes

    @property
    def multiply_adds(self) -> int:
        """Multiplications of the convolutions and the head for one image; the paper's Table 1 calls them FLOPs."""
        body = sum(convolution.weights * convolution.size**2 for convolution in self.convolutions())
        return body + self.num_features * self.num_classes

    @property
    def peak_numbers(self) -> int:
        """Largest number of values in memory for one image: a convolution's input, output and a copy of the output."""
        return max((conv.inputs + 2 * conv.outputs) * conv.size**2 for conv in self.convolutions())

    @property
    def schema(self) -> int:
        """The oldest schema whose readers can build this network."""
        newer = self.stem == "deep" or self.shortcut == "D" or self.crop_mode == "squash"
        newer |= any(getattr(self, key) for key in _SINCE_2) or self.architecture in _NAMED_SINCE_2
        return 2 if newer else 1

    def to_dict(self) -> dict[str, Any]:
        """Describe the network as the content of `config.json`.

        Returns:
            A dict of JSON types: timm's keys at the root, which transformers reads too, and our own section.
        """
        content: dict[str, Any] = {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "dtype": "float32",  # else transformers computes in the dtype of the file, which may be half precision
            "pretrained_cfg": {
                "input_size": [self.in_channels, self.image_size, self.image_size],
                **{key: _plain(getattr(self, key)) for key in _PREPROCESSING},
                "pool_size": [self.feature_map_size, self.feature_map_size],
                "first_conv": "conv1.0" if self.stem == "deep" else "conv1",
                "classifier": "fc",
            },
            "resnet_hub": {"schema": self.schema, **{key: _plain(getattr(self, key)) for key in _STRUCTURE}},
        }
        if self.reliability != Reliability():
            values = {key: value for key, value in vars(self.reliability).items() if value is not None}
            content["resnet_hub"]["reliability"] = values  # ignored by older readers
        if self.id2label:
            content["label_names"] = self.labels
        if self.in_channels != 3:
            content["model_args"] = {"in_chans": self.in_channels}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content of a `config.json` that `to_dict` wrote; values stored twice must agree.

        `convert.config_json.parse_config` reads those of timm and transformers too.

        Args:
            content: The content of a `config.json`.

        Returns:
            The config.

        Raises:
            ConfigError: A value is missing, invalid or contradicts another.
        """
        if "resnet_hub" not in content:
            raise ConfigError("config.json has no section 'resnet_hub': it was written by another library.")
        own_section = section(content, "resnet_hub")
        if own_section.get("schema", SCHEMA) not in range(1, SCHEMA + 1):
            schema = brief(own_section["schema"])
            raise ConfigError(f"config.json has schema {schema}, this version reads {SCHEMA}; update resnet_hub.")
        values = {key: own_section[key] for key in _STRUCTURE if key in own_section}
        values |= preprocessing_fields(section(content, "pretrained_cfg"))
        values["reliability"] = _parse_reliability(section(own_section, "reliability"))
        names = content.get("label_names")
        if names is not None and not isinstance(names, list):
            raise ConfigError(f"config.json has label_names of type {type(names).__name__}; expected a list of texts.")
        values["id2label"] = label_table(names, content.get("num_classes"))
        config = cls(**values)
        name = content.get("architecture")
        if name not in (None, CUSTOM, config.architecture):  # a custom network may have a name by now
            raise ConfigError(f"config.json names the architecture {brief(name)}, but describes {config.architecture}.")
        return config

    def to_json(self) -> str:
        """Describe the network as the text of `config.json`.

        Returns:
            The text, which ends in a line break.
        """
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the text of a `config.json` that `to_json` wrote; see `from_dict`.

        Args:
            text: The text.

        Returns:
            The config.
        """
        return cls.from_dict(parse_json_object(text, "config.json"))


def is_valid_label(label: str) -> bool:
    """Whether a label can be saved with a model and displayed."""
    return bool(label.strip()) and len(label) <= _MAX_LABEL_LENGTH and label.isprintable()


def label_table(labels: Mapping[int, str] | list[str] | None, num_classes: int | None = None) -> dict[int, str]:
    """`id2label` from a mapping, a list of labels, or a number of classes; if both are given, they must agree."""
    if num_classes is not None and (type(num_classes) is not int or not 0 <= num_classes <= _MAX_CLASSES):
        raise ConfigError(f"num_classes is {brief(num_classes)}; expected a number from 0 to {_MAX_CLASSES}.")
    if labels is None:
        return {index: f"class {index}" for index in range(num_classes or 0)}
    table = dict(labels) if isinstance(labels, Mapping) else dict(enumerate(labels))
    if num_classes is not None and num_classes != len(table):
        raise ConfigError(f"num_classes is {num_classes}, but there are {len(table)} labels.")
    return table


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under `key` of a `config.json`; empty where it is missing or null."""
    value = content.get(key)
    if not isinstance(value, dict | None):
        raise ConfigError(f"config.json has {key} of type {type(value).__name__}; expected an object.")
    return value or {}


def preprocessing_fields(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in timm's `pretrained_cfg`. Its `test_input_size` is ignored, as timm does by default."""
    values = {key: pretrained_cfg[key] for key in _PREPROCESSING if pretrained_cfg.get(key) is not None}
    if pretrained_cfg.get("input_size") is not None:
        match pretrained_cfg["input_size"]:
            case [channels, height, width] if height == width:
                values |= {"in_channels": channels, "image_size": height}
            case other:
                raise ConfigError(f"config.json has input_size {brief(other)}; expected [channels, side, side].")
    return values


def _parse_reliability(content: Mapping[str, Any]) -> Reliability:
    types: dict[str, type] = {"threshold": float, "subspace": str, "most_distance": float}
    values = {key: content[key] for key in types if content.get(key) is not None}
    for key, value in values.items():
        values[key] = _validate_type(f"reliability.{key}", value, types[key])
    return Reliability(**values)


def parse_json_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse a JSON file from an untrusted repo; `name` is its name in messages."""
    if len(text) > _MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{name} is larger than {format_bytes(_MAX_CONFIG_BYTES)}, so it is not a model configuration."
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{name} holds a {type(content).__name__}; expected an object.")
    return content


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _validate(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with lists as tuples; raises `ConfigError` where a type, a range or a combination is wrong."""
    hints = get_type_hints(ResNetConfig)
    checked = {key: _validate_type(key, value, hints[key]) for key, value in values.items()}

    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise ConfigError(f"{key} is {brief(checked[key])}; expected {expected}.")

    labels: dict[int, str] = checked["id2label"]
    require(len(labels) <= _MAX_CLASSES, "id2label", f"at most {_MAX_CLASSES} labels")
    require(sorted(labels) == list(range(len(labels))), "id2label", "the class indices 0, 1, 2, ... as keys")
    for label in labels.values():
        if not is_valid_label(label):
            raise ConfigError(f"The label {label[:40]!r} is empty, unprintable or over {_MAX_LABEL_LENGTH} characters.")
    checked["id2label"] = dict(sorted(labels.items()))

    require(1 <= len(checked["depths"]) <= 4, "depths", "one to four stages")
    require(all(1 <= depth <= 1000 for depth in checked["depths"]), "depths", "1 to 1000 blocks a stage")
    for key, largest in {"width": 4096, "groups": 4096, "group_width": 4096, "in_channels": _MAX_CHANNELS}.items():
        require(1 <= checked[key] <= largest, key, f"a number from 1 to {largest}")
    stages, stem = len(checked["depths"]), 3 if checked["stem"] == "deep" else 1
    for key, count in {"stage_widths": stages, "stem_channels": stem}.items():
        require(len(checked[key]) in (0, count), key, f"{count} of them, or none")
        require(all(1 <= channels <= 4096 for channels in checked[key]), key, "numbers from 1 to 4096")
    require(
        checked["stage_widths"][:1] in ((), (checked["width"],)), "stage_widths", f"the width {checked['width']} first"
    )
    require(checked["stem"] != "deep" or checked["width"] > 1, "width", "at least 2 with a deep stem")
    if checked["block"] == "basic":
        for key in ("groups", "group_width", "stride_in_1x1"):
            require(checked[key] == getattr(ResNetConfig, key), key, f"{getattr(ResNetConfig, key)!r} in a basic block")
    narrowest = min(checked["width"], *checked["stage_widths"], 4096)
    require(narrowest * checked["group_width"] >= 64, "group_width", f"at least one channel at width {narrowest}")
    require(1 <= checked["image_size"] <= _MAX_IMAGE_SIZE, "image_size", f"1 to {_MAX_IMAGE_SIZE} pixels")
    require(0.1 <= checked["crop_pct"] <= 1, "crop_pct", "a fraction from 0.1 to 1")
    for key, smallest in {"mean": -math.inf, "std": 1e-6}.items():
        require(
            len(checked[key]) == checked["in_channels"], key, f"one value for each of {checked['in_channels']} channels"
        )
        require(
            all(math.isfinite(value) and value >= smallest for value in checked[key]), key, "finite values, std above 0"
        )

    config = object.__new__(ResNetConfig)
    config.__dict__.update(checked | {"stage_widths": (), "stem_channels": ()})
    # Equal networks have equal configs: values that follow from `width` are dropped.
    if checked["stage_widths"] == config.stage_planes:
        checked["stage_widths"] = ()
    if checked["stem_channels"] == config.stem_outputs:
        checked["stem_channels"] = ()
    config.__dict__.update(checked)
    if subspace := config.reliability.subspace:
        _check_subspace(subspace, config.num_features)
    if config.num_parameters > _MAX_PARAMETERS:
        limit = f"{_MAX_PARAMETERS:,}"
        raise ConfigError(f"The network has {config.num_parameters:,} parameters; the limit is {limit}.")
    if config.peak_numbers > _MAX_PEAK:
        raise ConfigError(f"The network keeps {config.peak_numbers:,} values for one image; at most {_MAX_PEAK:,} fit.")
    return checked


def _check_subspace(text: str, num_features: int) -> None:
    """Raise `ConfigError` unless a text holds rows of `num_features` finite values, as `FeatureSubspace` has them."""
    try:
        values = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        values = b""
    rows, rest = divmod(len(values), 2 * num_features)  # in half precision
    is_finite = all(byte & 0x7C != 0x7C for byte in values[1::2])  # the exponents
    if rest or not 0 < rows <= num_features + 1 or not is_finite:
        raise ConfigError(
            f"The subspace of the reliability does not fit this network of {num_features} features, or is damaged. "
            "Fit it again, or leave it out: reliability=Reliability(), in config.json the section reliability."
        )


def _validate_type(key: str, value: Any, hint: Any) -> Any:
    """Check a value against the type annotation of its field; integers become floats, lists become tuples."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise ConfigError(f"{key} is {brief(value)}; choose one of {', '.join(arguments)}.")
    if origin is tuple and isinstance(value, list | tuple) and len(value) <= _MAX_CHANNELS:
        return tuple(_validate_type(key, item, arguments[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_validate_type(key, index, int): _validate_type(key, label, str) for index, label in value.items()}
    if hint is float and (type(value) is float or (type(value) is int and abs(value) < 2**53)):
        return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{key} is {brief(value)}; expected {getattr(hint, '__name__', hint)}.")
