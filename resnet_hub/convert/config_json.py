"""Convert `config.json` of timm and transformers to `ResNetConfig`. Imports no torch.

An error names the feature that is not supported, before any weights are downloaded."""

import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from resnet_hub.config import VARIANTS, ResNetConfig, label_table, parse_json_object, preprocessing_fields, section
from resnet_hub.errors import CheckpointError, ConfigError

# Pattern of a timm architecture -> the unsupported feature in it; the first match is reported.
_UNSUPPORTED = {
    r"^(nf_)?eca_?res": "efficient channel attention",
    r"^(legacy_|nf_)?se_?(res|net)|^resnetrs": "squeeze-excitation",
    r"^nf_": "convolutions with normalized weights instead of BatchNorm",
    r"^resnetaa|^tresnet": "anti-aliasing pools",
    r"^resnetblur": "blur-pool",
    r"_gn$": "group norm",
    r"^resnetv2": "activation before convolution (ResNet V2)",
    r"^resnest": "split attention",
    r"^skres": "selective kernels",
    r"^gcres": "global context attention",
    r"^bat_res": "bilinear attention",
    r"^lambda_res": "lambda layers",
    r"^csp": "cross-stage partial stages",
    r"_clip": "attention pooling and the stem of CLIP",
    r"_mlp$": "a hidden layer in the head",
    r"^inception_": "inception blocks",
    r"^res\w*(ts|q)$": "a tiered or quad stem without max-pool, and SiLU",
    r"^test_resnet$": "basic blocks and bottlenecks in one network",
    r"^vit_": "a transformer",
}
# Names in old versions of timm: the origin of the weights was a prefix, and is now a tag after a dot.
_OLD_NAME = re.compile(r"(?:tv|ig|ssl|swsl|gluon)_(resnet\d+|resnext\w+)(?:_v1([bcds]))?")

