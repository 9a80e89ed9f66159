"""Checkpoints of other libraries: each of their architectures, with random weights and statistics."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.models import _hub, _registry, save_for_hf
from torch import nn

from resnet_hub.checkpoints.load import check_weights, read_config
from resnet_hub.config import VARIANTS, ResNetConfig
from resnet_hub.convert.config_json import parse_config, read_label_set
from resnet_hub.convert.state_dict import convert_state_dict
from resnet_hub.errors import ConfigError
from resnet_hub.images.transforms import eval_transform
from resnet_hub.model import ResNet

# Every entry of timm's registry that is a residual network by its name, whatever module it comes from
TIMM = sorted(name for name in timm.list_models() if re.search("resne|^(legacy_)?senet", name))
OURS = [name for name in TIMM if name in VARIANTS]
POOL = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))


def filled(model: nn.Module) -> nn.Module:
    """Random weights and statistics at the speed of a copy, in a model that was made on the meta device."""
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for number, (name, tensor) in enumerate(model.state_dict().items()):
            if not tensor.is_floating_point():
                tensor.zero_()
                continue
            start = 7919 * number % (len(POOL) // 2)
            flat = tensor.view(-1)
            for offset in range(0, len(flat), len(POOL) // 2):
                values = flat[offset : offset + len(POOL) // 2]
                values.copy_(POOL[start : start + len(values)])
            if tensor.ndim > 1:
                tensor.mul_((2 / tensor[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                tensor.mul_(0.2).add_(1).abs_()
            else:
                tensor.mul_(0.2)
    return model


def batch(channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def same(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> bool:
    with torch.inference_mode():
        expected = theirs(images)
        expected = getattr(expected, "logits", expected)
        scale = expected.abs().max()
        assert scale.isfinite() and scale > 1e-3
        return torch.allclose(ours(images) / scale, expected / scale, rtol=0, atol=1e-5)


def photo(width: int = 301, height: int = 200) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def read(content: dict[str, Any], processor: dict[str, Any] | None = None) -> ResNetConfig:
    return parse_config(json.dumps(content), None if processor is None else json.dumps(processor))


# timm


@pytest.mark.parametrize("name", OURS)
def test_timm_resnets_open_with_equal_logits(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=3)
    theirs = filled(theirs)
    labels = ["daisy", "rose", "tulip"]
    if sum(parameter.numel() for parameter in theirs.parameters()) < 30e6:
        save_for_hf(theirs, tmp_path, model_config={"label_names": labels}, safe_serialization=True)
        ours = ResNet.from_pretrained(tmp_path)
    else:  # the same without gigabytes on the disk
        _hub.save_config_for_hf(theirs, tmp_path / "config.json", model_config={"label_names": labels})
        with torch.device("meta"):
            ours = ResNet(read_config(tmp_path)).eval()
        ours.load_state_dict(check_weights(ours.state_dict(), theirs.state_dict()), assign=True)
    assert (ours.config.architecture, ours.config.labels) == (name, labels)
    assert same(ours, theirs, batch())


def test_each_of_timms_resnets_opens_or_raises_with_the_unsupported_feature() -> None:
    unsupported: dict[str, list[str]] = {}
    for name in TIMM:
        if name not in OURS:
            with pytest.raises(
                ConfigError, match=f"^config.json has the architecture {name}, which is not supported: it has .*"
            ) as error:
                read({"architecture": name, "num_classes": 3})
            unsupported.setdefault(re.findall(r"it has (.*)\.", str(error.value))[0], []).append(name)
    print(f"\n{len(TIMM)} ResNets in timm {timm.__version__}: {len(OURS)} are supported, others have")  # noqa: T201
    for feature, names in sorted(unsupported.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):3}  {feature}: {', '.join(names)}")  # noqa: T201
    assert len(OURS) + sum(map(len, unsupported.values())) == len(TIMM)
    plain = {name for name in timm.list_models(module="resnet") if not _has_more(name)}
    assert plain == set(OURS)  # every network of supported parts is supported


def _has_more(name: str) -> bool:
    """Whether timm's network has parts besides those of a ResNet, by looking at it and not at its name."""
    with torch.device("meta"):
        model = timm.create_model(name)
    kinds = {type(part).__name__ for part in model.modules()}
    parts = {"ResNet", "BasicBlock", "Bottleneck", "Conv2d", "BatchNorm2d", "ReLU", "Identity", "MaxPool2d", "Linear"}
    parts |= {"Sequential", "SelectAdaptivePool2d", "AdaptiveAvgPool2d", "FastAdaptiveAvgPool", "Flatten"}
    pooled = {type(block.aa).__name__ for block in model.modules() if hasattr(block, "aa")} - {"Identity"}
    if any(isinstance(part, nn.AvgPool2d) for name, part in model.named_modules() if "downsample" in name):
        parts |= {"AvgPool2d"}  # shortcut D
    return bool(kinds - parts or pooled or {"BasicBlock", "Bottleneck"} <= kinds)


