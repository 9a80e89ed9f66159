"""The table of variants against the paper and torchvision, and what becomes of a hostile `config.json`."""

import json
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torchvision
from helpers.fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from resnet_hub.config import CUSTOM, SCHEMA, VARIANTS, Reliability, ResNetConfig, label_table
from resnet_hub.convert.config_json import parse_config
from resnet_hub.errors import ConfigError
from resnet_hub.model import ResNet

TORCHVISION = [name for name in VARIANTS if name in torchvision.models.list_models()]
# Table 6 of the paper, in millions
CIFAR = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7, "resnet1202": 19.4}


def refused(sentence: str, **changes: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ResNetConfig(**changes)
    assert str(caught.value) == sentence


def refused_json(sentence: str, content: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(content))
    assert str(caught.value) == sentence


# The table


def test_the_table_holds_torchvisions_resnets_and_the_papers_cifar_nets() -> None:
    assert len(TORCHVISION) == 10
    assert set(VARIANTS) - set(timm.list_models(module="resnet")) == set(CIFAR)


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_nets_have_the_papers_depth_and_parameters(name: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=10)
    assert sum(2 * depth for depth in config.depths) + 2 == int(name.removeprefix("resnet"))
    assert round(config.num_parameters / 1e6, 1 if config.num_parameters > 1e6 else 2) == CIFAR[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_parameters_are_those_of_the_module(name: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=1000)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ResNet(config).parameters())
        if name in TORCHVISION:
            reference = torchvision.models.get_model(name, weights=None)
            assert count == sum(parameter.numel() for parameter in reference.parameters())
    assert config.num_parameters == count


@pytest.mark.parametrize(
    "changes",
    [
        {"depths": (2, 2, 2, 2)},
        {"depths": (3, 4, 6, 3), "block": "bottleneck"},
        {"depths": (3, 4, 6, 3), "block": "bottleneck", "stride_in_1x1": True, "shortcut": "A"},
        {"depths": (3, 4, 6, 3), "block": "bottleneck", "groups": 32, "group_width": 4},
        {"depths": (3, 3, 3), "stem": "3x3", "width": 16, "shortcut": "C", "image_size": 33},
        {"depths": (2, 1, 2), "stem": "deep", "shortcut": "D", "halve_first_stage": True},
        {"depths": (1, 2), "block": "bottleneck", "stem": "deep", "stem_channels": (8, 16, 24), "shortcut": "D"},
        {"depths": (1, 2, 1), "stage_widths": (64, 96, 80), "stem_channels": (24,)},
        {"depths": (1, 2), "width": 24, "shortcut": "none", "in_channels": 1, "mean": (0.5,), "std": (0.5,)},
    ],
)
def test_multiply_adds_are_half_the_operations_that_pytorch_counts(changes: dict[str, Any]) -> None:
    config = ResNetConfig(**{"image_size": 95} | changes, id2label=label_table(None, 7))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet(config).eval()(torch.empty(1, config.in_channels, config.image_size, config.image_size))
    assert counter.get_total_flops() == 2 * config.multiply_adds


def test_multiply_adds_are_table_1s() -> None:
    plain = ResNetConfig.from_name("resnet34", shortcut="none", num_classes=1000)
    assert plain.multiply_adds / 1e9 == pytest.approx(3.6, abs=0.1)
    deep = ResNetConfig.from_name("resnet152", num_classes=1000, stride_in_1x1=True)
    assert deep.multiply_adds / 1e9 == pytest.approx(11.3, abs=0.1)


def test_resnet50_in_numbers() -> None:
    config = ResNetConfig.from_name("resnet50", num_classes=1000)
    assert config.stage_channels == (256, 512, 1024, 2048)
    assert (config.num_features, config.num_parameters, config.resize_size) == (2048, 25_557_032, 256)


# Names and labels


@pytest.mark.parametrize("name", VARIANTS)
def test_a_row_knows_its_name_whatever_its_labels_and_input(name: str) -> None:
    changes = {"image_size": 96, "in_channels": 1, "mean": (0.5,), "std": (0.2,)}
    assert ResNetConfig.from_name(name, num_classes=3, **changes).architecture == name


def test_other_structures_are_custom() -> None:
    assert ResNetConfig(depths=(1, 1), width=8).architecture == CUSTOM
    assert ResNetConfig.from_name("resnet20", shortcut="B").architecture == CUSTOM
    assert ResNetConfig.from_name("resnet50", stride_in_1x1=True).architecture == CUSTOM


def test_fields_that_follow_from_the_width_change_nothing() -> None:
    deep = ResNetConfig(stem="deep", stem_channels=(32, 32, 64), stage_widths=(64, 128, 256, 512))
    assert deep == ResNetConfig(stem="deep")
    assert replace(deep, width=32).stage_planes == (32, 64, 128, 256)
    assert replace(deep, width=32).stem_outputs == (16, 16, 32)


def test_a_network_that_got_its_name_since_still_opens() -> None:
    content = ResNetConfig.from_name("resnet26d").to_dict() | {"architecture": CUSTOM}
    assert ResNetConfig.from_dict(content).architecture == "resnet26d"


def test_fields_of_older_readers_are_written() -> None:
    for name in ("resnet18", "resnet50", "wide_resnet50_2", "resnet20"):
        assert ResNetConfig.from_name(name).to_dict()["resnet_hub"]["schema"] == 1
    for changes in ({"depths": (1, 1), "width": 8}, {"shortcut": "C"}, {"stride_in_1x1": True, "block": "bottleneck"}):
        assert ResNetConfig(**changes).schema == 1
    for name in ("resnet26", "resnet26d", "resnet50c", "resnet10t", "resnext101_32x16d"):  # refused there by name
        assert ResNetConfig.from_name(name).schema == SCHEMA
    for changes in (
        {"stage_widths": (64, 64, 64, 64)},
        {"stem_channels": (32,)},
        {"halve_first_stage": True},
        {"stem": "deep"},
        {"shortcut": "D"},
        {"crop_mode": "squash"},
    ):
        assert ResNetConfig(**changes).schema == SCHEMA


def test_labels_come_as_a_number_a_list_or_a_mapping() -> None:
    assert ResNetConfig.from_name("resnet18").num_classes == 0
    assert ResNetConfig.from_name("resnet18", num_classes=2).labels == ["class 0", "class 1"]
    assert ResNetConfig.from_name("resnet18", num_classes=2, id2label=["a", "b"]).id2label == {0: "a", 1: "b"}
    assert list(ResNetConfig(id2label={1: "b", 0: "a"}).id2label.items()) == [(0, "a"), (1, "b")]


def test_labels_and_their_number_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"^num_classes is 3, but there are 2 labels\.$"):
        ResNetConfig.from_name("resnet18", num_classes=3, id2label={0: "a", 1: "b"})