# Arguments of timm's ResNet -> the only supported value, and the feature that other values switch on
_SUPPORTED: dict[str, tuple[Any, str]] = {
    "global_pool": ("avg", "another global pool"),
    "act_layer": ("relu", "another activation"),
    "norm_layer": ("batchnorm2d", "another normalization"),
    "output_stride": (32, "dilated convolutions"),
    "replace_stem_pool": (False, "a convolution instead of max-pool"),
    "block_reduce_first": (1, "narrower first convolutions"),
    "down_kernel_size": (1, "shortcuts of 3x3"),
    "aa_layer": (None, "anti-aliasing"),
    "block_args": ({}, "attention in the blocks"),
}
# Of these, those that leave no trace in the keys and shapes of the weights
_UNSEEN = {"aa_layer", "output_stride", "act_layer", "global_pool"}
_ARCHITECTURE_KEYS = {"arch", "architecture", "model", "model_name", "backbone"}  # in what training scripts store
_TRAINING = {"drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}  # without effect on a trained network
_RENAMED = {"in_chans": "in_channels", "layers": "depths", "cardinality": "groups", "base_width": "group_width"}

_INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as transformers writes them
_SQUASHED_FROM = 384  # pixels; the ConvNext processor, which transformers' ResNets use, crops only smaller images
_HALF = (0.5, 0.5, 0.5)  # default mean and std of transformers' processors


def parse_config(text: str | bytes, processor: str | bytes | None = None) -> ResNetConfig:
    """Read a `config.json` of this package, of timm or of transformers.

    Args:
        text: The content of `config.json`.
        processor: The content of the `preprocessor_config.json` beside it, in which transformers stores the
            preprocessing.

    Raises:
        ConfigError: The network is not a supported ResNet; the message names the missing or unsupported value.
    """
    content = parse_json_object(text, "config.json")
    if "resnet_hub" in content:
        return ResNetConfig.from_dict(content)
    processor_content = None if processor is None else parse_json_object(processor, "preprocessor_config.json")
    return ResNetConfig(**convert_config(content, processor_content))


def convert_config(content: Mapping[str, Any], processor: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a `config.json` of timm or transformers to the fields of `ResNetConfig`.

    `processor` is the `preprocessor_config.json` beside it. Raises `ConfigError` for an unsupported value.
    """
    match content.get("model_type"):
        case "resnet":
            return _convert_transformers(content, processor)
        case None | "timm_wrapper":
            return _convert_timm(content)
        case other:
            raise ConfigError(f"config.json has model_type {brief(other)}; only ResNets are supported.")


def _convert_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    # Old files have the preprocessing at the root.
    preprocessing = section(content, "pretrained_cfg") if "pretrained_cfg" in content else content
    name = _parse_timm_name(content.get("architecture", preprocessing.get("architecture")))
    values = dict(VARIANTS[name])
    if values.get("stem") != "3x3":  # timm's default; it has no CIFAR networks
        values["interpolation"] = "bicubic"
    values |= preprocessing_fields(preprocessing)
    arguments = section(content, "model_args")
    values |= _convert_timm_arguments(arguments, values)
    if "global_pool" in content:
        _check_supported("global_pool", content["global_pool"])
    channels = values.get("in_channels", ResNetConfig.in_channels)
    if type(channels) is int and 0 < channels < 100 and channels != 3:
        for key in ("mean", "std"):  # timm repeats their average for other numbers of channels
            match values.get(key, getattr(ResNetConfig, key)):
                case [*numbers] if (
                    numbers and len(numbers) != channels and all(isinstance(n, int | float) for n in numbers)
                ):
                    values[key] = (sum(numbers) / len(numbers),) * channels

    classes = _find_first("num_classes", content, arguments, preprocessing)
    names = _find_first("label_names", content, preprocessing) or _find_first("labels", content, preprocessing)
    if classes is None and names is None and values.get("stem") != "3x3":
        classes = 1000  # timm's default
    values["id2label"] = _convert_timm_labels(names, classes, content.get("label_descriptions"))
    return values


def _find_first(key: str, *sections: Mapping[str, Any]) -> Any:
    return next((values[key] for values in sections if values.get(key) is not None), None)


def _parse_timm_name(architecture: Any) -> str:
    """The key of `VARIANTS` for a timm architecture."""
    name = architecture.partition(".")[0] if isinstance(architecture, str) else ""  # without a tag such as a1_in1k
    if old := _OLD_NAME.fullmatch(name):
        name = old[1] + (old[2] or "").replace("b", "")
    if name in VARIANTS:
        return name
    if feature := _find_feature(name):
        raise ConfigError(f"config.json has the architecture {name}, which is not supported: it has {feature}.")
    raise ConfigError(
        f"config.json has the architecture {brief(architecture)}, which is not supported. Choose one of "
        "`resnet_hub.config.VARIANTS`: resnet10t to resnet1202, resnext* or wide_resnet*."
    )


def _find_feature(name: str) -> str | None:
    return next((feature for pattern, feature in _UNSUPPORTED.items() if re.search(pattern, name)), None)


def find_unsupported_feature(key: Any, value: Any) -> str | None:
    """Return the unsupported feature of the network that a stored setting switches on, or None.

    Only settings that the shapes of the weights do not show are read.
    """
    if key in _ARCHITECTURE_KEYS and isinstance(value, str):
        return _find_feature(value.rpartition("/")[2].partition(".")[0].lower())
    if key == "replace_stride_with_dilation" and isinstance(value, list | tuple):
        return "dilated convolutions" if any(flag is True for flag in value) else None
    if key in _UNSEEN and isinstance(value, str | int):
        supported, feature = _SUPPORTED[key]
        return feature if value and str(value).lower() != str(supported).lower() else None
    return None


def _convert_timm_arguments(arguments: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that timm's `model_args` change."""
    fields: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in _RENAMED:
            fields[_RENAMED[key]] = value
        elif key == "avg_down":
            fields["shortcut"] = "D" if value else "B"
        elif key == "channels" and isinstance(value, list | tuple) and value:
            fields |= {"width": value[0], "stage_widths": value}
        elif key in _SUPPORTED:
            _check_supported(f"model_args.{key}", value)
        elif key not in _TRAINING and key not in ("num_classes", "stem_type", "stem_width"):
            raise ConfigError(f"config.json has model_args.{brief(key)}, which is not supported.")
    old_channels: tuple[int, ...] = values.get("stem_channels") or ((32, 32, 64) if "stem" in values else (64,))
    if arguments.keys() & {"stem_type", "stem_width"}:
        old_type = "" if "stem" not in values else "deep_tiered" if old_channels[0] != old_channels[1] else "deep"
        stem_type = arguments.get("stem_type", old_type)
        width = arguments.get("stem_width", old_channels[1] if "stem" in values else 64)
        if stem_type not in ("", "deep", "deep_tiered") or type(width) is not int or not 1 <= width <= 2048:
            raise ConfigError(
                f"config.json has stem_type {brief(stem_type)} and stem_width {brief(width)}, which is not supported."
            )
        first = 3 * (width // 4) if stem_type == "deep_tiered" else width
        fields |= {"stem": "deep", "stem_channels": (first, width, 2 * width)}
        if not stem_type:
            fields |= {"stem": "7x7", "stem_channels": (64,)}
    elif "width" in fields and not values.get("stem_channels"):
        fields["stem_channels"] = old_channels
    return fields


def _check_supported(key: str, value: Any) -> None:
    supported, feature = _SUPPORTED[key.removeprefix("model_args.")]
    if value is not None and value != supported:
        raise ConfigError(f"config.json has {key} {brief(value)} ({feature}), which is not supported.")


def _convert_timm_labels(names: Any, classes: Any, descriptions: Any) -> dict[int, str]:
    if isinstance(names, dict):
        if not _has_class_indices(names):
            raise ConfigError("config.json has label_names with keys that are no class indices; expected 0, 1, 2, ...")
        names = [names[key] for key in sorted(names, key=int)]
    if names is None and classes == 1000:  # timm and transformers assume ImageNet
        names = read_label_set("imagenet")
    if names is not None and not isinstance(names, list):
        raise ConfigError(f"config.json has label_names of type {type(names).__name__}; expected a list of texts.")
    if names and isinstance(descriptions, dict) and all(re.fullmatch(r"n\d{8}", str(name)) for name in names):
        names = [descriptions.get(name, name) for name in names]  # the names are WordNet ids
    return label_table(names, classes)


def _has_class_indices(table: Mapping[Any, Any]) -> bool:
    return all(str(key).isdecimal() and len(str(key)) < 7 for key in table)


def _convert_transformers(content: Mapping[str, Any], processor: Mapping[str, Any] | None) -> dict[str, Any]:
    block = content.get("layer_type", "bottleneck")
    sizes = content.get("hidden_sizes", [256, 512, 1024, 2048])
    if (activation := content.get("hidden_act", "relu")) != "relu":
        raise ConfigError(f"config.json has hidden_act {brief(activation)}; only relu is supported.")
    if (problem := content.get("problem_type")) not in (None, "single_label_classification"):
        raise ConfigError(f"config.json has problem_type {brief(problem)}; only one label per image is supported.")
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int for size in sizes):
        raise ConfigError(f"config.json has hidden_sizes {brief(sizes)}; expected the channels of each stage.")
    if block == "bottleneck":
        if any(size % 4 for size in sizes):
            raise ConfigError(f"config.json has hidden_sizes {brief(sizes)}; bottlenecks need multiples of 4.")
        sizes = [size // 4 for size in sizes]
    values = {
        "block": block,
        "depths": content.get("depths", [3, 4, 6, 3]),
        "width": sizes[0],
        "stage_widths": sizes,
        "stem_channels": [content.get("embedding_size", 64)],
        "stride_in_1x1": block == "bottleneck" and content.get("downsample_in_bottleneck", False),
        "halve_first_stage": content.get("downsample_in_first_stage", False),
        "in_channels": content.get("num_channels", 3),
    }
    values |= _convert_processor(processor or {"image_mean": ResNetConfig.mean, "image_std": ResNetConfig.std})
    match content.get("architectures"):
        case ["ResNetModel" | "ResNetBackbone", *_]:
            values["id2label"] = {}
        case _:
            values["id2label"] = _convert_transformers_labels(content.get("id2label"), content.get("num_labels", 2))
    return values


def _convert_transformers_labels(table: Any, count: Any) -> dict[int, str]:
    if table is None:
        return {index: f"LABEL_{index}" for index in label_table(None, count)}  # the default names in transformers
    if not isinstance(table, dict) or not _has_class_indices(table):
        raise ConfigError(f"config.json has id2label {brief(table)}; expected class indices with labels.")
    return {int(key): label for key, label in table.items()}


def _convert_processor(processor: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in a `preprocessor_config.json` of any image processor of transformers."""
    name = processor.get("image_processor_type", processor.get("feature_extractor_type", "ConvNextImageProcessor"))
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if processor.get(key, True) is not True:
            raise ConfigError(f"preprocessor_config.json has {key} {brief(processor[key])}; only true is supported.")
    factor = processor.get("rescale_factor", 1 / 255)
    if not isinstance(factor, int | float) or abs(factor * 255 - 1) > 1e-6:
        raise ConfigError(f"preprocessor_config.json has rescale_factor {brief(factor)}; only 1/255 is supported.")
    convnext = str(name).startswith("ConvNext")
    resample = processor.get("resample", 3 if convnext else 2)
    if type(resample) is not int or resample not in _INTERPOLATION:
        raise ConfigError(f"preprocessor_config.json has resample {brief(resample)}; only 0, 2 and 3 are supported.")
    return {
        "interpolation": _INTERPOLATION[resample],
        "mean": processor.get("image_mean", _HALF),
        "std": processor.get("image_std", _HALF),
        **_convert_size(processor, convnext, str(name)),
    }


def _convert_size(processor: Mapping[str, Any], convnext: bool, name: str) -> dict[str, Any]:
    """The fields of resizing and cropping."""
    squash = {"crop_pct": 1.0, "crop_mode": "squash"}
    size = processor.get("size", 224)
    crop = processor.get("crop_size", size) if processor.get("do_center_crop") else None
    match size, crop:
        case (int() as side, None) | ({"shortest_edge": int() as side}, None) if convnext:
            fraction = processor.get("crop_pct")
            crop_fields = {"crop_pct": 224 / 256 if fraction is None else fraction}
            return {"image_size": side} | (crop_fields if side < _SQUASHED_FROM else squash)
        case (int() as side, None):
            return {"image_size": side} | squash
        case ({"height": int() as side, "width": int() as width}, None) if width == side:
            return {"image_size": side} | squash
        case ({"shortest_edge": int() as short}, {"height": int() as side, "width": int() as width}) if width == side:
            return {"image_size": side, "crop_pct": _compute_crop_pct(side, short)}
        case ({"shortest_edge": int() as short}, int() as side):
            return {"image_size": side, "crop_pct": _compute_crop_pct(side, short)}
    raise ConfigError(
        f"preprocessor_config.json has size {brief(size)} and crop_size {brief(crop)}, which is not supported for "
        f"{brief(name)}."
    )


def _compute_crop_pct(side: int, short: int) -> float:
    """The `crop_pct` for which int(side / crop_pct) is `short`."""
    if not 0 < side <= short <= 10 * side:
        raise ConfigError(f"preprocessor_config.json crops {side} pixels of {short}; expected a tenth of them or more.")
    fraction = side / short
    return fraction if int(side / fraction) == short else side / (short + 1e-6)


LABEL_SETS = ("cifar10", "cifar100", "imagenet")


def read_label_set(name: str) -> list[str]:
    """Read the labels of one of `LABEL_SETS`, in the order of the dataset; those of ImageNet-1k as in timm."""
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8").splitlines()


def read_label_file(text: str) -> list[str]:
    """Read labels from a file with one label per line, or from a comma-separated list; raises `CheckpointError`."""
    path = Path(text).expanduser()
    try:
        if "," not in text or path.is_file():
            return [line.strip() for line in path.read_text("utf-8-sig").strip().splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CheckpointError(
            f"Cannot read labels from {text[:80]} ({reason}). Name a text file with one label per line, or list the "
            "labels: a,b,c."
        ) from None
    return [label.strip() for label in text.split(",")]