def test_other_networks_of_timm_are_not_known() -> None:
    others = [name for name in timm.list_models() if name not in OURS]
    for name in others:
        with pytest.raises(ConfigError, match=r"^config.json has the architecture "):
            read({"architecture": name})


def test_old_names_of_timm_open() -> None:
    names = {old: new for old, new in _registry._deprecated_models.items() if not old.startswith("ig_")}
    opened = {}
    for old, new in names.items():
        if new.partition(".")[0] in OURS:
            opened[old] = read({"architecture": old, "num_classes": 2})
            assert opened[old].architecture == new.partition(".")[0], old
    assert len(opened) == 34
    assert read({"architecture": "ig_resnext101_32x16d"}).architecture == "resnext101_32x16d"


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 0), (4, 3)])
def test_channels_and_classes_as_timm_saves_them(channels: int, classes: int, tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = timm.create_model("resnet10t", in_chans=channels, num_classes=classes)
    save_for_hf(theirs := filled(theirs), tmp_path, safe_serialization=True)
    ours = ResNet.from_pretrained(tmp_path)
    assert (ours.config.in_channels, ours.config.num_classes) == (channels, classes)
    assert ours.config.image_size == 176
    assert same(ours, theirs, batch(channels))
    if channels == 1:
        assert ours.config.mean == pytest.approx((0.449,))


ARGUMENTS = [
    {"layers": [1, 2, 1, 1]},
    {"stem_type": "deep", "stem_width": 16},
    {"stem_type": "deep_tiered", "stem_width": 24, "avg_down": True},
    {"channels": [32, 64, 96, 100]},
    {"channels": [32, 64, 128, 256], "stem_type": "deep", "stem_width": 32},
    {"drop_rate": 0.3, "drop_path_rate": 0.1, "global_pool": "avg", "output_stride": 32},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "resnet26d"])
def test_model_args_are_understood(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=2, **arguments)
    save_for_hf(theirs := filled(theirs), tmp_path, model_args=arguments, safe_serialization=True)
    assert same(ResNet.from_pretrained(tmp_path), theirs, batch())


def test_cardinality_of_timm_is_understood(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = timm.create_model("resnet26", num_classes=2, cardinality=8, base_width=16)
    save_for_hf(theirs := filled(theirs), tmp_path, safe_serialization=True)
    ours = ResNet.from_pretrained(tmp_path)
    assert (ours.config.groups, ours.config.group_width) == (8, 16)
    assert same(ours, theirs, batch())


PREPROCESSING = [
    {"architecture": "resnet18"},
    {"architecture": "resnet18.a1_in1k", "num_classes": 5},
    {"architecture": "resnet18", "pretrained_cfg": {"interpolation": "bilinear", "crop_pct": 0.95}},
    {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 176, 176], "test_input_size": [3, 224, 224]}},
    {"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 0.9, "test_crop_pct": 1.0, "mean": [0.5, 0.4, 0.3]}},
    {"architecture": "resnet18", "pretrained_cfg": {"crop_mode": "squash", "std": [0.5, 0.4, 0.3]}},
    {"architecture": "resnet18", "pretrained_cfg": {"interpolation": "nearest", "mean": None}},
    {"architecture": "resnet18", "crop_pct": 0.8, "mean": [0.1, 0.1, 0.1], "labels": ["a", "b"], "num_classes": 2},
]