def test_an_unknown_name_or_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"^Unknown architecture 'resnet19'; choose one of resnet18, resnet34, .*\.$"):
        ResNetConfig.from_name("resnet19")
    with pytest.raises(ConfigError, match=r"^ResNetConfig has no field 'classes'; it has id2label, block, .*\.$"):
        ResNetConfig.from_name("resnet18", classes=3)


# Values that describe no network


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"block": "dense"}, "block is 'dense'; choose one of basic, bottleneck."),
        ({"stem": 7}, "stem is 7; choose one of 7x7, 3x3, deep."),
        ({"shortcut": "a"}, "shortcut is 'a'; choose one of A, B, C, D, none."),
        ({"interpolation": None}, "interpolation is None; choose one of bilinear, bicubic, nearest."),
        ({"depths": ()}, "depths is (); expected one to four stages."),
        ({"depths": (1,) * 5}, "depths is (1, 1, 1, 1, 1); expected one to four stages."),
        ({"depths": (1, 0)}, "depths is (1, 0); expected 1 to 1000 blocks a stage."),
        ({"depths": (1001,)}, "depths is (1001,); expected 1 to 1000 blocks a stage."),
        ({"depths": 18}, "depths is 18; expected tuple."),
        ({"depths": (2.0,)}, "depths is 2.0; expected int."),
        ({"depths": (True,)}, "depths is True; expected int."),
        ({"width": 0}, "width is 0; expected a number from 1 to 4096."),
        ({"width": "64"}, "width is '64'; expected int."),
        ({"stage_widths": (64, 128)}, "stage_widths is (64, 128); expected 4 of them, or none."),
        ({"stage_widths": (32, 64, 64, 64)}, "stage_widths is (32, 64, 64, 64); expected the width 64 first."),
        ({"stage_widths": (64, 64, 64, 0)}, "stage_widths is (64, 64, 64, 0); expected numbers from 1 to 4096."),
        ({"stem_channels": (8, 8, 8)}, "stem_channels is (8, 8, 8); expected 1 of them, or none."),
        ({"stem": "deep", "stem_channels": (8,)}, "stem_channels is (8,); expected 3 of them, or none."),
        ({"stem": "deep", "width": 1}, "width is 1; expected at least 2 with a deep stem."),
        ({"groups": -1, "block": "bottleneck"}, "groups is -1; expected a number from 1 to 4096."),
        ({"group_width": 5000, "block": "bottleneck"}, "group_width is 5000; expected a number from 1 to 4096."),
        ({"in_channels": 65}, "in_channels is 65; expected a number from 1 to 64."),
        ({"groups": 32}, "groups is 32; expected 1 in a basic block."),
        ({"group_width": 128}, "group_width is 128; expected 64 in a basic block."),
        ({"stride_in_1x1": True}, "stride_in_1x1 is True; expected False in a basic block."),
        ({"stride_in_1x1": 1, "block": "bottleneck"}, "stride_in_1x1 is 1; expected bool."),
        (
            {"group_width": 4, "width": 8, "block": "bottleneck"},
            "group_width is 4; expected at least one channel at width 8.",
        ),
        ({"image_size": 0}, "image_size is 0; expected 1 to 2048 pixels."),
        ({"image_size": 4096}, "image_size is 4096; expected 1 to 2048 pixels."),
        ({"crop_pct": 0}, "crop_pct is 0.0; expected a fraction from 0.1 to 1."),
        ({"crop_pct": 1.5}, "crop_pct is 1.5; expected a fraction from 0.1 to 1."),
        ({"crop_pct": float("nan")}, "crop_pct is nan; expected a fraction from 0.1 to 1."),
        ({"crop_pct": 10**400}, "crop_pct is 100000000000000000...0000000000000000000; expected float."),
        ({"mean": (0.5, 0.5)}, "mean is (0.5, 0.5); expected one value for each of 3 channels."),
        ({"in_channels": 1}, "mean is (0.485, 0.456, 0.406); expected one value for each of 1 channels."),
        ({"mean": (0, 0, float("inf"))}, "mean is (0.0, 0.0, inf); expected finite values, std above 0."),
        ({"std": (1, 1, 0)}, "std is (1.0, 1.0, 0.0); expected finite values, std above 0."),
        ({"std": (1, 1, "1")}, "std is '1'; expected float."),
        ({"id2label": {1: "a"}}, "id2label is {1: 'a'}; expected the class indices 0, 1, 2, ... as keys."),
        ({"id2label": {"0": "a"}}, "id2label is '0'; expected int."),
        ({"id2label": {0: 1}}, "id2label is 1; expected str."),
        ({"id2label": ["a"]}, "id2label is ['a']; expected dict."),
        ({"id2label": {0: " "}}, "The label ' ' is empty, unprintable or over 1000 characters."),
        ({"id2label": {0: "a\nb"}}, "The label 'a\\nb' is empty, unprintable or over 1000 characters."),
        ({"id2label": {0: "a" * 1001}}, f"The label '{'a' * 40}' is empty, unprintable or over 1000 characters."),
        (
            {"depths": (1000,) * 4, "width": 4096},
            "The network has 25,663,749,820,416 parameters; the limit is 1,000,000,000.",
        ),
    ],
)
def test_each_wrong_value_has_its_sentence(changes: dict[str, Any], sentence: str) -> None:
    refused(sentence, **changes)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"; expected at most 100000 labels\.$"):
        ResNetConfig(id2label=dict.fromkeys(range(100_001), "a"))
    with pytest.raises(ConfigError, match=r"^num_classes is -1; expected a number from 0 to 100000\.$"):
        label_table(None, -1)