@pytest.mark.parametrize("content", PREPROCESSING)
def test_pixels_are_timms_to_the_bit(content: dict[str, Any]) -> None:
    """A missing value means what it means in timm, a tag nothing, and the test size is left out as timm does."""
    config = read(content)
    theirs, _, _ = _hub._parse_model_cfg(json.loads(json.dumps(content)), {})
    if content["architecture"] == "resnet18.a1_in1k":
        assert config.architecture == "resnet18"
    defaults = timm.models.PretrainedCfg(**theirs)
    assert config.num_classes == defaults.num_classes
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=defaults.to_dict()))
    assert torch.equal(eval_transform(config)(photo()), transform(photo()))


def test_labels_of_timm() -> None:
    info = timm.data.ImageNetInfo("imagenet-1k")
    described = info.label_descriptions(as_dict=True)
    imagenet = read_label_set("imagenet")
    assert imagenet == [described[name] for name in info.label_names()]
    assert read({"architecture": "resnet50.a1_in1k", "num_classes": 1000}).labels == imagenet
    ids = {"architecture": "resnet18", "num_classes": 2, "label_names": ["n01440764", "n01443537"]}
    assert read(ids).labels == ids["label_names"]
    assert read(ids | {"label_descriptions": described}).labels == imagenet[:2]
    assert read({"architecture": "resnet18", "label_names": {"1": "b", "0": "a", "10": "c"}}).labels == ["a", "b", "c"]
    inside = {"architecture": "resnet18", "pretrained_cfg": {"label_names": ["a", "b"], "num_classes": 2}}
    assert read(inside).labels == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"architecture": "seresnet50.a1_in1k"},
            "architecture seresnet50, which is not supported: it has squeeze-ex",
        ),
        ({"global_pool": "max"}, "has global_pool 'max' (another global pool), which is not supported."),
        ({"model_args": {"global_pool": "catavgmax"}}, "has model_args.global_pool 'catavgmax'"),
        (
            {"model_args": {"aa_layer": "blurpool"}},
            "model_args.aa_layer 'blurpool' (anti-aliasing), which is not",
        ),
        ({"model_args": {"block_args": {"attn_layer": "se"}}}, "has model_args.block_args {'attn_layer': 'se'}"),
        (
            {"model_args": {"output_stride": 8}},
            "model_args.output_stride 8 (dilated convolutions), which is",
        ),
        ({"model_args": {"pruned": True}}, "has model_args.'pruned', which is not supported."),
        ({"model_args": {"stem_type": "quad"}}, "has stem_type 'quad' and stem_width"),
        (
            {"model_args": {"stem_type": "deep", "stem_width": 10**9}},
            "and stem_width 1000000000, which is not",
        ),
        ({"model_args": []}, "has model_args of type list; expected an object."),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode is 'border'; choose one of center, squash."),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation is 'lanczos'; choose one of"),
        ({"pretrained_cfg": {"input_size": [3, 224, 256]}}, "has input_size [3, 224, 256]; expected [channels"),
        ({"label_names": {"a": "b"}}, "has label_names with keys that are no class indices"),
        ({"label_names": "ab"}, "has label_names of type str; expected a list of texts."),
        ({"model_type": "vit"}, "has model_type 'vit'; only ResNets are supported."),
    ],
)
def test_an_unsupported_value_of_timm_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        read({"architecture": "resnet18", "num_classes": 2} | changes)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


# torchvision

TORCHVISION = [name for name in torchvision.models.list_models(module=torchvision.models) if "resne" in name]


def test_all_builders_of_torchvision_are_among_ours() -> None:
    print(f"\n{len(TORCHVISION)} ResNet builders in torchvision, all open: {', '.join(TORCHVISION)}")  # noqa: T201
    assert len(TORCHVISION) == 10 and set(TORCHVISION) <= set(VARIANTS)


@pytest.mark.parametrize("name", TORCHVISION)
def test_each_builder_of_torchvision_opens_with_equal_logits(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=3)
    config, weights, _ = convert_state_dict(filled(theirs).state_dict(), name)
    assert config == ResNetConfig.from_name(name, num_classes=3)
    with torch.device("meta"):
        ours = ResNet(config).eval()
    ours.load_state_dict(weights, assign=True)
    assert same(ours, theirs, batch())


# transformers

FIVE = {  # microsoft/resnet-18 .. -152
    18: {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    34: {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    50: {"layer_type": "bottleneck", "depths": [3, 4, 6, 3]},
    101: {"layer_type": "bottleneck", "depths": [3, 4, 23, 3]},
    152: {"layer_type": "bottleneck", "depths": [3, 8, 36, 3]},
}
SMALL = {"depths": [1, 2], "hidden_sizes": [16, 32], "embedding_size": 8}
OTHERS = [
    SMALL | {"layer_type": "basic"},
    SMALL | {"layer_type": "bottleneck", "downsample_in_bottleneck": True},
    SMALL | {"layer_type": "bottleneck", "downsample_in_first_stage": True, "embedding_size": 64},
    SMALL | {"layer_type": "basic", "downsample_in_first_stage": True, "embedding_size": 16, "num_channels": 1},
    SMALL | {"layer_type": "basic", "depths": [1, 1, 1], "hidden_sizes": [12, 20, 30]},
    SMALL | {"layer_type": "bottleneck", "depths": [1, 1, 1], "hidden_sizes": [16, 40, 60]},
]
LABELS = {0: "tench, Tinca tinca", 1: "hound", 2: "owl"}
CONVNEXT = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": [0.485, 0.456, 0.406]}
PIXELS = [
    ("ConvNextImageProcessorPil", CONVNEXT),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_pct": 0.8, "resample": 2}),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    ("ViTImageProcessorPil", {"size": {"height": 224, "width": 224}}),
    ("BitImageProcessorPil", {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}}),
]


def saved(changes: dict[str, Any], folder: Path, **how: Any) -> nn.Module:
    from transformers import ResNetConfig as TheirConfig
    from transformers import ResNetForImageClassification

    label2id = {label: index for index, label in LABELS.items()}
    with torch.device("meta"):
        theirs = ResNetForImageClassification(TheirConfig(**changes, id2label=LABELS, label2id=label2id))
    theirs = filled(theirs)
    theirs.save_pretrained(folder, **how)
    return theirs


@pytest.mark.parametrize("depth", FIVE)
def test_transformers_resnets_of_all_five_depths_open_with_equal_logits_labels_and_pixels(
    depth: int, tmp_path: Path
) -> None:
    from transformers import ConvNextImageProcessor, ConvNextImageProcessorPil

    theirs = saved(FIVE[depth], tmp_path)
    ConvNextImageProcessor(**CONVNEXT).save_pretrained(tmp_path)
    ours = ResNet.from_pretrained(tmp_path)
    assert (ours.config.architecture, ours.config.id2label) == (f"resnet{depth}", LABELS)
    assert (ours.config.image_size, ours.config.resize_size, ours.config.interpolation) == (224, 256, "bicubic")
    assert same(ours, theirs, batch())
    pixels = ConvNextImageProcessorPil.from_pretrained(tmp_path)(photo(), return_tensors="pt")["pixel_values"][0]
    difference = (eval_transform(ours.config)(photo()) - pixels).abs() * torch.tensor(ours.config.std).view(3, 1, 1)
    assert difference.max() < 0.01 / 255


@pytest.mark.parametrize("changes", OTHERS)
def test_other_resnets_of_transformers_open(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = saved(changes, tmp_path)
    if changes.get("num_channels") == 1:
        gray = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5], "image_std": [0.5], "size": 32}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(gray))
    ours = ResNet.from_pretrained(tmp_path)
    assert same(ours, theirs, batch(ours.config.in_channels))
    again = ResNet.from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    assert again.config == ours.config
    assert same(again, theirs, batch(ours.config.in_channels))