# config.json


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_survives_json(name: str, classes: int) -> None:
    config = ResNetConfig.from_name(name, num_classes=classes)
    assert ResNetConfig.from_json(config.to_json()) == config
    assert ResNetConfig.from_json(config.to_json().encode()) == config


def test_every_field_survives_json() -> None:
    config = ResNetConfig(
        id2label={0: "雏菊", 1: 'a "b"'},
        block="bottleneck",
        depths=(1, 2, 1),
        width=32,
        groups=2,
        group_width=32,
        stage_widths=(32, 48, 96),
        stem="deep",
        stem_channels=(8, 16, 24),
        shortcut="D",
        stride_in_1x1=True,
        halve_first_stage=True,
        in_channels=1,
        image_size=48,
        crop_pct=0.9,
        crop_mode="squash",
        interpolation="bicubic",
        mean=(0.1,),
        std=(0.3,),
        reliability=Reliability(threshold=0.6, subspace="AAAA" * 256, most_distance=1.5),
    )
    default = ResNetConfig()
    assert all(getattr(config, key) != getattr(default, key) for key in vars(config))
    assert ResNetConfig.from_json(config.to_json()) == config
    assert "雏菊" in config.to_json()


def test_timms_minimum_is_read() -> None:
    config = parse_config('{"architecture": "resnet50", "num_classes": 2}')
    assert config == ResNetConfig.from_name("resnet50", num_classes=2, interpolation="bicubic")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "config.json holds a list; expected an object."),
        (
            {},
            "config.json has the architecture None, which is not supported. Choose one of "
            "`resnet_hub.config.VARIANTS`: resnet10t to resnet1202, resnext* or wide_resnet*.",
        ),
        (
            {"architecture": ["a"]},
            "config.json has the architecture ['a'], which is not supported. Choose one of "
            "`resnet_hub.config.VARIANTS`: resnet10t to resnet1202, resnext* or wide_resnet*.",
        ),
        ({"resnet_hub": 1}, "config.json has resnet_hub of type int; expected an object."),
        ({"resnet_hub": {"schema": 3}}, "config.json has schema 3, this version reads 2; update resnet_hub."),
        (
            {"architecture": "resnet18", "pretrained_cfg": []},
            "config.json has pretrained_cfg of type list; expected an object.",
        ),
        (
            {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 256]}},
            "config.json has input_size [3, 224, 256]; expected [channels, side, side].",
        ),
        (
            {"architecture": "resnet18", "pretrained_cfg": {"crop_mode": "border"}},
            "crop_mode is 'border'; choose one of center, squash.",
        ),
        (
            {"resnet_hub": {"schema": 1}, "label_names": {"0": "a"}},
            "config.json has label_names of type dict; expected a list of texts.",
        ),
        (
            {"architecture": "resnet18", "num_classes": 3, "label_names": ["a", "b"]},
            "num_classes is 3, but there are 2 labels.",
        ),
        (
            {"architecture": "resnet50", "resnet_hub": {"schema": 1, "depths": [2, 2, 2, 2]}},
            "config.json names the architecture 'resnet50', but describes resnet18.",
        ),
        ({"architecture": "resnet18", "num_classes": True}, "num_classes is True; expected a number from 0 to 100000."),
    ],
)
def test_each_wrong_file_has_its_sentence(content: Any, sentence: str) -> None:
    refused_json(sentence, content)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\xfa",
        b"\x80",
        "{",
        "null",
        "[" * 100_000,
        '{"architecture": "resnet18", "num_classes": 1' + "0" * 5000 + "}",
        '{"architecture": "resnet18", "num_classes": 1e999}',
        '{"architecture": "resnet18", "pretrained_cfg": {"mean": [NaN, 0, 0]}}',
        '{"architecture": "resnet18", "pretrained_cfg": {"crop_pct": 1' + "0" * 400 + "}}",
        '{"architecture": "resnet18", "label_names": ["\\ud800"]}',
        '{"architecture": "' + "x" * 10_000_000 + '"}',
        '{"resnet_hub": {"schema": 1, "depths": [' + "1," * 1_000_000 + "1]}}",
        '{"resnet_hub": {"schema": 1, "depths": [1000, 1000, 1000, 1000], "width": 4096}}',
        '{"resnet_hub": {"schema": 1, "depths": [1], "width": 1' + "0" * 4000 + "}}",
        " " * (16 * 2**20 + 1),
    ],
    ids=range(16),
)
def test_a_hostile_file_is_refused_at_once_in_a_short_sentence(text: str | bytes) -> None:
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ConfigError) as caught:
            parse_config(text)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.process_time() - start < 5
    assert peak < 200 * 2**20
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(list(VARIANTS)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=10,
)
OURS = st.fixed_dictionaries(
    {},
    optional={key: VALUES | st.integers(0, 99) for key in ResNetConfig.__dataclass_fields__} | {"schema": st.just(1)},
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "architecture": VALUES | st.sampled_from(list(VARIANTS)),
        "num_classes": VALUES | st.integers(0, 5),
        "label_names": VALUES | st.lists(st.text(max_size=5), max_size=5),
        "pretrained_cfg": VALUES | st.fixed_dictionaries({}, optional={"input_size": VALUES, "mean": VALUES}) | OURS,
        "resnet_hub": VALUES | OURS,
    },
)


@cases(200)
@given(FILES | VALUES)
def test_any_json_is_a_config_that_survives_or_a_config_error(content: Any) -> None:
    try:
        config = parse_config(json.dumps(content))
    except ConfigError:
        return
    assert ResNetConfig.from_json(config.to_json()) == config


@cases(100)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_config(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(data)


def test_the_config_alone_imports_no_torch() -> None:
    program = "import resnet_hub.config, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_network_whose_maps_fit_into_no_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="values for one image"):
        ResNetConfig(depths=(1,), width=256, stem="3x3", image_size=2048)
    assert ResNetConfig.from_name("resnext101_64x4d").peak_numbers < 2**24