def test_the_body_alone_opens_without_a_head(tmp_path: Path) -> None:
    theirs = saved(OTHERS[0], tmp_path / "whole").resnet
    theirs.save_pretrained(tmp_path)
    ours = ResNet.from_pretrained(tmp_path)
    assert ours.config.num_classes == 0
    with torch.inference_mode():
        assert torch.allclose(ours(batch()), theirs(batch()).pooler_output.flatten(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), PIXELS)
def test_pixels_of_transformers_processors(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    processor = getattr(transformers, name)(**options)
    processor.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config = read({"model_type": "resnet", "id2label": {"0": "a"}}, content)
    theirs = processor(photo(), return_tensors="pt")["pixel_values"][0]
    ours = eval_transform(config)(photo())
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs() * torch.tensor(config.std).view(3, 1, 1)).max() <= 1.01 / 255


def test_a_processor_of_old_is_read() -> None:
    """As it lies in microsoft/resnet-50."""
    old = {
        "feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
    }  # fmt: skip
    config = read({"model_type": "resnet", "num_labels": 2}, old)
    assert (config.image_size, config.resize_size, config.crop_mode) == (224, 256, "center")
    assert config.labels == ["LABEL_0", "LABEL_1"]
    assert read({"model_type": "resnet"}, old | {"crop_pct": None}).resize_size == 256
    assert read({"model_type": "resnet"}, old | {"size": 384}).crop_mode == "squash"


def test_timm_networks_saved_by_transformers_open(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    with torch.device("meta"):
        ours = ResNet(ResNetConfig.from_name("resnet10t", id2label=LABELS, image_size=64, crop_pct=0.9))
    ours = filled(ours)
    folder = ours.save_pretrained(tmp_path / "ours")
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    again = ResNet.from_pretrained(tmp_path / "theirs")
    assert again.config == ours.config
    assert same(again, ours, batch())


@pytest.mark.parametrize(
    ("changes", "processor", "sentence"),
    [
        ({"hidden_act": "gelu"}, None, "config.json has hidden_act 'gelu'; only relu is supported."),
        ({"problem_type": "regression"}, None, "config.json has problem_type 'regression'; only one label"),
        ({"hidden_sizes": [10, 20, 30, 42]}, None, "config.json has hidden_sizes [10, 20, 30, 42]; bottlenecks"),
        ({"hidden_sizes": "x"}, None, "config.json has hidden_sizes 'x'; expected"),
        ({"layer_type": "dense"}, None, "block is 'dense'; choose one of basic, bottleneck."),
        ({"depths": [1]}, None, "stage_widths is (64, 128, 256, 512); expected 1 of them, or none."),
        ({"id2label": {"a": "b"}}, None, "config.json has id2label {'a': 'b'}; expected class indices"),
        ({"id2label": {"1": "b"}}, None, "id2label is {1: 'b'}; expected the class indices"),
        ({}, {"do_normalize": False}, "preprocessor_config.json has do_normalize False; only true is supported."),
        ({}, {"rescale_factor": 1}, "preprocessor_config.json has rescale_factor 1; only 1/255 is supported."),
        ({}, {"resample": 1}, "preprocessor_config.json has resample 1; only 0, 2 and 3 are supported."),
        ({}, {"size": {"longest_edge": 9}}, "preprocessor_config.json has size {'longest_edge': 9} and crop_size None"),
        ({}, {"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": 99}, "preprocessor_config.json crops"),
        ({}, {"size": {"shortest_edge": 10**30}}, "image_size is 1000000000000000000000000000000"),
        ({}, [], "preprocessor_config.json holds a list; expected an object."),
    ],
)
def test_an_unsupported_value_of_transformers_is_named(changes: dict[str, Any], processor: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(sentence)):
        read({"model_type": "resnet", "id2label": {"0": "a"}} | changes, processor)


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("numbers", [[0.5], [0.5, 0.4], [0.1] * 4])
def test_statistics_of_other_channels_are_refused(key: str, numbers: list[float]) -> None:
    for content in (
        {"architecture": "resnet18", "pretrained_cfg": {key: numbers}},
        {"architecture": "resnet18", "in_chans": 3, key: numbers},
    ):
        with pytest.raises(ConfigError, match=f"{key} is "):
            parse_config(json.dumps(content))
